"""Numbers that all ranks of a distributed run must agree on."""

from torch import Tensor, distributed


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes of the run, without a graph; itself where there is one.

    A state that steers a training, such as the probability of augmentation, would otherwise follow
    the images of a single rank.
    """
    value = value.detach()
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total
