"""Restoring images of any size by a network that takes tiles of one size."""
