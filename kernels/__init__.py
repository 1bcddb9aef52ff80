"""Compiled operators with a torch reference each; knows nothing of microscopy."""
