"""Which images a model was trained on, and whether simulated: said, or that it is not known."""

import re
from enum import Enum
from pathlib import PurePath

# How the folders are called, behind the experiment's name, that this project makes: simulated
# images, and prepared ones, which may be either.
_OURS = r"-(simulated-\d+x\d+px-[0-9a-f]{8}|[0-9a-f]{12})(\.zip|\.tar.*)?"


class Origin(Enum):
    """Where the training images came from; the value is the first thing said about them."""

    SIMULATED = (
        "SIMULATED training data. A simulator drew every image that this model was trained on; "
        "nothing said or measured here holds for real specimens."
    )
    GIVEN = (
        "The training images were given as a folder or an archive, and not drawn by a simulator "
        "for this run. Whether they are what the data card describes, the run does not record."
    )
    UNKNOWN = (
        "It is NOT KNOWN whether the training images were simulated. Take them for simulated until "
        "whoever trained the model says otherwise."
    )
    IMPORTED = (
        "IMPORTED weights. The run began with weights that were trained elsewhere, on images that "
        "it does not record. What is called training images here are those of the data set that "
        "samples are compared with; only training that followed the import has seen them."
    )


def origin(experiment: str, root: str | None, data_sets: int) -> Origin:
    """Where the training images came from.

    Args:
        experiment: of the run.
        root: ``data.root`` of the run's configuration; None lets the simulator draw.
        data_sets: how many data sets the run was trained on; the configuration knows the last.
    """
    if data_sets != 1:
        return Origin.UNKNOWN
    if root is None:
        return Origin.SIMULATED
    ours = any(re.fullmatch(experiment + _OURS, part) for part in PurePath(root).parts)
    return Origin.UNKNOWN if ours else Origin.GIVEN
