"""Files in the folder of a run."""
