"""Time-lapse sequences of yeast in several domains from a generator with one path for each."""
