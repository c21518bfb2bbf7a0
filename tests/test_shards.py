"""Shards: parsing, and the division of paths."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_jax.errors import UsageError
from ipt_jax.restore.plan import Job, split_jobs
from ipt_jax.shards import Shard

LETTERS = st.characters(codec="utf-8", exclude_characters="/\0") | st.just("\udcff")
PARTS = st.text(LETTERS, min_size=1, max_size=12).filter(lambda text: text not in (".", ".."))
PATHS = st.lists(st.lists(PARTS, min_size=1, max_size=3).map("/".join), unique=True, max_size=40)


def jobs_of(paths: list[str]) -> list[Job]:
    return [Job(Path("in", p), Path("out", f"{p}.png"), "png", name_inside=Path(p)) for p in paths]


@settings(deadline=None)
@given(paths=PATHS, count=st.integers(1, 12), seed=st.integers(0, 99))
def test_shards_are_a_partition_whatever_the_order_of_the_files(paths, count, seed):
    shuffled = random.Random(seed).sample(paths, len(paths))
    found = []
    for number in range(1, count + 1):
        shard = Shard(number, count)
        mine, others = split_jobs(jobs_of(paths), shard)
        assert {j.source for j in mine}.isdisjoint({j.source for j in others})
        assert len(mine) + len(others) == len(paths)
        again, _ = split_jobs(jobs_of(shuffled), shard)
        assert {j.source for j in again} == {j.source for j in mine}
        found += [job.source for job in mine]
    assert sorted(found) == sorted(Path("in", p) for p in paths)


def test_a_path_keeps_its_shard_for_ever():
    # Jobs on different machines and of different versions must agree.
    paths = ["a.png", "b/a.png", "b/ä.jpg", "c d/e.tif"]
    found = [[p for p in paths if Shard(i, 3).has_path(PurePosixPath(p))] for i in (1, 2, 3)]
    assert found == EXPECTED
    for shard in (Shard(1, 5), Shard(2, 5), Shard(3, 5), Shard(4, 5), Shard(5, 5)):
        forms = {
            shard.has_path(PurePosixPath(unicodedata.normalize(form, "ä.png")))
            for form in ("NFC", "NFD")
        }
        assert len(forms) == 1


EXPECTED = [["b/ä.jpg"], ["a.png", "c d/e.tif"], ["b/a.png"]]


def test_shards_are_even():
    sizes = [
        sum(Shard(i, 8).has_path(PurePosixPath(f"scene/{n}.png")) for n in range(4000))
        for i in range(1, 9)
    ]
    assert sum(sizes) == 4000 and min(sizes) > 420 and max(sizes) < 580


def test_results_whose_names_differ_in_case_are_made_by_one_shard():
    for number in range(200):
        paths = [f"{number}.png", f"x/{number}.PNG", f"x/{number}.png"]
        halves = [split_jobs(jobs_of(paths), Shard(i, 2))[0] for i in (1, 2)]
        for half in halves:
            assert sum(job.source.parent.name == "x" for job in half) in (0, 2)


@pytest.mark.parametrize("text, shard", [("3/8", (3, 8)), ("0/8", (8, 8)), ("8/8", (8, 8))])
def test_indices_from_0_and_from_1(text, shard):
    assert Shard.parse(text) == Shard(*shard)


@pytest.mark.parametrize("text", ["9/8", "/8", "3", "3/", "-1/8", "1/0", "0/0", "1.5/2", "a/b", ""])
def test_wrong_shards(text):
    with pytest.raises(UsageError, match="--shard"):
        Shard.parse(text)
