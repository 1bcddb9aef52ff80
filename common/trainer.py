"""Lightning's Trainer with the verbs that come before and after training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt, restricted_number_type
from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector
from pytorch_lightning.trainer.states import TrainerFn

from common.code_version import source_sha256
from common.continue_verb import ContinueVerb
from common.data.datamodule import ImageDataModule
from common.data.planning import refuse_large_seeds
from common.data.preparation import check_data, draw_pipeline_of
from common.errors import Exit, UserError
from common.importing import Imports
from common.interrupts import interrupts
from common.metrics.protocol import usable_records
from common.restoring import checkpoint_of_samples, restore
from common.runs.checkpoints import load_checkpoint
from common.runs.folder import RunFolder
from common.runs.hardware import Hardware
from common.sequence_writer import FileFormat, writer_of
from common.tracking.run import Tracking, refuse_tracking
from common.utility.task import JUDGE, JUDGES, LEDGER, PERCENTS, Balance, Training

# Sees the order of three frames already, see `clip_features`.
CLIPS = "efficientnet-lite0-triplets"
Percent = restricted_number_type("Percent", int, [(">", 0), ("<=", 100)])


class ExperimentTrainer(ContinueVerb, Imports, pl.Trainer):
    """Adds the verbs before and after `fit`; the command line sets the attributes.

    Attributes:
        folder: of the run; `check` and `prepare` have none.
        tracking: where its numbers go besides the folder.
        images_seen: training images over all ranks so far.
        image_budget: images after which training stops, 0 for no limit.
        hardware: what modules shall use for speed, where they can.
        memory_format: layout of image tensors.
    """

    folder: RunFolder
    tracking: Tracking
    images_seen: int = 0
    image_budget: int = 0
    hardware: Hardware = Hardware()
    memory_format: torch.memory_format = torch.contiguous_format

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._signal_connector = Signals(self)

    def prepare(
        self, model: pl.LightningModule, datamodule: ImageDataModule, npz: str | None = None
    ) -> None:
        """Checks, preprocesses, splits, audits and packs the data.

        Args:
            model: not used; the configuration is the same for all verbs.
            datamodule: whose data.
            npz: file that gets a copy as arrays, see `common.npz_output`.
        """
        datamodule.prepare_data()
        if npz is not None and self.is_global_zero:
            from common.npz_output import write_npz

            datamodule.setup("fit")
            write_npz(datamodule.prepared, Path(npz))

    def check(self, model: pl.LightningModule, datamodule: ImageDataModule) -> None:
        """Looks at every file, audits the split, and packs nothing.

        Args:
            model: not used; the configuration is the same for all verbs.
            datamodule: whose data.
        """
        check_data(datamodule)

    def pipeline(
        self, model: pl.LightningModule, datamodule: ImageDataModule, image: str = ""
    ) -> None:
        """Draws what the pipeline of the data does to one image, stage by stage.

        Args:
            model: not used; the configuration is the same for all verbs.
            datamodule: whose raw images are read.
            image: as in the manifest, such as "video.tif#0007"; the first one without it.
        """
        draw_pipeline_of(datamodule, image)

    def generate(
        self,
        model: pl.LightningModule,
        datamodule: ImageDataModule,
        n: PositiveInt = 20,
        seed: NonNegativeInt = 0,
        labels: str = "data",
        weights: Literal["best", "last", "previous"] = "best",
        file_format: FileFormat = "auto",
        size: Literal["canvas", "native"] = "canvas",
        naming: str = "number",
        around_training: bool = False,
    ) -> None:
        """Writes images into the run's `samples`, with a manifest.

        Args:
            model: receives the weights of the checkpoint.
            datamodule: says what is generated; its data need not be there.
            n: number of images.
            seed: of the first image; image k is made from ``seed + k``, which is below 2 ** 31, and
                is always the same.
            labels: "data" (class frequencies of the training split), "balanced", or a class.
            weights: which of the run's checkpoints.
            file_format: "auto" is PNG for one channel of 8 or 16 bits, else OME-TIFF. Of sequences
                always OME-TIFF; "mp4", "gif" and "strip" (PNG) add these in `samples/shown`.
            size: "native" resamples each image to a size drawn from those of the training images,
                which adds no detail.
            naming: of the files: "number", or a scheme that the experiment knows.
            around_training: draw each image around the posterior of a training image. Such images
                are near copies of those, and are marked as such wherever they go.
        """
        from common.data.planning import native_shapes
        from common.generation import (
            SampleSet,
            changed_settings,
            clear_samples,
            drawing_folder,
            drawn_numbers,
            pattern_of,
            shown_folder,
            write_samples_manifest,
        )
        from common.image_tables import ORIGINS

        pattern = pattern_of(naming, datamodule.namings)
        path = self.folder.checkpoint(weights)
        checkpoint, digest = restore(model, datamodule, path)
        settings = changed_settings(model, checkpoint["hyper_parameters"])
        plan = datamodule.plan_generation(n, seed, labels)
        if around_training:
            _refuse_without_posterior(model)
            self._open_data(datamodule, path)
            plan = datamodule.plan_around_training(plan)
        datamodule.plan = plan
        shapes = native_shapes(datamodule.facts, plan) if size == "native" else None
        rule = (datamodule.facts, file_format, shapes, shown_folder(self.folder))
        writer = writer_of(datamodule.frames, drawing_folder(self.folder), *rule)
        # Not the commit, which is the same after any change that nobody has committed.
        drawn_from = (digest, source_sha256(), self.precision, settings, around_training)
        making = repr((*drawn_from, seed, labels, size, writer.suffix, writer.shown_as))
        clear_samples(self.folder, self.is_global_zero, digest, making)
        datamodule.drawn = drawn_numbers(self.folder, writer.suffix)
        self.callbacks.append(writer)
        self.predict(model, datamodule=datamodule, return_predictions=False)
        # The table holds the digest of every file, those of other ranks, too.
        self.strategy.barrier("images are written")
        if self.is_global_zero:
            facts = datamodule.facts
            rule = (facts["classes"], writer.suffix, size, pattern, ORIGINS[around_training])
            made = SampleSet(plan, labels, *rule, settings, datamodule.annotations(plan))
            write_samples_manifest(self.folder, made, digest)

    def evaluate(
        self,
        model: pl.LightningModule,
        datamodule: ImageDataModule,
        extractor: str = "efficientnet-lite0",
        extractor_weights: str | None = None,
        clip_extractor: str = CLIPS,
        clip_weights: str | None = None,
    ) -> None:
        """Compares the run's `samples` with the held-out split and writes `records.jsonl`.

        Args:
            model: its encoder gives the features where the extractor is "own".
            datamodule: whose test split is read, here for the first time.
            extractor: of features, by name, or "own".
            extractor_weights: file with the extractor's weights, where it needs one.
            clip_extractor: of features of whole sequences, by name; single images need none.
            clip_weights: file with its weights, where it needs one.
        """
        from common.evaluate import evaluate_run
        from common.evaluate_sequences import evaluate_sequences
        from common.metrics.clip_features import clip_extractor as load_clip_extractor
        from common.metrics.features import OWN
        from common.metrics.features import extractor as load_extractor
        from common.metrics.weights import refuse
        from common.own_encoder import own_encoder
        from common.tracking.evaluation import log_evaluation, sample_rows

        drawn_by = checkpoint_of_samples(self.folder)
        self._open_to_measure(datamodule, drawn_by)
        weights = Path(extractor_weights) if extractor_weights else None
        if extractor == OWN:
            refuse(weights, "own is the encoder of the run")
            _, digest = restore(model, datamodule, drawn_by)
            network = own_encoder(model, digest, datamodule.facts)
        else:
            network = load_extractor(extractor, weights)
        seen_by = (self.folder, datamodule, network, self.strategy.root_device)
        if datamodule.frames:
            weights = Path(clip_weights) if clip_weights else None
            evaluate_sequences(*seen_by, load_clip_extractor(clip_extractor, weights))
        else:
            evaluate_run(*seen_by)
        log_evaluation(self.folder, self.tracking, sample_rows(self.folder, datamodule))

    def utility(
        self,
        model: pl.LightningModule,
        datamodule: ImageDataModule,
        seeds: PositiveInt = 3,
        images_seen: PositiveInt = LEDGER.images_seen,
        width: PositiveInt = LEDGER.width,
        balance: Balance = LEDGER.balance,
        percents: Sequence[Percent] = PERCENTS,
    ) -> None:
        """Trains the experiment's task model with and without the run's `samples`.

        Args:
            model: not used; the samples on disk are what is judged.
            datamodule: whose training and test splits are read; it names the task.
            seeds: models of each way to train.
            images_seen: training images of one model, repeats counted.
            width: of the task model.
            balance: how often rare classes are drawn: "classes" (as often as any), "effective"
                (by the effective number of their images), "none" (as rarely as they are).
            percents: shares of the real training images that are tried, such as [100].
        """
        from common.tracking.evaluation import log_evaluation, sample_rows
        from common.utility.measurement import measure_utility

        self._open_to_measure(datamodule, checkpoint_of_samples(self.folder))
        training, device = Training(width, images_seen, balance), self.strategy.root_device
        measure_utility(self.folder, datamodule, training, device, seeds, percents)
        log_evaluation(self.folder, self.tracking, sample_rows(self.folder, datamodule))

    def judge(
        self,
        model: pl.LightningModule,
        datamodule: ImageDataModule,
        judges: PositiveInt = JUDGES,
        images_seen: PositiveInt = JUDGE.images_seen,
        width: PositiveInt = JUDGE.width,
        balance: Balance = JUDGE.balance,
    ) -> None:
        """Asks classifiers that know real images alone as what they recognise the run's `samples`.

        Args:
            model: not used; the samples on disk are what is judged.
            datamodule: whose splits are read; it names the task. What is trained on it is kept.
            judges: how many, each from another seed.
            images_seen: training images of one judge, repeats counted.
            width: of a judge.
            balance: as of `utility`.
        """
        from common.tracking.evaluation import log_evaluation, sample_rows
        from common.utility.judgement import measure_judgement

        self._open_to_measure(datamodule, checkpoint_of_samples(self.folder))
        training, device = Training(width, images_seen, balance), self.strategy.root_device
        measure_judgement(self.folder, datamodule, training, device, judges)
        log_evaluation(self.folder, self.tracking, sample_rows(self.folder, datamodule))

    def quiz(
        self,
        model: pl.LightningModule,
        datamodule: ImageDataModule,
        n: PositiveInt = 20,
        seed: NonNegativeInt = 0,
    ) -> None:
        """Writes a page on which people tell the run's `samples` from held-out images.

        Args:
            model: not used; the samples on disk are what is judged.
            datamodule: whose test split is read.
            n: number of images of either kind.
            seed: of the choice of images and of their order.
        """
        from common.quiz.page import write_quiz

        self._open_data(datamodule, checkpoint_of_samples(self.folder))
        write_quiz(self.folder, datamodule, n, seed)

    def card(
        self,
        model: pl.LightningModule,
        datamodule: ImageDataModule,
        creator: str = "",
        published: str = "",
    ) -> None:
        """Writes model card, data card and Croissant metadata into the run's `card`.

        Args:
            model: not used; the checkpoint on disk is what is described.
            datamodule: gets the facts of the checkpoint; its data need not be there.
            creator: who publishes the samples; without it nobody is named.
            published: day on which they are, YYYY-MM-DD.
        """
        from common.cards.write import write_cards

        if not write_cards(self.folder, datamodule, creator, published):
            run = f"EXP={self.folder.experiment} RUN={self.folder.run_id}"
            print(f"note: no generated images, so the model card alone; make generate {run} N=1000")

    def figures(
        self,
        model: pl.LightningModule,
        datamodule: ImageDataModule,
        n: PositiveInt = 6,
        seed: NonNegativeInt = 0,
        weights: Literal["best", "last", "previous"] = "best",
    ) -> None:
        """Draws what the model has learned into the run's `figures`.

        Args:
            model: receives the weights of the checkpoint.
            datamodule: whose validation images are shown beside generated ones.
            n: images a class, or seeds.
            seed: the first of them.
            weights: which of the run's checkpoints.
        """
        from common.figures import write_figures

        refuse_large_seeds(seed, n)
        path = self.folder.checkpoint(weights)
        self._open_data(datamodule, path)
        restore(model, datamodule, path)
        model.eval().to(self.strategy.root_device)
        write_figures(self.folder, model, datamodule, n, seed)

    def _open_to_measure(self, datamodule: ImageDataModule, path: Path) -> None:
        """What would be in the way of writing numbers is found before any is measured."""
        refuse_tracking(self.folder, self.tracking)
        self._open_data(datamodule, path)
        usable_records(self.folder.records)

    def _open_data(self, datamodule: ImageDataModule, path: Path) -> None:
        """Only data that a checkpoint was trained on have a split that it has not seen.

        Of several in a run, others may have seen more: training goes on with other data if told to.
        """
        datamodule.prepare_data()
        datamodule.setup("test")
        datamodule.refuse_other_data(load_checkpoint(path), path)

    def export(
        self,
        model: pl.LightningModule,
        datamodule: ImageDataModule,
        weights: Literal["best", "last", "previous"] = "best",
    ) -> None:
        """Writes the trained model into the run's `export`, for use without this project.

        Args:
            model: receives the weights of the checkpoint.
            datamodule: says what the model is fed; its data need not be there.
            weights: which of the run's checkpoints.
        """
        from common.export import export_run

        if self.is_global_zero:
            path = self.folder.checkpoint(weights)
            checkpoint, digest = restore(model, datamodule, path)
            export_run(self.folder, model, datamodule, checkpoint, (weights, digest))


class Signals(_SignalConnector):
    """Our handlers instead of Lightning's, which save in the middle of a step, or not at all."""

    def register_signal_handlers(self) -> None:
        """Called when a verb begins; only training has something to save."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            interrupts.defer()

    def teardown(self) -> None:
        """Called when it has ended, in whatever way."""
        interrupts.release()


def _refuse_without_posterior(model: pl.LightningModule) -> None:
    if not hasattr(model, "around"):
        problem = f"{type(model).__name__} has no posterior to draw from"
        raise UserError(Exit.USAGE, "--around_training", problem, "leave it out")
