"""Weights of every kind, read into a `Restorer`."""
