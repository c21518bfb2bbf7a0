"""Configs: defaults, overrides, checks, what a resumed run may change; the shipped files."""

from __future__ import annotations

import re

import places
import pytest

from ipt_jax import trees
from ipt_jax.config import checks, defaults
from ipt_jax.config import loading as configs
from ipt_jax.config.loading import complete, load
from ipt_jax.config.resolve import differences, fingerprint, resolve
from ipt_jax.errors import ConfigError

SHIPPED = [
    "demo",
    "pretrain_deblur",
    "pretrain_folder",
    "pretrain_imagenet",
    "pretrain_paper",
    "pretrain_1b",
]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_are_whole_and_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(f"configs/{name}.py")
    assert resolve(config)["optim"]["schedule_steps"] == (
        config.optim.schedule_steps or config.steps
    )


def test_shipped_files_state_their_command():
    for file in configs.find("configs/demo.py").parent.glob("*.py"):
        if file.name != "__init__.py":
            command = "finetune" if file.name.startswith("finetune") else "pretrain"
            assert f"ipt {command} --config=configs/{file.name}" in file.read_text()


def test_paper_config_is_the_papers():
    config = load("configs/pretrain_paper.py")
    assert (config.batch_size, config.data.draw, config.loss.weight, config.optim.accumulate) == (
        256,
        "one",
        0.1,
        1,
    )
    assert config.steps == pytest.approx(1.50e6, rel=0.01)
    assert (config.model.features, config.model.encoder_layers, config.model.start) == (
        64,
        12,
        "torch",
    )


@pytest.mark.parametrize("chips, rate", [("8", 5e-5 * 0.75**0.5), ("256", 5e-5 * 24**0.5)])
def test_imagenet_config_scales_with_the_chips(chips, rate):
    config = load(f"configs/pretrain_imagenet.py:{chips}")
    assert config.batch_size == 24 * int(chips)
    assert config.optim.learning_rate == pytest.approx(rate)
    assert config.steps * config.batch_size == pytest.approx(300 * 1_331_167, rel=1e-4)
    checks.check_batch(config, 6, int(chips), max(1, int(chips) // 8))


@pytest.mark.parametrize(
    "override, message",
    [
        ("stepz=3", r"unknown config key 'stepz' \(did you mean 'steps'"),
        ("data.dirr=x", r"unknown config key 'data.dirr' \(did you mean 'data.dir'"),
        ("data=x", "'data' is a group of keys"),
        ("steps", "--config.steps has no value"),
        ("steps=many", "steps must be a int"),
        ("steps=0", "steps must be at least 1"),
        ("optim.ema=1.5", r"optim.ema must be in \[0, 1\)"),
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
        ("loss.group=1", "loss.group must be at least 2"),
        ("batch_size=26", "batch_size=26 must be a multiple of 12 .*; try 24 or 36"),
        ("batch_size=6", "; try 12$"),
        ("evaluate.overlap=48", "evaluate.overlap must be less than model.tile"),
    ],
)
def test_what_is_wrong_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load("configs/demo.py", [override])


def test_values_take_their_defaults_type():
    config = load(
        "configs/demo.py",
        [
            "optim.learning_rate=1",
            "tasks=sr2,sr3",
            "batch_size=8",
            "data.flips=false",
            "data.dir=7",
        ],
    )
    assert config.optim.learning_rate == 1.0 and isinstance(config.optim.learning_rate, float)
    assert config.tasks == ("sr2", "sr3")
    assert config.data.flips is False and config.data.dir == "7"


def test_a_new_task_needs_only_a_dict():
    config = complete(
        {
            "tasks": ["sr2", {"name": "denoise70", "degradation": "noise", "sigma": 70}],
            "batch_size": 8,
        }
    )
    names = [task.name for task in configs.make_tasks(config.tasks)]
    assert names == ["sr2", "denoise70"]
    assert resolve(config)["tasks"][1] == {"name": "denoise70", "degradation": "noise", "sigma": 70}


def test_files_that_are_no_configs(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"no config file 'configs/dmo.py' .did you mean 'configs/demo.py'.*pretrain_paper",
    ):
        load("configs/dmo.py")
    bad = tmp_path / "bad.py"
    bad.write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(ConfigError, match=r"bad.py does not give a config: ZeroDivisionError"):
        load(str(bad))
    bad.write_text("def get_config():\n    return {}\n")
    with pytest.raises(ConfigError, match="returned a dict"):
        load(str(bad))
    bad.write_text("x = 1\n")
    with pytest.raises(ConfigError, match="get_config"):
        load(str(bad))


def test_what_a_resumed_run_may_change():
    old = resolve(load("configs/demo.py"))
    free = [
        "steps=999",
        "data.dir=elsewhere",
        "data.workers=3",
        "checkpoint.every=7",
        "evaluate.every=9",
        "log.every=3",
        "devices=1",
    ]
    new = resolve(load("configs/demo.py", free), old["optim"]["schedule_steps"])
    assert differences(old, new) == [] and fingerprint(old) == fingerprint(new)
    other = resolve(load("configs/demo.py", ["seed=1", "loss.weight=0.2"]))
    assert differences(old, other) == ["loss.weight: 0.1 -> 0.2", "seed: 0 -> 1"]
    assert fingerprint(old) != fingerprint(other)


def test_readme_names_only_keys_that_exist():
    readme = (places.ROOT / "README.md").read_text()
    known = trees.flatten(defaults.default())
    named = re.findall(r"--config\.([\w.]+)", readme)
    assert named and all(key in known for key in named)


def test_a_run_older_than_a_key_goes_on_with_its_default():
    old = resolve(load("configs/demo.py"))
    new = resolve(load("configs/demo.py"))
    del old["finetune"], old["data"]["epoch_crops"]
    assert differences(old, new) == []
    new["finetune"]["lora_rank"] = 2
    assert differences(old, new) == ["finetune.lora_rank: 0 -> 2"]
