"""What tells white noise from the image beneath it."""

import numpy as np

# Difference of two second differences (Immerkær 1996): straight edges and ramps vanish in it.
NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
# By which it multiplies the standard deviation of white noise.
NOISE_KERNEL_NORM = 6.0
# Median of absolute values of normal numbers of unit variance.
MEDIAN_OF_NORMAL = 0.6745
