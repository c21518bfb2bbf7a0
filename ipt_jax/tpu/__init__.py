"""Reports about the training step on TPU slices, on a machine without a TPU."""
