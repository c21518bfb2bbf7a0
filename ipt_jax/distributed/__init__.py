"""Devices, shardings, and the processes of a run."""
