"""Two processes that find each other as ranks, forked: importing torch again costs seconds."""

import os
from collections.abc import Callable
from pathlib import Path

import torch


def fork_rank(rank: int, folder: Path, body: Callable[[int], int]) -> int:
    """Starts one of two ranks, which ends with the exit code that ``body`` returns; its process.

    An exception in the child is exit code 1: it must never go on as a second test process.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        where = f"file://{folder / 'ranks'}"
        torch.distributed.init_process_group("gloo", where, rank=rank, world_size=2)
        os._exit(body(rank))
    finally:
        os._exit(1)
