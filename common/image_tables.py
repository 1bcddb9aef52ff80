"""Columns of the tables of single images in a run's `evaluation`."""

# What tells an image from another; every other column measures it.
NAMING = ("name", "seed", "label", "nearest_training", "nearest_held_out")
