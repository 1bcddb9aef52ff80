"""The comparison of an experiment's runs in W&B, built from the keys that its runs have.

The same runs give the same workspace; building it again replaces the one that is there.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.expr import Config, groupby_str_to_key
from wandb_workspaces.workspaces.internal import execute_graphql

from common import PROJECT
from common.errors import Exit, UserError, exit_on_user_error
from common.metrics.kinds import class_of
from common.metrics.memorization import COARSELY, REPEATING
from common.metrics.names import LEAKAGE
from common.metrics.protocol import Record
from common.report.configs import differing_keys
from common.report.runs import Run, find_runs
from common.runs.metrics_csv import CLOCK_METRICS
from common.tracking.account import answered, asked, default_entity, require_account
from common.tracking.names import (
    PREVIEW,
    RECORDS,
    SAMPLES,
    X_AXIS,
    evaluation_key,
    evaluation_scalars,
    metric_name,
)

# How W&B calls a saved view; it is this project's own, so there is one of it.
_VIEW = "nw-comparison-v"
_FIND_VIEW = """
    query View($entityName: String, $name: String, $viewName: String) {
        project(name: $name, entityName: $entityName) {
            allViews(viewType: "project-view", viewName: $viewName) { edges { node { id } } }
        }
    }
"""
# Logged by every experiment, also by one that has not run yet.
_USUAL = ("train/loss", "val/loss", *CLOCK_METRICS)
_MEASURED = ("Fidelity", "Biology", "Memorisation", "Utility")
# What happens in time is biology, too.
_BIOLOGICAL = (
    *("measurable_share", "wasserstein", "kolmogorov_smirnov"),
    *("order_accuracy", "order_accuracy_real", "continuation"),
)
# Each of settings and of measured numbers: more would push the curves out of sight.
_MOST_COLUMNS = 8


def build(
    entity: str, experiment: str, runs: Sequence[Run], group_by: Sequence[str] = ()
) -> ws.Workspace:
    """The workspace, not saved yet; needs no account.

    Args:
        entity: user or team.
        experiment: project.
        runs: of the experiment; none gives the usual curves.
        group_by: settings (``model.init_args.width``) whose runs become one line.

    Raises:
        UserError: no run has such a setting.
    """
    known = set().union(*(run.config or {} for run in runs))
    for key in group_by:
        if runs and key not in known:
            problem = "is no setting of these runs"
            remedy = "name one as in config.yaml, such as model.init_args.lr"
            raise UserError(Exit.USAGE, f"--group-by {key}", problem, remedy)
    workspace = ws.Workspace(
        entity=entity,
        project=experiment,
        name=f"Comparison of {experiment}",
        sections=_sections(runs),
        settings=ws.WorkspaceSettings(x_axis=X_AXIS),
        runset_settings=ws.RunsetSettings(
            pinned_columns=_columns(runs), groupby=[Config(key) for key in group_by]
        ),
    )
    for at, section in enumerate(workspace.sections):
        for number, panel in enumerate(section.panels):
            # Else drawn by chance.
            panel._id = f"panel{at:02d}{number:03d}"
    return workspace


def specification(workspace: ws.Workspace) -> str:
    """What W&B is sent, as JSON."""
    return workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)


def save(workspace: ws.Workspace) -> str:
    """Writes it to W&B, in place of an earlier one; its address.

    Raises:
        UserError: W&B has no such project yet.
    """
    project = workspace.project
    names = {"entityName": workspace.entity, "name": project, "viewName": _VIEW}
    found = execute_graphql(asked(), _FIND_VIEW, names).get("project")
    if found is None:
        problem = f"W&B has no project of this name with {workspace.entity}"
        remedy = f"send it a run first: make sync EXP={project}, or train one online"
        raise UserError(Exit.USAGE, project, problem, remedy)
    workspace._internal_name = _VIEW
    workspace._internal_id = next((edge["node"]["id"] for edge in found["allViews"]["edges"]), "")
    workspace.save()
    return workspace.url


def section_of(record: Record) -> str:
    """The section in which a record is shown."""
    first = record.metric.partition("/")[0]
    if first in _BIOLOGICAL:
        return "Biology"
    if first in (*REPEATING, *COARSELY, *LEAKAGE):
        return "Memorisation"
    return "Utility" if first == "utility" else "Fidelity"


def _sections(runs: Sequence[Run]) -> list[ws.Section]:
    names = sorted({name for run in runs for name in run.curves}) or list(_USUAL)
    panels = {"Training": _curves(names)} | {name: [] for name in _MEASURED}
    for record in _one_of_each(_of_all_classes(runs)):
        panels[section_of(record)].append(_bars(record))
    for name in _MEASURED:
        panels[name] = panels[name] or [wr.MarkdownPanel(markdown=_nothing_yet(name))]
    panels["Fidelity"].append(wr.WeavePanelSummaryTable(table_name=RECORDS))
    panels["Previews"] = [
        wr.MediaBrowser(
            title="Fixed seeds over training",
            media_keys=[PREVIEW],
            num_columns=1,
            grid_x_axis="step",
            grid_y_axis="run",
        ),
        wr.WeavePanelSummaryTable(table_name=SAMPLES),
    ]
    against = ws.SectionPanelSettings(x_axis=X_AXIS)
    return [
        ws.Section(name=name, panels=of, is_open=True, panel_settings=against)
        for name, of in panels.items()
    ]


def _curves(names: Iterable[str]) -> list[wr.LinePlot]:
    """Training and validation of one quantity in one panel, losses first, clocks last."""
    quantities: dict[str, list[str]] = {}
    for name in names:
        quantities.setdefault(name.partition("/")[2] or name, []).append(name)
    clocks = {name.partition("/")[2] for name in CLOCK_METRICS}
    order = sorted(quantities, key=lambda q: (q in clocks, q != "loss", "loss" not in q, q))
    return [wr.LinePlot(title=q, x=X_AXIS, y=quantities[q]) for q in order]


def _one_of_each(records: Iterable[Record]) -> list[Record]:
    """One record of each metric and protocol that has a value somewhere."""
    measured = {(r.metric, r.protocol): r for r in records if evaluation_scalars(r)}
    return [measured[key] for key in sorted(measured)]


def _of_all_classes(runs: Iterable[Run]) -> list[Record]:
    """Without those of single classes, which are many and stand in the table of records."""
    return [r for run in runs for r in run.records if not class_of(r.metric)[1]]


def _bars(record: Record) -> wr.BarPlot:
    parts = [part for part in ("low", "", "high") if part == "" or record.low is not None]
    counts = f"{record.n_real} real, {record.n_fake} synthetic"
    by = f", {record.extractor}" if record.extractor else ""
    return wr.BarPlot(
        title=f"{metric_name(record.metric)} ({counts}{by})",
        metrics=[evaluation_key(record, part) for part in parts],
        title_x=record.unit or None,
    )


def _nothing_yet(section: str) -> str:
    return (
        f"No run had numbers of {section.lower()} when this was built. After `make evaluate`, "
        "build it again with `make dashboard`."
    )


def _columns(runs: Sequence[Run]) -> list[str]:
    """Of the run table: settings in which runs differ, how far they are, fidelity."""
    settings = differing_keys([run.config for run in runs if run.config])
    keys = [groupby_str_to_key(f"config.{key}") for key in settings[:_MOST_COLUMNS]]
    measured = _one_of_each(_of_all_classes(runs))
    faithful = [evaluation_key(r) for r in measured if section_of(r) == "Fidelity"]
    return [
        "run:displayName",
        *(f"{key.section}:{key.name}" for key in keys),
        *(f"summary:{name}" for name in (X_AXIS, "val/loss", *faithful[:_MOST_COLUMNS])),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Builds the comparison of one experiment and saves it, or prints it.

    Args:
        arguments: of the command line, the process's own by default.
    """
    options = _parser().parse_args(arguments)
    with exit_on_user_error():
        if not options.print:
            require_account("make dashboard", "; ARGS=--print shows it without an account")
        there = any((options.workspace / "runs" / options.experiment).glob("*/config.yaml"))
        runs = find_runs(options.workspace, options.experiment) if there else []
        if options.print:
            workspace = build("", options.experiment, runs, options.group_by)
            print(json.dumps(json.loads(specification(workspace)), indent=2))
            return
        with answered("make dashboard"):
            workspace = build(default_entity(), options.experiment, runs, options.group_by)
            print(f"{'dashboard:':12}{save(workspace)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m common.tracking.dashboard", description=__doc__)
    parser.add_argument("experiment", help="whose runs are compared")
    parser.add_argument("--group-by", nargs="+", default=[], metavar="KEY", help="settings")
    parser.add_argument("--print", action="store_true", help="print it and save nothing")
    parser.add_argument("--workspace", type=Path, default=PROJECT, metavar="DIR")
    return parser


if __name__ == "__main__":
    main()
