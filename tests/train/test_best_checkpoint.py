"""The best evaluation of a run, and early stopping."""

from __future__ import annotations

from ipt_jax.train.best_checkpoint import BestCheckpoint


def test_best_counts_and_forgets_what_will_be_seen_again(tmp_path):
    settings = {"best": "sr2/ssim_y", "patience": 2}
    best = BestCheckpoint.open(tmp_path, settings, 0)
    scores = lambda x: {"sr2": {"ssim_y": x, "psnr_y": 0}, "sr3": {"ssim_y": 9.0}}  # noqa: E731
    assert [best.add(step, scores(x)) for step, x in ((1, 0.5), (2, 0.7), (3, 0.7))] == [
        True,
        True,
        False,
    ]
    assert best.step == 2 and not best.exhausted
    best.add(4, scores(0.6))
    assert best.exhausted
    resumed = BestCheckpoint.open(tmp_path, settings, 3)
    assert resumed.seen == [(1, 0.5), (2, 0.7), (3, 0.7)] and not resumed.exhausted
    # Evaluations by another metric do not count.
    assert BestCheckpoint.open(tmp_path, {"best": "psnr_y", "patience": 0}, 9).seen == []
    mean = BestCheckpoint(tmp_path / "other", "ssim_y", 0, [])
    mean.add(1, scores(1.0))
    assert mean.seen == [(1, 5.0)]
