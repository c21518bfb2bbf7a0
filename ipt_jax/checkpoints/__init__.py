"""Checkpoints of a run: written in the background, fingerprinted, checked when restored."""
