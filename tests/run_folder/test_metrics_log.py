"""The metrics log: damaged lines are skipped and counted."""

from __future__ import annotations

import json
import logging

import pytest
from etils import epath

from ipt_jax.run_folder.metrics_log import MetricsLog, read_lines

GOOD = [{"step": step, "loss": 9.5 - step, "lr": None} for step in (1, 2, 3)]


def text(lines) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"step": 2, "lo\xd3s": 7.5}',
        b"[2, 7.5]",
        b"2",
        b"null",
        b'{"loss": 7.5}',
        b'{"step": "2", "loss": 7.5}',
        b'{"step": 2.0, "loss": 7.5}',
        b'{"step": true, "loss": 7.5}',
        b'{"step": -2, "loss": 7.5}',
        b'{"step": 2, "loss": NaN}',
        b'{"step": 2, "loss": 1e999}',
        b'{"step": 2, "loss": 1' + 400 * b"0" + b"}",
        b'{"step": 2, "loss": "7.5"}',
        b'{"step": 2, "loss": [7.5]}',
        b'{"step": 2, "loss": 7.5',
        b"[" * 100_000,
        b"\0\0\0",
    ],
)
def test_a_damaged_line_is_skipped_counted_and_removed_on_resume(damaged, tmp_path, caplog):
    file = epath.Path(tmp_path) / "metrics.jsonl"
    file.write_bytes(text(GOOD[:1]) + damaged + b"\n" + text(GOOD[1:]))
    with caplog.at_level(logging.WARNING):
        assert read_lines(file) == GOOD
    assert [record.getMessage() for record in caplog.records] == [
        f"1 damaged lines of metrics are skipped: {file}:2"
    ]
    MetricsLog(epath.Path(tmp_path), 2, False, False, True).close()
    assert file.read_bytes() == text(GOOD[:2])


def test_a_torn_last_line_is_skipped_without_a_warning(tmp_path, caplog):
    file = epath.Path(tmp_path) / "metrics.jsonl"
    file.write_bytes(text(GOOD) + b'{"step": 4, "lo')
    with caplog.at_level(logging.WARNING):
        assert read_lines(file) == GOOD
    assert not caplog.records
