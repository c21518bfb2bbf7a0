"""Measurements of speed: `ipt bench`."""
