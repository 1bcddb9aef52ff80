"""Command line of toy_blobs."""

from common.cli import run
from experiments.toy_blobs.datamodule import BlobsDataModule
from experiments.toy_blobs.module import BlobGAN

if __name__ == "__main__":
    run(BlobGAN, BlobsDataModule)
