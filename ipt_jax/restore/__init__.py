"""Restoring images of any size."""
