"""Command line of multi_stylegan."""

from common.cli import run
from experiments.multi_stylegan.datamodule import YeastDataModule
from experiments.multi_stylegan.module import MultiStyleGAN

if __name__ == "__main__":
    run(MultiStyleGAN, YeastDataModule)
