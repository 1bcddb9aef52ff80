"""What kind of number a record holds, told by the name of its metric."""

import re

# How the metrics of the judge, of the augmentation ledger and of continued recordings begin; those
# of `evaluate` begin with none of these.
JUDGE, UTILITY, CONTINUATION = "judge/", "utility/", "continuation/"
VERBS = (JUDGE, UTILITY, CONTINUATION)
# What numbers are counted as that `class_of` tells from those of all images.
SINGLE = "single classes or steps"
# A line of the ledger, or what it gains, comes before its score; what is of a step ends with it.
_OF_CLASS = re.compile(
    r"(class_kernel_distance|membership_auc|nearest_ratio|structure/[^/]+"
    rf"|{JUDGE}[^/]+|{UTILITY}(?:gain/)?+[^/]+/[^/]+|{CONTINUATION}.+(?=/step_\d+\Z))/(.+)",
    re.DOTALL,
)


def verb_of(metric: str) -> str:
    """Which of `VERBS` measured it; "" for `evaluate`."""
    return next((verb for verb in VERBS if metric.startswith(verb)), "")


def class_of(metric: str) -> tuple[str, str]:
    """A metric without the class, or step, that it is of, and that; "" where it is of all."""
    found = _OF_CLASS.fullmatch(metric)
    return (found[1], found[2]) if found else (metric, "")
