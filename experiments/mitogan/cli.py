"""Command line of mitogan."""

from common.cli import run
from experiments.mitogan.datamodule import MitoDataModule
from experiments.mitogan.module import MitoGAN

if __name__ == "__main__":
    run(MitoGAN, MitoDataModule)
