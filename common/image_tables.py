"""Words in tables of single images: a run's `samples/manifest.csv`, and those in `evaluation`."""

# What tells an image from another; every other column measures it.
NAMING = ("name", "seed", "label", "nearest_training", "nearest_held_out")
# Where generated images come from: each from noise alone, or from one of the training images.
SAMPLED, AROUND = ORIGINS = ("sampled", "around training images")
# Said of the latter wherever they go, and whom that concerns.
NEAR_COPIES = "drawn around training images, one each, and near copies of them"
FOR_WHOM = "they may be shown to those who may see the training images"
