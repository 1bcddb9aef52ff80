"""What is known of the licence of a model and of its samples: never that of a data set by name.

Whether images that were given are those of the data set that a data card describes, no run records;
simulated ones are not.
"""

from common.cards.markdown import one_line
from common.cards.origin import Origin
from common.data.cards import Card

# As Hugging Face sorts it, in the head of a card.
HEAD = {"license": "unknown"}


def licence(card: Card, origin: Origin) -> str:
    """What is known, as one line for people.

    Args:
        card: that the training images were read by.
        origin: of those images.
    """
    if origin is Origin.SIMULATED:
        known = (
            "none was stated: the training images were simulated by this repository's code; the "
            f"data card's licence ({card.licence}) is of the real images, of which none was used"
        )
    elif origin is Origin.IMPORTED:
        known = (
            "not known to this project: the weights were trained elsewhere, and do not say under "
            f"which licence they may be used; the one that the data card states ({card.licence}) "
            "is of the data set that it describes"
        )
    else:
        known = (
            "not known to this project: the training images are said to be in the layout of the "
            f"data card {card.name}; the licence that it states ({card.licence}) is of the data "
            "set that it describes"
        )
    return one_line(known, 1000)
