"""What kind of number a record holds, told by the name of its metric."""

import re

# How the metrics of the judge and of the augmentation ledger begin; those of `evaluate` begin with
# neither.
JUDGE, UTILITY = "judge/", "utility/"
VERBS = (JUDGE, UTILITY)
# A line of the ledger, or what it gains, comes before its score.
_OF_CLASS = re.compile(
    r"(class_kernel_distance|membership_auc|nearest_ratio|structure/[^/]+"
    rf"|{JUDGE}[^/]+|{UTILITY}(?:gain/)?+[^/]+/[^/]+)/(.+)",
    re.DOTALL,
)


def verb_of(metric: str) -> str:
    """Which of `VERBS` measured it; "" for `evaluate`."""
    return next((verb for verb in VERBS if metric.startswith(verb)), "")


def class_of(metric: str) -> tuple[str, str]:
    """A metric without the class that it is of, and that class; "" where it is of all."""
    found = _OF_CLASS.fullmatch(metric)
    return (found[1], found[2]) if found else (metric, "")
