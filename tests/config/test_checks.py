"""Checks of configs name the key, its value and what it may be."""

from __future__ import annotations

import pytest

from ipt_jax.config.loading import load
from ipt_jax.errors import ConfigError


@pytest.mark.parametrize(
    "override, message",
    [
        ("stepz=3", r"unknown config key 'stepz' \(did you mean 'steps'"),
        ("data.dirr=x", r"unknown config key 'data.dirr' \(did you mean 'data.dir'"),
        ("data=x", "'data' is a group of keys"),
        ("steps", "--config.steps has no value"),
        ("steps=many", r"steps must be an integer \(default: 1000\), not 'many'"),
        ("steps=0", "steps must be at least 1"),
        ("steps=2.5", "steps must be an integer .*, not 2.5"),
        ("steps=True", "steps must be an integer .*, not True"),
        ("data.flips=1", "data.flips must be true or false .*, not 1"),
        ("tasks=3", "tasks must be a list .*, not 3"),
        ("optim.learning_rate=fast", "optim.learning_rate must be a number .*, not 'fast'"),
        ("optim.ema=1.5", "optim.ema must be at least 0 and below 1, not 1.5"),
        ("optim.max_spike=0.5", "must be 0 or above 1 .a multiple of the recent mean"),
        ("evaluate.best=psnr", "evaluate.best: unknown 'psnr' .did you mean 'psnr_y'"),
        ("evaluate.best=sr5/psnr_y", "unknown 'sr5/psnr_y' .did you mean 'sr./psnr_y'"),
        ("evaluate.patience=3", "evaluate.best must be a metric where evaluate.patience is set"),
        ("data.source=pairs", "tasks must be one task, where data.source=pairs"),
        ("data.source=foldr", r"data.source: unknown 'foldr' \(did you mean 'folder'"),
        ("tasks=sr2,denoise51", r"tasks: unknown task 'denoise51' \(did you mean 'denoise50'"),
        ("tasks=()", "tasks: no tasks"),
        ("tasks=sr2,sr2", "named more than once: sr2"),
        (
            'tasks=[{"name": "n", "degradation": "noyse"}]',
            "unknown degradation 'noyse' .did you mean 'noise'",
        ),
        (
            'tasks=[{"name": "n", "degradation": "noise", "sigm": 3}]',
            "no field 'sigm' .did you mean 'sigma'",
        ),
        (
            "model.heads=5",
            "model.heads must be a divisor of the token width features . patch.2 = 144",
        ),
        ("model.tile=47", "model.tile must be a multiple of model.patch"),
        (
            "loss.group=1",
            r"must be at least 2 \(the contrastive loss compares different images\), not 1",
        ),
        ("batch_size=26", "batch_size=26 must be a multiple of 12 .*; try 24 or 36"),
        ("batch_size=6", "; try 12$"),
        ("evaluate.overlap=48", "evaluate.overlap must be less than model.tile"),
    ],
)
def test_what_is_wrong_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load("configs/demo.py", [override])


@pytest.mark.parametrize(
    "changes, message",
    [
        (["optim.decay_start=100"], "optim.decay_steps must be above 0 where"),
        (
            ["optim.decay_start=10", "optim.decay_steps=5"],
            r"optim.decay_start must be at least optim.warmup_steps \(24\), not 10",
        ),
        (["evaluate.best=psnr_y", "evaluate.every=0"], "evaluate.every must be above 0"),
        (["finetune.lora_rank=2", "finetune.lora_targets=()"], "must be at least one pattern"),
        (["model.features=3", "model.heads=3"], "model.features must be at least 4 for"),
    ],
)
def test_conditions_on_several_keys(changes, message):
    with pytest.raises(ConfigError, match=message):
        load("configs/demo.py", ["optim.schedule=wsd", *changes])
