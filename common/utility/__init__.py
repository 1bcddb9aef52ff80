"""Whether generated images are what they were asked to be, and help with what they are for."""
