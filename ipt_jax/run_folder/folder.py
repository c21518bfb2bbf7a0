"""The names of all files in a run's folder, each written once.

Every name is relative to the run's folder (`--workdir`): `folder / CONFIG`.
"""

from __future__ import annotations

# The run's config, the fingerprint of its data, and the versions of the packages.
CONFIG = "config.json"

# One folder per saved step: see `checkpoints/checkpoints.py`.
CHECKPOINTS = "checkpoints"

# The metrics of steps and evaluations, one JSON object per line.
METRICS = "metrics.jsonl"

# On object stores, which cannot append to a file: one file per line of the metrics.
METRICS_PARTS = "metrics"

# The evaluations by the metric that chooses the best checkpoint.
BEST = "best.json"

# The plot of losses, learning rate and held-out scores.
CURVES = "curves.png"

# A table and a contact sheet per evaluation.
EVALUATION = "evaluation"

# TensorBoard's event files.
TENSORBOARD = "tensorboard"

# The id under which Weights & Biases knows the run.
WANDB = "wandb.json"

# Traces of steps, where TensorBoard's profile plug-in looks for them: one folder per trace.
PROFILES = "tensorboard/plugins/profile"

# Present while a process trains in the folder: see `lock.py`.
LOCK = "lock"

# Compiled programs, which JAX's persistent compilation cache keeps.
COMPILED = "compiled"
