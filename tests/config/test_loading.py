"""Reading config files and overrides; the shipped files."""

from __future__ import annotations

import places
import pytest

from ipt_jax.config import checks
from ipt_jax.config import loading as configs
from ipt_jax.config.loading import complete, load
from ipt_jax.config.resolve import resolve
from ipt_jax.errors import ConfigError
from ipt_jax.tasks import make_tasks

SHIPPED = sorted(
    file.stem for file in (places.ROOT / "configs").glob("*.py") if file.name != "__init__.py"
)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_are_complete_and_found_from_anywhere(name, tmp_path, monkeypatch):
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
    names = [task.name for task in make_tasks(config.tasks)]
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
