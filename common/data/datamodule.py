"""What the data modules of all experiments share: raw folder in, batches on the device out."""

import hashlib
import inspect
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse.typing import NonNegativeInt
from torch import Tensor
from torch.utils.data import DataLoader

from common import PROJECT
from common.data.augment import check_policy
from common.data.canvas import Fit
from common.data.cards import Card, card_file, load_card
from common.data.datasets import Batch, PackedDataset, SeedDataset, SourcedDataset, as_batch
from common.data.experiment_data import ExperimentData
from common.data.loader import BatchLoader, start_worker
from common.data.manifest import Sample
from common.data.planning import plan_seeds, plan_sources, refuse_large_seeds
from common.data.preparation import ensure_prepared, prepared_folder
from common.data.prepared import UNSAID, Prepared
from common.data.sampler import EpochSampler
from common.data.windows import ends
from common.errors import Exit, UserError, relative, require_positive
from common.spread import evenly


class ImageDataModule(ExperimentData):
    """Images of one data set on square canvases, split by group.

    What an experiment says of its data is in `ExperimentData`. Everything else is here.

    Args:
        root: raw folder, an archive of one, or a folder that is prepared already. Without it the
            experiment's simulator writes one, in the layout of the real data.
        card: data card, a file of `data_cards`.
        image_size: side of the canvas in pixels.
        fit: "aspect" keeps the aspect ratio, "squash" stretches to a square, see `canvas`.
        batch_size: images a step on each device.
        val_fraction: share of the training images that validates, by group.
        test_fraction: share of all images that only `evaluate` reads, by group.
        split_seed: of the split; not the seed of the run.
        augment: "none", "mirror", "d4", "affine", "photometric", or several joined by "+".
        simulated_images: how many images the simulator writes.
        simulated_size: mean side of a simulated image in pixels.
        num_workers: loader processes; packed pixels of a small set are fastest with 0.
        skip_bad: how many unusable files are left out instead of refused; linked to ``--skip-bad``.
        workspace: folder that holds `data/`.
        seed: of the run; linked to ``seed_everything``.
    """

    # Set by the command line, see `runs.guard.Guard`.
    loader_timeout_s: float = 300.0

    def __init__(
        self,
        root: str | None = None,
        card: str | None = None,
        image_size: int = 128,
        batch_size: int = 32,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        augment: str = "d4",
        simulated_images: int = 1200,
        simulated_size: int = 192,
        num_workers: NonNegativeInt = 0,
        skip_bad: NonNegativeInt = 0,
        workspace: str = str(PROJECT),
        seed: int = 0,
        fit: Fit = "aspect",
    ) -> None:
        super().__init__()
        require_positive(
            "data",
            image_size=image_size,
            batch_size=batch_size,
            simulated_images=simulated_images,
            simulated_size=simulated_size,
        )
        self.root = root
        self.card: Card = load_card(card or self.default_card)
        self.card_file = card_file(card or self.default_card)
        self.image_size = image_size
        self.fit: Fit = fit
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.augment = augment
        self.simulated_images = simulated_images
        self.simulated_size = simulated_size
        self.num_workers = num_workers
        self.skip_bad = skip_bad
        self.workspace = Path(workspace)
        self.seed = seed
        self.prepared: Prepared | None = None
        self.plan: SeedDataset | None = None
        self.drawn: set[int] = set()
        # File, with its digest, of weights of another program that the run has begun with.
        self.imported = ""
        self._facts: dict[str, Any] = {}
        self._trained_on: list[str] = []
        self._loaders: list[BatchLoader] = []

    @property
    def experiment(self) -> str:
        """Name of the experiment's folder."""
        return Path(inspect.getfile(type(self))).parent.name

    @property
    def simulator_sha256(self) -> str:
        """Of the code that decides what `simulate` writes."""
        folder = Path(inspect.getfile(type(self))).parent
        shared = sorted((PROJECT / "common/simulate").glob("*.py"))
        sources = [folder / name for name in self.simulator_files] + shared
        return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()

    @property
    def simulated_name(self) -> str:
        """Of the simulated raw folder; another simulator, number or size gives another name."""
        what, digest = f"{self.simulated_images}x{self.simulated_size}px", self.simulator_sha256[:8]
        if told := " ".join(map(str, self.simulated_options)):
            digest = hashlib.sha256(f"{digest} {told}".encode()).hexdigest()[:8]
        return f"{self.experiment}-simulated-{what}-{digest}"

    @property
    def simulated_options(self) -> tuple[int, ...]:
        """What decides on simulated images besides their number and size."""
        return ()

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of prepared and generated images."""
        return self.channels_of(*(attrgetter(name)(self) for name in self.channel_arguments))

    @property
    def classes(self) -> tuple[str, ...]:
        """Index = label."""
        return self.card.classes

    @property
    def facts(self) -> dict[str, Any]:
        """What later steps must know of the training data: window, storage, counts, aspect."""
        return self.prepared.facts if self.prepared else self._facts

    def prepare_data(self) -> None:
        """Simulates and prepares what is missing, and says so; does nothing otherwise."""
        check_policy(self.augment)
        if self.plan is None and self.prepared is None:
            self.prepared = ensure_prepared(self)

    def prepare_training(self) -> None:
        """Makes what training needs besides the prepared data; once, before ranks are started."""

    def setup(self, stage: str) -> None:
        """Finds the prepared folder; opens no pixels.

        Raises:
            UserError: there is none, or it was prepared for another configuration.
        """
        if self.plan is not None:
            return
        if self.prepared is None:
            self.prepared = Prepared.open(prepared_folder(self))
        for name in ("train", "val"):
            if not self.prepared.samples(name):
                raise UserError(
                    Exit.INPUT,
                    relative(self.prepared.folder),
                    f"the {name} split is empty",
                    "prepare the raw images again",
                )
        expected = {
            "channels": list(self.channels),
            "classes": list(self.card.classes),
            "image_size": self.image_size,
            "fit": self.fit,
        }
        for name, value in expected.items():
            if self.facts[name] != value:
                raise UserError(
                    Exit.INPUT,
                    relative(self.prepared.folder),
                    f"was prepared with {name} {self.facts[name]}, not {value}",
                    "correct the configuration, or prepare the raw images again",
                )

    def refuse_other_data(
        self, checkpoint: dict[str, Any], path: Path, allowed: bool = False
    ) -> bool:
        """Compares the prepared data with all those that a checkpoint was trained on.

        A changed data set is split anew: what is held out now may have been trained on.

        Args:
            checkpoint: of the run.
            path: where it lies.
            allowed: whether training may go on with others, which stays in the checkpoints.

        Returns:
            Whether they differ.

        Raises:
            UserError: they differ.
        """
        self.load_facts(checkpoint, path)
        differ = set(self._trained_on) != {self.facts["manifest_sha256"]}
        if differ and not allowed:
            raise UserError(
                Exit.INPUT,
                relative(self.prepared.folder),
                "is not the data set that the run was trained on",
                "put data and --data options back as they were, or train a new run on these",
            )
        return differ

    def stop_workers(self) -> None:
        """Ends all loader processes, also those that hang."""
        for loader in self._loaders:
            loader.stop_workers()

    def plan_generation(self, count: int, seed: int, labels: str) -> SeedDataset:
        """Decides what `generate` makes: ``count`` images from ``seed`` on.

        Args:
            count: images.
            seed: of the first image; image k has ``seed + k``.
            labels: "data" (class frequencies of the training split), "balanced" (the classes in
                turn), or one class.

        Raises:
            UserError: there is no such class, or no such seed.
        """
        refuse_large_seeds(seed, count)
        return plan_seeds(self.facts, range(seed, seed + count), labels)

    def plan_around_training(self, plan: SeedDataset) -> SourcedDataset:
        """The same images, each made from a training image of its class; the data must be open."""
        return plan_sources(plan, self.dataset("train"))

    def samples(self, split: str) -> list[Sample]:
        """Rows of one split: its images, or the first moments of its sequences."""
        return self.prepared.samples(split)

    def dataset(self, split: str, policy: str = "none") -> PackedDataset:
        """One split of the prepared data; of no other split's pixels anything is opened.

        Args:
            split: "train", "val" or "test".
            policy: augmentation, see `augment`.

        Raises:
            UserError: the packed pixels are missing, cut short or not those of the manifest.
        """
        return self.prepared.dataset(split, policy, self.seed, self.guides(split))

    def example_batch(
        self,
        count: int,
        seed: int,
        device: torch.device | str = "cpu",
        labels: str = "balanced",
    ) -> Batch:
        """What `generate` would feed the model for ``count`` images from ``seed`` on.

        Whoever generates from images has to say here which ones.
        """
        batch = self.plan_generation(count, seed, labels).__getitems__(range(count))
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        return self.on_after_batch_transfer(moved, 0)

    def spread(self, split: str, count: int) -> Batch:
        """So many rows of a split, spread over all of it, or all where these are fewer.

        Args:
            split: arguments and errors as of `dataset`; not augmented.
            count: at least 1.
        """
        dataset = self.dataset(split)
        rows = evenly(len(dataset), count)
        return self.on_after_batch_transfer(dataset.__getitems__([(0, row) for row in rows]), 0)

    def train_dataloader(self) -> BatchLoader:
        """Shuffled, augmented, every batch full; goes on in the middle of a resumed epoch."""
        loader = self._loader("train", self.augment, shuffle=True)
        if self.trainer:
            epoch = self.trainer.fit_loop.epoch_progress.current.processed
            batches = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed
            # After the last batch of an epoch the next one begins.
            loader.sampler.resume(epoch, batches % len(loader) * self.batch_size)
        return loader

    def val_dataloader(self) -> BatchLoader:
        """In the order of the manifest, not augmented."""
        return self._loader("val", "none", shuffle=False)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """What `plan` holds and is not drawn yet, every rank its share."""
        rank, world = self._rank()
        # As the first rank has seen it, which clears the folder while others may look into it.
        drawn = self.trainer.strategy.broadcast(self.drawn) if world > 1 else self.drawn
        mine = [k for k in range(len(self.plan)) if k not in drawn][rank::world]
        return DataLoader(self.plan, batch_size=self.batch_size, sampler=mine, collate_fn=as_batch)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turns stored numbers into float32 in [-1, 1], on the device."""
        batch["mask"] = batch["mask"].float()
        if "guide" in batch:
            batch["guide"] = batch["guide"].float().div_(255)
        if "image" in batch:
            low, high = self._window(batch)
            storage = self.facts["storage"]
            scale = 2 * storage["scale"] / (high - low)
            offset = 2 * (storage["offset"] - low) / (high - low) - 1
            image = batch["image"].float().mul_(scale).add_(offset).clamp_(-1, 1)
            batch["image"] = image.contiguous(memory_format=self._memory_format(image))
        return batch

    def load_facts(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Restores what the checkpoint in ``path`` knows of its training data.

        Raises:
            UserError: it is not one of this experiment.
        """
        state = checkpoint.get(type(self).__qualname__)
        if not isinstance(state, dict) or not {"facts", "trained_on"} <= set(state):
            raise UserError(
                Exit.CHECKPOINT,
                relative(path),
                f"belongs to another experiment than {self.experiment}",
                "name a run of this one",
            )
        self.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """Facts of the training data: a checkpoint can generate where the data are not."""
        trained_on = sorted({*self._trained_on, self.facts["manifest_sha256"]})
        return {"facts": self.facts, "trained_on": trained_on, "imported": self.imported}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self._facts = UNSAID | state_dict["facts"]
        self._trained_on = state_dict["trained_on"]
        self.imported = state_dict.get("imported", "")

    def _loader(self, split: str, policy: str, shuffle: bool) -> BatchLoader:
        dataset = self.dataset(split, policy)
        rank, world = self._rank()
        sampler = EpochSampler(
            len(dataset),
            self.seed,
            shuffle,
            multiple_of=self.batch_size * world if shuffle else world,
            rank=rank,
            world_size=world,
        )
        loader = BatchLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=as_batch,
            timeout=self.loader_timeout_s if self.num_workers else 0,
            worker_init_fn=start_worker,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # A loader without a generator of its own draws from the one the model uses.
            generator=torch.Generator().manual_seed(self.seed),
        )
        self._loaders.append(loader)
        return loader

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _window(self, batch: Batch) -> tuple[Any, Any]:
        """Ends that broadcast with the images: of the data set, or of each image of the batch."""
        image = batch["image"]
        if "levels" in batch:
            pairs = batch["levels"]
            return pairs.reshape(*pairs.shape[:2], *[1] * (image.ndim - 2), 2).unbind(-1)
        found = ends(self.facts["window"], image.ndim - 1)
        tensors = (torch.from_numpy(end) for end in found if isinstance(end, np.ndarray))
        return tuple(end.to(image.device) for end in tensors) or found

    def _memory_format(self, image: Tensor) -> torch.memory_format:
        # Layouts are of images with four axes.
        asked = getattr(self.trainer, "memory_format", torch.contiguous_format)
        return asked if image.ndim == 4 else torch.contiguous_format
