"""The folder of a run: file names, lock, metrics log, TensorBoard events, curves."""
