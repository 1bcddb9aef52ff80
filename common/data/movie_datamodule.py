"""Data modules of experiments whose raw files are movies."""

from pathlib import Path
from typing import Any

from common.data.cards import Card
from common.data.datamodule import ImageDataModule
from common.data.manifest import Sample, frames_of
from common.data.reading import Projection, Reading
from common.data.splits import SPLIT_FOLDERS, group_of
from common.errors import UserError
from common.preprocess.pipeline import Output, Pipeline


class MovieDataModule(ImageDataModule):
    """Frames of movies, each of them an image; a movie lies whole in one group.

    Args:
        projection: how a stack of z planes becomes one image, see `Reading`.
        channel: name or position of the only channel that is taken of files with several.
        pipeline: what is done to each frame, see `Pipeline`.
        kwargs: as for `ImageDataModule`.
    """

    channel_arguments = ("card", "pipeline.output")

    def __init__(
        self,
        projection: Projection = "max",
        channel: str = "",
        pipeline: Pipeline = Pipeline(),  # noqa: B008 - frozen
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.reading = Reading(projection, channel, pipeline)

    @classmethod
    def channels_of(cls, card: Card | str | None, output: Output) -> tuple[str, ...]:
        """Those of the card, or what the pipeline puts in their place or beside them."""
        made = {"image": (), "image+mask": ("mask",)}.get(output)
        return (output,) if made is None else (*super().channels_of(card), *made)

    def scan(self, root: Path) -> list[Sample]:
        """All frames of all movies below a folder.

        A movie of several moments is a group, unless the card's `group_kind` is another one than
        "video". Then, and where images have a file each, the card's `group` counts. Of simulated
        files each is a group. Folders such as `train` and `test` are a split that came with the
        data. A file whose header cannot be read counts as one image, which is found bad when it is
        read.
        """
        # Image libraries are imported only where something has to be read.
        from common.data.movies import count_frames, find_movies

        samples: list[Sample] = []
        for path in find_movies(root):
            name = path.relative_to(root).as_posix()
            try:
                count = count_frames(path, root)
            except UserError:
                count = 1
            rule = self.card.group if count == 1 else self.card.group_of_movies
            if self.root is None:
                # Numbers at the end of a simulator's names tell videos apart, not frames of one.
                rule = None
            group = group_of(name, rule, self.card.derivative_suffixes)
            split = SPLIT_FOLDERS.get(name.split("/")[0].lower(), "") if "/" in name else ""
            samples += frames_of(name, group, count, split)
        return samples
