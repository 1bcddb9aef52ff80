"""Command line of cilia_cvae."""

from common.cli import run
from experiments.cilia_cvae.datamodule import CiliaDataModule
from experiments.cilia_cvae.generator import CiliaGenerator
from experiments.cilia_cvae.module import CiliaCVAE

if __name__ == "__main__":
    run(CiliaCVAE, CiliaDataModule, base=CiliaGenerator)
