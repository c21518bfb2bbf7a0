"""Timings of the training step, the input pipeline and restoring on the devices of this machine."""
