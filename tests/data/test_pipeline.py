"""Batches are a pure function of (config, step), for any number of hosts, workers and threads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time

import cv2
import numpy as np
import places
import pytest
from data_sets import Noisy, Pictures, batches, digest, jpeg, taken, write_tfds

from ipt_jax.config import loading as configs
from ipt_jax.data import pipeline
from ipt_jax.data.pipeline import Batches, stream
from ipt_jax.data.sources.folder import Folder
from ipt_jax.data.sources.source import open_source
from ipt_jax.errors import DataError
from ipt_jax.tasks import PAPER_TASKS, TASKS, make_tasks

LOADERS = [
    dict(workers=w, threads=t, prefetch=2)
    for w, t in ((0, 0), (0, 1), (0, 3), (1, 0), (2, 0), (3, 0))
]


def rows_of(which: Batches, step: int) -> np.ndarray:
    """Returns which image each row shows, given flat `Pictures` and a task that keeps hq."""
    pair = next(iter(which(step).batch.values()))
    assert (pair["hq"] == pair["hq"][:, :1, :1, :1]).all()
    return pair["hq"][:, 0, 0, 0]


# The same batches everywhere.


@pytest.mark.parametrize(
    "loader", LOADERS, ids=lambda d: f"{d['workers']} workers, {d['threads']} threads"
)
def test_any_number_of_workers_and_threads_gives_the_same_batches(loader):
    which = batches(Noisy(9), flips=True)
    assert taken(which, 5, 12, loader) == [digest(which(step).batch) for step in range(5, 12)]


def test_batches_differ_by_step_and_seed():
    digests = [
        digest(batches(Noisy(9), seed=seed)(step).batch) for seed in (3, 4) for step in range(4)
    ]
    assert len(set(digests)) == 8


@pytest.mark.parametrize("crops", [1, 2])
@pytest.mark.parametrize("draw", ["all", "one"])
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_shares_make_up_the_whole(hosts, draw, crops):
    settings = dict(batch_size=6 * 16, draw=draw, crops=crops, flips=True)
    whole = batches(Noisy(11), **settings)
    shares = [
        batches(Noisy(11), process_index=i, process_count=hosts, **settings) for i in range(hosts)
    ]
    for step in (0, 1, 7):
        parts = [share(step).batch for share in shares]
        for name, pair in whole(step).batch.items():
            for key in pair:
                np.testing.assert_array_equal(
                    np.concatenate([part[name][key] for part in parts]), pair[key]
                )


def test_starting_late_reads_nothing_of_what_was_before():
    # The size of ImageNet.
    source = Noisy(1_281_167)
    began = time.process_time()
    which = batches(source)
    with contextlib.closing(
        stream(which, 5_000_000, 5_000_010, dict(workers=0, threads=0, prefetch=1))
    ) as items:
        late = digest(next(items).batch)
    assert time.process_time() - began < 1
    # The images of one batch.
    assert len(source.reads) == 4
    fresh = Noisy(1_281_167)
    assert late == digest(batches(fresh)(5_000_000).batch)
    assert fresh.reads == source.reads


def test_shape_and_dtype_are_those_of_the_design():
    for name, pair in batches(Noisy(5))(0).batch.items():
        scale = TASKS[name].scale
        assert pair["hq"].shape == (4, 12 * scale, 12 * scale, 3) and pair["hq"].dtype == np.uint8
        assert pair["lq"].shape == (4, 12, 12, 3)
        assert pair["lq"].dtype == (np.uint8 if name.startswith("sr") else np.float32)
        assert pair["lq"].min() >= 0 and pair["lq"].max() <= 255


# Order and groups.


@pytest.mark.parametrize(
    ("count", "group", "crops"), [(3, 2, 1), (3, 2, 3), (2, 2, 2), (5, 4, 1), (9, 3, 2), (40, 4, 5)]
)
def test_groups_are_of_different_pictures(count, group, crops):
    which = batches(
        Pictures(count), tasks=["sr2"], group=group, crops=crops, batch_size=group * crops * 3
    )
    for step in range(12):
        for members in rows_of(which, step).reshape(-1, group):
            assert len(set(members)) == group


@pytest.mark.parametrize(("count", "group", "crops"), [(8, 2, 1), (7, 2, 3), (11, 3, 1)])
def test_every_picture_is_seen_once_an_epoch_but_for_the_last_groups_remainder(count, group, crops):
    which = batches(
        Pictures(count), tasks=["sr2"], group=group, crops=crops, batch_size=group * crops
    )
    an_epoch = count // group
    assert which.epoch_pictures == an_epoch * group
    orders = []
    for epoch in range(6):
        seen = np.concatenate([rows_of(which, epoch * an_epoch + step) for step in range(an_epoch)])
        values, times = np.unique(seen, return_counts=True)
        assert len(values) == which.epoch_pictures and (times == crops).all()
        orders.append(tuple(seen))
    assert len(set(orders)) > 1


def test_a_picture_that_misses_an_epoch_is_seen_in_others():
    which = batches(Pictures(7), tasks=["sr2"], batch_size=2)
    assert {int(i) for step in range(60) for i in rows_of(which, step)} == set(range(7))


def test_crops_of_one_picture_differ_and_the_first_is_that_of_one_crop():
    one, three = (
        batches(Noisy(4), crops=crops, batch_size=6 * 2 * crops)(0).batch for crops in (1, 3)
    )
    for name in one:
        for key in ("lq", "hq"):
            np.testing.assert_array_equal(three[name][key][:2], one[name][key])
        assert len({row.tobytes() for row in three[name]["lq"]}) == 6


def test_one_task_a_step_is_drawn_evenly_and_by_the_step_alone():
    which = batches(Pictures(4), draw="one", batch_size=2)
    names = [which.drawn(step)[0].name for step in range(6000)]
    counts = [names.count(name) for name in PAPER_TASKS]
    # Four standard deviations of a binomial distribution.
    assert min(counts) > 880 and max(counts) < 1120
    assert [which.drawn(step)[0].name for step in reversed(range(6000))] == names[::-1]
    other = batches(Pictures(9), draw="one", batch_size=8, process_index=1, process_count=2)
    assert [other.drawn(step)[0].name for step in range(50)] == names[:50]
    assert names != [
        batches(Pictures(4), draw="one", batch_size=2, seed=4).drawn(step)[0].name
        for step in range(6000)
    ]
    for step in range(5):
        (name,) = which(step).batch
        assert name == names[step] and len(which(step).batch[name]["lq"]) == 2


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="batch_size=20 must be a multiple of 24"):
        batches(Pictures(9), batch_size=20, process_count=2)
    with pytest.raises(DataError, match=r"3 image.* groups of 4"):
        batches(Pictures(3), group=4, batch_size=24)


# Small images.


@pytest.mark.parametrize("size", [(1, 1), (5, 90), (47, 30), (12, 200)])
def test_batches_of_small_pictures_show_them_all_over(size):
    value = Pictures(8, *size)
    assert {int(v) for v in rows_of(batches(value, tasks=["sr4"], batch_size=6), 0)} <= set(
        range(8)
    )


def test_a_picture_too_narrow_to_enlarge_is_replaced():
    class Mixed(Noisy):
        def __getitem__(self, i: int) -> np.ndarray:
            return np.zeros((1, 60_000, 3), np.uint8) if i == 2 else super().__getitem__(i)

    item = batches(Mixed(4))(0)
    assert any("picture 2: 60000x1 pixels are too narrow" in text for text in item.replaced)


# Images that cannot be read.


def test_an_unreadable_picture_is_named_and_replaced_by_no_group_mate():
    broken = batches(Pictures(9, broken=[1, 4]), tasks=["sr2"], group=3, batch_size=6)
    whole = batches(Pictures(9), tasks=["sr2"], group=3, batch_size=6)
    replaced = 0
    for step in range(15):
        item, rows, intended = broken(step), rows_of(broken, step), rows_of(whole, step)
        assert not {1, 4} & set(rows)
        assert len(set(rows[:3])) == len(set(rows[3:])) == 3
        np.testing.assert_array_equal(
            rows[~np.isin(intended, (1, 4))], intended[~np.isin(intended, (1, 4))]
        )
        assert {text.split(": ")[0] for text in item.replaced} <= {"picture 1", "picture 4"}
        assert len(item.replaced) >= np.isin(intended, (1, 4)).sum()
        replaced += len(item.replaced)
        assert (
            digest(item.batch) == digest(broken(step).batch)
            and item.replaced == broken(step).replaced
        )
    assert (
        replaced
        and "torn in half" in broken(next(s for s in range(15) if broken(s).replaced)).replaced[0]
    )


def test_the_only_other_picture_is_found_and_none_is_an_error():
    two_good = batches(Pictures(3, broken=[0]), tasks=["sr2"], batch_size=2)
    assert all(set(rows_of(two_good, step)) == {1, 2} for step in range(9))
    for count, bad in ((2, [0]), (3, [0, 1]), (50, range(50))):
        which = batches(Pictures(count, broken=bad), tasks=["sr2"], batch_size=2)
        with pytest.raises(DataError, match=r"no readable image .*picture .*torn in half"):
            for step in range(5):
                which(step)


def test_a_truncated_jpeg_among_good_ones(tmp_path):
    for i in range(8):
        data = jpeg(i)
        (tmp_path / f"{i}.jpg").write_bytes(data[: len(data) // 2] if i == 5 else data)
    which = batches(Folder(tmp_path))
    items = [which(step) for step in range(2)]
    replaced = [text for item in items for text in item.replaced]
    assert len(replaced) == 1 and replaced[0].startswith("5.jpg: ") and "truncated" in replaced[0]
    with contextlib.closing(
        stream(which, 0, 2, dict(workers=1, threads=0, prefetch=1))
    ) as streamed:
        for item, again in zip(items, streamed, strict=True):
            assert digest(item.batch) == digest(again.batch) and item.replaced == again.replaced


def test_a_degradation_that_cannot_work_is_told_before_training(tmp_path):
    config = configs.complete(
        {
            "tasks": [
                {"name": "r", "degradation": "rain_folder", "directory": str(tmp_path / "no")}
            ],
            "batch_size": 2,
        }
    )
    with pytest.raises(DataError, match=r"task r: .*is not a folder"):
        pipeline.make_batches(Noisy(3), make_tasks(config.tasks), config)


# Real sources.


def test_a_tfds_set_end_to_end(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    pictures = [jpeg(i) for i in range(7)]
    write_tfds(tmp_path, pictures)
    config = configs.complete(
        {
            "data": dict(source="tfds", name="tiny", dir=str(tmp_path), held_out=1, workers=1),
            "batch_size": 12,
            "model.tile": 12,
            "evaluate.overlap": 4,
        }
    )
    source = open_source(config.data)
    which = pipeline.make_batches(source, make_tasks(config.tasks), config)
    assert len(source) == 6
    expected = [digest(which(step).batch) for step in range(4)]
    assert taken(which, 0, 4, config.data) == expected

    class Direct(Noisy):
        def __getitem__(self, i: int) -> np.ndarray:
            return cv2.imdecode(np.frombuffer(pictures[i], np.uint8), cv2.IMREAD_COLOR_RGB)

    assert [
        digest(batches(Direct(6), seed=0, batch_size=12)(step).batch) for step in range(4)
    ] == expected


GOLDEN = places.GOLDEN / "golden_batches.json"


def measured() -> dict[str, object]:
    """Returns hashes and means that identify the demo's first batches.

    Images that are stored as PNG, and what integer arithmetic makes of them, are equal on all
    machines, so their hashes are returned. (The pixels of a JPEG depend on the decoder.) Noise and
    rain use exponentials and logarithms, whose last bit depends on the processor, so the mean
    changes are returned.
    """
    pytest.importorskip("skimage")
    config = configs.load("configs/demo.py")
    source = open_source(config.data)
    which = pipeline.make_batches(source, make_tasks(config.tasks), config)
    exact, means = {}, {}
    for step in (0, 1, 1000):
        pictures = which.batch_size // len(which.tasks)
        lossless = [
            source.name(which.picture(step * pictures + row)).endswith(".png")
            for row in range(pictures)
        ]
        assert any(lossless)
        for task in which.tasks:
            pair = which(step).batch[task.name]
            state = hashlib.sha256(pair["hq"][lossless].tobytes())
            if task.degrade.rounded:
                state.update(pair["lq"][lossless].tobytes())
            else:
                change = pair["lq"][lossless] - pair["hq"][lossless]
                means[f"{step} {task.name}"] = [
                    round(float(np.abs(row).mean()), 3) for row in change
                ]
            exact[f"{step} {task.name}"] = state.hexdigest()[:16]
    return {"version": pipeline.DATA_VERSION, "exact": exact, "means": means}


def test_the_demos_batches_are_the_golden_ones():
    golden, found = json.loads(GOLDEN.read_text()), measured()
    advice = (
        "the data changed: raise pipeline.DATA_VERSION and run `python -m tests.data.test_pipeline`"
    )
    assert found["version"] == golden["version"], advice
    assert found["exact"] == golden["exact"], advice
    assert found["means"].keys() == golden["means"].keys()
    for key, values in golden["means"].items():
        # Both are rounded to thousandths; an error in the last bit of each float32 is far below.
        np.testing.assert_allclose(found["means"][key], values, atol=1.1e-3, err_msg=advice)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(measured(), indent=1) + "\n")
