"""Timings on the device at hand."""
