"""What each class of cross-section stands for, and whether an image shows it."""

from collections.abc import Mapping
from typing import NamedTuple

from experiments.cilia_cvae.biology import state


class Ultrastructure(NamedTuple):
    """Of one class.

    Attributes:
        doublets: numbers of doublets that it allows.
        central: central microtubules.
        outer_arms: whether doublets have outer dynein arms.
        inner_arms: whether they have inner ones.
    """

    doublets: tuple[int, ...] = (9,)
    central: int = 2
    outer_arms: bool = True
    inner_arms: bool = True


# Names of the clinical folders; CP 2, Subtle CP and Microtub Abnorm as the simulator reads them.
ULTRASTRUCTURE = {
    "CP 2": Ultrastructure(central=4),
    "Disarranged": Ultrastructure(),
    "IDA": Ultrastructure(inner_arms=False),
    "IDA_Disarranged": Ultrastructure(inner_arms=False),
    "Microtub Abnorm": Ultrastructure(doublets=(8, 10)),
    "No CP": Ultrastructure(central=0),
    "Normal": Ultrastructure(),
    "ODA": Ultrastructure(outer_arms=False),
    "ODA_IDA": Ultrastructure(outer_arms=False, inner_arms=False),
    "Subtle CP": Ultrastructure(central=1),
}


def ultrastructure_of(label: str) -> Ultrastructure:
    """Of a class; one with another name gets no arms, since nobody says that it has any."""
    return ULTRASTRUCTURE.get(label, Ultrastructure(outer_arms=False, inner_arms=False))


def checks(label: str, measured: Mapping[str, float]) -> dict[str, bool]:
    """Whether an image shows its class.

    Args:
        label: name of the class; of one that is not known nothing is checked.
        measured: of `biology.measure`.

    Returns:
        ``axoneme``: doublets and central microtubules are as many as they should be;
        ``arms``: outer and inner dynein arms are there, or not, as they should be.
    """
    if label not in ULTRASTRUCTURE:
        return {}
    known, found = ULTRASTRUCTURE[label], state(measured)
    arms = (found["outer_arms"], found["inner_arms"])
    return {
        "axoneme": found["doublets"] in known.doublets
        and found["central_microtubules"] == known.central,
        # Where no axoneme is found, arms that are not seen are no evidence of absence.
        "arms": found["doublets"] > 0 and arms == (known.outer_arms, known.inner_arms),
    }
