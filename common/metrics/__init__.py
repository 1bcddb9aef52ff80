"""How far synthetic images are from real ones, as numbers that name their protocol."""
