"""Whether generated images help with the task that images are wanted for."""
