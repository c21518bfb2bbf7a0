"""Preparing and inspecting data sets."""
