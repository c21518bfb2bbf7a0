"""Parameters that no degradation can have are refused, and the message names them."""

from __future__ import annotations

import pytest

from ipt_jax.tasks import make_task


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"degradation": "jpeg", "quality": 0},
            "quality must be a number or a range .* 1 to 100, not 0",
        ),
        ({"degradation": "jpeg", "quality": [50, 20]}, "quality must be"),
        ({"degradation": "jpg", "quality": 10}, "did you mean 'jpeg'"),
        ({"degradation": "motion_blur", "length": 200}, "length, in pixels"),
        ({"degradation": "gaussian_blur", "sigma": -1}, "sigma, in pixels"),
        ({"degradation": "noise", "sigma": [10, "x"]}, "sigma, in grey levels"),
        ({"degradation": "chain", "steps": []}, "at least one"),
        ({"degradation": "chain", "steps": ["jpeg"]}, "a list of"),
        (
            {"degradation": "chain", "steps": [{"degradation": "jpeg", "qality": 3}]},
            "no field 'qality' .did you mean 'quality'",
        ),
        (
            {"degradation": "chain", "steps": [{"degradation": "pairs"}]},
            "'pairs' cannot be among the steps of 'chain'",
        ),
        (
            {"degradation": "chain", "steps": [{"degradation": "chain", "steps": []}]},
            "'chain' cannot be among the steps",
        ),
        ({"degradation": "one_of", "choices": []}, "at least one"),
        ({"degradation": "one_of", "choices": ["noise"]}, "a list of"),
        (
            {
                "degradation": "one_of",
                "choices": [
                    {"degradation": "noise", "sigma": 1},
                    {"degradation": "bicubic", "scale": 2},
                ],
            },
            "one scale, not x1, x2",
        ),
        (
            {
                "degradation": "one_of",
                "choices": [{"degradation": "noise", "sigma": 1}],
                "share": [0.5],
            },
            "a sum of 1",
        ),
        ({"degradation": "noise", "sigma": 1, "clipped": 2}, "clipped must be a share, 0 to 1"),
        ({"degradation": "noise", "sigma": 1, "clean": "x"}, "clean must be a share"),
        ({"degradation": "jpeg", "quality": 10, "clean": -1}, "clean must be a share"),
    ],
)
def test_what_is_no_degradation_is_refused_by_name(entry, message):
    with pytest.raises(ValueError, match=rf"task 'n'.*{message}"):
        make_task({"name": "n", **entry})
