"""A W&B server of one laboratory, on this machine, that keeps what it is told."""

import contextlib
import gzip
import json
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import wandb
import yaml

ENTITY = "lab"


class Request(NamedTuple):
    path: str
    body: Any


class WandbServer(ThreadingHTTPServer):
    """Answers as much of W&B's protocol as runs, tables, views and sweeps need.

    Attributes:
        requests: all of them, in order.
        history: by run, lines as a project would hold them now.
        summary: by run.
        uploads: content of files by the name they were announced under.
        projects: that are there; None for any.
        views: saved ones by name.
        sweep: the one that was registered last.
        trials: settings that agents are still to be given, one trial each.
        refused: GraphQL operations, and "file_stream", that are answered with 403.
        dropped: those after which the connection is closed without a word.
        silent: those that are never answered while the server runs.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[Request] = []
        self.history: dict[str, list[dict]] = {}
        self.summary: dict[str, dict] = {}
        self.uploads: dict[str, bytes] = {}
        self.projects: set[str] | None = None
        self.views: dict[str, dict] = {}
        self.sweep: dict = {}
        self.trials: list[dict] = []
        self.refused: set[str] = set()
        self.dropped: set[str] = set()
        self.silent: set[str] = set()
        self.ends = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that has an account here, and none elsewhere."""
        return environment() | {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "0" * 40}

    def sent(self, operation: str) -> list[dict]:
        """Variables of every call of a GraphQL operation."""
        return [
            request.body["variables"]
            for request in self.requests
            if request.path == "/graphql" and _operation(request.body) == operation
        ]

    def answer(self, path: str, body: Any) -> object:
        if path.endswith("/file_stream"):
            return self._stream(path.split("/")[-2], body.get("files") or {})
        if path != "/graphql":
            return {}
        method = getattr(self, f"_{_operation(body)}", lambda **_: {})
        return {"data": method(**(body.get("variables") or {})) | _VIEWER}

    def _stream(self, run: str, files: dict) -> dict:
        if lines := files.get("wandb-history.jsonl"):
            rows = [json.loads(line) for line in lines["content"]]
            self.history.setdefault(run, [])[lines["offset"] :] = rows
        if summary := files.get("wandb-summary.json"):
            self.summary[run] = json.loads(summary["content"][-1])
        return {}

    def _RunResumeStatus(self, name: str, **_: Any) -> dict:
        rows = self.history.get(name)
        bucket = rows and {
            "id": name, "name": name, "displayName": name, "tags": [], "config": "{}",
            "logLineCount": 0, "eventsLineCount": 0, "historyLineCount": len(rows),
            "historyTail": json.dumps([json.dumps(rows[-1])]), "eventsTail": "[]",
            "summaryMetrics": json.dumps(self.summary[name]), "wandbConfig": '{"t": 1}',
        }  # fmt: skip
        return {"model": {**_project(""), "bucket": bucket}}

    def _UpsertBucket(self, project: str = "", **told: Any) -> dict:
        name = told.get("name") or "unnamed"
        bucket = {"id": name, "name": name, "displayName": name, "project": _project(project)}
        bucket |= {"sweepName": told.get("sweep"), "historyLineCount": 0}
        return {"upsertBucket": {"bucket": bucket, "inserted": name not in self.history}}

    def _CreateRunFiles(self, files: list[str], **_: Any) -> dict:
        urls = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in files]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": urls}}

    def _CreateArtifact(self, **_: Any) -> dict:
        sequence = {"id": "s", "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": "a", "state": "PENDING",
                                                "artifactSequence": sequence}}}  # fmt: skip

    def _CreateArtifactManifest(self, **_: Any) -> dict:
        file = {"id": "f", "uploadUrl": f"{self.url}/upload/manifest", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _CreateArtifactFiles(self, input: dict) -> dict:
        nodes = [
            {"node": {"storagePath": f["name"], "uploadUrl": f"{self.url}/upload/{f['name']}",
                      "uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": "a"}}}
            for f in input["artifactFiles"]
        ]  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _CommitArtifact(self, **_: Any) -> dict:
        return {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}

    def _ArtifactType(self, **_: Any) -> dict:
        return {"project": None}

    def _View(self, name: str, viewName: str, **_: Any) -> dict:
        if self.projects is not None and name not in self.projects:
            return {"project": None}
        found = [{"node": self.views[viewName]}] if viewName in self.views else []
        return {"project": {"allViews": {"edges": found}}}

    def _UpsertView2(self, name: str, displayName: str, spec: str, **_: Any) -> dict:
        inserted = name not in self.views
        self.views[name] = {"id": f"id-{name}", "displayName": displayName, "spec": spec}
        return {"upsertView": {"view": {"id": f"id-{name}", "name": name}, "inserted": inserted}}

    def _UpsertSweep(self, projectName: str, config: str, **_: Any) -> dict:
        self.sweep = yaml.safe_load(config)
        sweep = {"name": "sweep1", "id": "id-sweep1", "project": _project(projectName)}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def _SweepWithRuns(self, **_: Any) -> dict:
        config = yaml.safe_dump(self.sweep)
        return {"project": {"sweep": {"config": config, "runs": {"edges": []}}}}

    def _CreateAgent(self, **_: Any) -> dict:
        return {"createAgent": {"agent": {"id": "agent1"}}}

    def _Heartbeat(self, **_: Any) -> dict:
        commands = []
        if self.trials:
            args = {name: {"value": value} for name, value in self.trials.pop(0).items()}
            run = f"trial{len(self.trials)}"
            commands = [{"type": "run", "run_id": run, "args": args, "program": "unused"}]
        return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": json.dumps(commands)}}


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self.server.uploads[self.path.removeprefix("/upload/")] = self._body()
        self._reply({})

    def do_POST(self) -> None:
        body: Any = self._body()
        with contextlib.suppress(ValueError):
            body = json.loads(body)
        self.server.requests.append(Request(self.path, body))
        asked = _operation(body) if self.path == "/graphql" else self.path.rpartition("/")[2]
        if asked in self.server.silent:
            self.server.ends.wait()
        if asked in self.server.dropped | self.server.silent:
            self.close_connection = True
        elif asked in self.server.refused:
            self._reply({"errors": [{"message": "permission denied"}]}, 403)
        else:
            self._reply(self.server.answer(self.path, body))

    def log_message(self, *args: object) -> None:
        """Nothing."""

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, answer: object, status: int = 200) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def wandb_server() -> Iterator[WandbServer]:
    server = WandbServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ends.set()
        server.shutdown()
        server.server_close()


def environment() -> dict[str, str]:
    """This process's, without what W&B has put there: its service, Lightning's mode."""
    ours = ("WANDB_", "SYNTHETIC_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def end_runs() -> None:
    """As at the end of a process; only then is the log on the disk for sure."""
    if wandb.run is not None:
        wandb.finish()
    wandb.teardown()
    os.environ.pop("WANDB_MODE", None)


_VIEWER = {
    "viewer": {"id": "u", "entity": ENTITY, "username": ENTITY, "flags": "{}",
               "teams": {"edges": []}},
    "serverInfo": {},
}  # fmt: skip


def _project(name: str) -> dict:
    return {"id": "p", "name": name, "entity": {"id": "e", "name": ENTITY}}


def _operation(body: Any) -> str:
    found = re.search(r"(?:query|mutation)\s+(\w+)", body.get("query", ""))
    return found[1] if found else ""
