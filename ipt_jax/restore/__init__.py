"""Restoring images of any size with a network that takes tiles of one size."""
