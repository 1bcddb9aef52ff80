"""One folder an experiment, all of one shape; none imports another."""

import common  # noqa: F401  (repairs the torchvision import before Lightning is imported)
