"""The training step: state, losses, optimiser. Pure functions."""
