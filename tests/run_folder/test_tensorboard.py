"""TensorBoard events of a run."""

from __future__ import annotations

import importlib.util
import itertools
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import limits
import numpy as np
import pytest
import small

from ipt_jax.run_folder import tensorboard as events


def test_tensorboards_events_outlive_a_full_disk(tmp_path, caplog):
    which = events.Events(str(tmp_path / "tensorboard"), 4)
    which.add(5, {"loss": 1.5, "lr": 0.25})
    with limits.small_files():
        for step in (6, 7):
            which.add(
                step,
                {"before_after": 0},
                np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8),
            )
    assert (
        caplog.text.count("TensorBoard's events of step 6 are not in ") == 1
        and "step 7" not in caplog.text
    )
    which.add(8, {"loss": 0.5})
    which.close()
    first, *_, last = sorted(
        (tmp_path / "tensorboard").iterdir(), key=lambda path: (len(path.name), path.name)
    )
    # The fifth event is incomplete.
    whole = itertools.islice(read(first), 4)
    assert [described(event) for event in whole] == [
        (0, 0),
        (4, 1),
        (5, 0, ("loss", 1.5)),
        (5, 0, ("lr", 0.25)),
    ]
    assert [described(event) for event in read(last)] == [(0, 0), (4, 1), (8, 0, ("loss", 0.5))]


def described(event: Any) -> tuple[Any, ...]:
    return (
        event.step,
        event.session_log.status,
        *((value.tag, value.simple_value) for value in event.summary.value),
    )


def read(file: pathlib.Path) -> Iterator[Any]:
    from tensorboardX.proto.event_pb2 import Event

    data = file.read_bytes()
    while len(data) >= 16:
        size = int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="needs TensorBoard: pip install 'ipt_jax[tensorboard]'",
)
def test_tensorboard_itself_reads_config_and_hyperparameters(tmp_path):
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
    from tensorboard.plugins.hparams import plugin_data_pb2

    config = small.config()
    for start in (0, 4):
        which = events.Events(str(tmp_path / "tensorboard"), start, config)
        which.add(start + 1, {"loss": 1.5})
        which.close()
        # The files are named by the time in seconds.
        time.sleep(1.1)
    found = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    found.Reload()
    # A restart makes no further run.
    assert list(found.Runs()) == ["tensorboard"]
    (text, *_) = found.Tensors("tensorboard", "config/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    assert all(line.startswith("    ") for line in lines)
    assert json.loads("\n".join(lines)) == json.loads(json.dumps(config))
    data = found.SummaryMetadata("tensorboard", "_hparams_/session_start_info").plugin_data
    values = plugin_data_pb2.HParamsPluginData.FromString(data.content).session_start_info.hparams
    names = {name.replace("/", "."): value for name, value in values.items()}
    assert names["optim.learning_rate"].number_value == 1e-3
    assert names["batch_size"].number_value == 32
    assert [event.value for event in found.Scalars("tensorboard", "loss")] == [1.5, 1.5]
