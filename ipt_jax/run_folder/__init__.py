"""The files in the folder of a run: lock, metrics, curves."""
