"""The verb `continue`: held-out recordings go on from their first frames."""

from typing import Literal

import pytorch_lightning as pl
from jsonargparse.typing import NonNegativeInt, PositiveInt

from common.data.sequence_datamodule import SequenceDataModule
from common.errors import Exit, UserError
from common.restoring import restore
from common.runs.folder import RunFolder
from common.sequence_writer import SequenceFormat
from common.tracking.run import Tracking


class ContinueVerb:
    """Part of the trainer; it has the run's folder and opens the data.

    Attributes:
        folder: of the run.
        tracking: where its numbers go besides the folder.
    """

    folder: RunFolder
    tracking: Tracking

    def go_on(
        self,
        model: pl.LightningModule,
        datamodule: SequenceDataModule,
        n: PositiveInt = 20,
        seed: NonNegativeInt = 0,
        added: PositiveInt = 10,
        steps: PositiveInt = 200,
        weights: Literal["best", "last", "previous"] = "best",
        file_format: SequenceFormat = "mp4",
    ) -> None:
        """Continues held-out recordings, compares that with what came, writes `continuation`.

        Args:
            model: receives the weights of the checkpoint.
            datamodule: whose test split is read.
            n: recordings, fewer where there are not so many.
            seed: of the choice of recordings.
            added: frames that each is continued by.
            steps: of each search for the next frame.
            weights: which of the run's checkpoints.
            file_format: what is written beside the OME-TIFF of each sequence: "mp4", "gif" or
                "strip" (PNG); "tiff" for nothing.
        """
        from common.continuation import Asked, measure_continuation
        from common.generation import changed_settings
        from common.tracking.evaluation import log_evaluation, sample_rows

        if not hasattr(model, "following"):
            problem = f"{type(model).__name__} cannot continue sequences"
            remedy = "choose an experiment whose README says that its model can"
            raise UserError(Exit.USAGE, self.folder.experiment, problem, remedy)
        path = self.folder.checkpoint(weights)
        self._open_to_measure(datamodule, path)
        checkpoint, digest = restore(model, datamodule, path)
        model.eval().requires_grad_(False).to(self.strategy.root_device)
        asked = Asked(n, seed, added, steps, file_format)
        settings = changed_settings(model, checkpoint["hyper_parameters"])
        drawn = {"checkpoint_sha256": digest, "settings": settings}
        measure_continuation(self.folder, model, datamodule, asked, drawn)
        log_evaluation(self.folder, self.tracking, sample_rows(self.folder, datamodule))


# A word of the language cannot be the name of a `def`.
setattr(ContinueVerb, "continue", ContinueVerb.go_on)
