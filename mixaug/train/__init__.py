"""Training: data sets by name, models by name, one step per method, the loop and its checkpoints."""
