"""`ipt restore --shard`: parts equal the whole, kills, names, lists of failures."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from restoring import digests, restore

from ipt_jax.images import write

RAY = importlib.util.find_spec("ray") is not None
ROOT = pathlib.Path(__file__).parents[2]


def put(path: pathlib.Path, seed: int, side: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path) -> pathlib.Path:
    """Makes five images, two of them with the same stem."""
    for seed, name in enumerate(("a.png", "a.bmp", "b/c.png", "b/d.png", "e.png")):
        put(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


def test_shards_together_are_the_whole(photos, weights, tmp_path, capsys):
    words = ("--task", "denoise50", "--weights", weights)
    assert restore(photos, *words, "-o", tmp_path / "whole") == 0
    numbers = []
    for shard in ("1/2", "0/2"):
        capsys.readouterr()
        assert restore(photos, *words, "-o", tmp_path / "parts", "--shard", shard) == 0
        numbers.append(int(capsys.readouterr().out.split(" restored")[0]))
    assert sum(numbers) == 5 and min(numbers) > 0
    whole = digests(tmp_path / "whole")
    assert sorted(whole) == ["a.bmp.png", "a.png.png", "b/c.png", "b/d.png", "e.png"]
    assert digests(tmp_path / "parts") == whole


def test_failures_are_listed_once_per_shard_until_they_are_gone(photos, copies, tmp_path):
    words = (photos, "--task", "denoise50", "--weights", copies, "-o", tmp_path / "out")
    good = (photos / "e.png").read_bytes()
    (photos / "e.png").write_bytes(good[:60])
    codes = [restore(*words, "--shard", f"{number}/2") for number in (1, 2)]
    assert sorted(codes) == [0, 1]
    (listing,) = (tmp_path / "out").glob("failed-*")
    assert listing.name == f"failed-{codes.index(1) + 1}-of-2.jsonl"
    (line,) = map(json.loads, listing.read_text().splitlines())
    assert line["source"] == str(photos / "e.png") and line["reason"]
    (photos / "e.png").write_bytes(good)
    assert restore(*words, "--shard", f"{codes.index(1) + 1}/2") == 0
    assert not listing.exists() and len(digests(tmp_path / "out")) == 5


def test_a_result_never_takes_the_name_that_another_shard_will_write(photos, copies, tmp_path):
    out = tmp_path / "out"
    put(photos / "e_denoise50.png", 9)
    put(out / "e.png", 7)
    foreign = (out / "e.png").read_bytes()
    words = (photos, "--task", "denoise50", "--weights", copies, "-o", out)
    assert all(restore(*words, "--shard", f"{number}/7") == 0 for number in range(7))
    assert (out / "e.png").read_bytes() == foreign
    assert {"e_denoise50.png", "e_denoise50_2.png"} <= set(digests(out)) and len(digests(out)) == 7
    # A run without shards agrees that all is done.
    before = digests(out)
    assert restore(*words) == 0 and digests(out) == before


@pytest.mark.parametrize(
    "words, said",
    [
        (["-o", "x.png"], "needs a folder"),
        (["--compare"], "do not go together"),
        (["-o", "-"], "- is one image"),
    ],
)
def test_what_cannot_be_divided_is_refused(photos, copies, words, said, capsys, monkeypatch):
    monkeypatch.chdir(photos)
    task = ("--task", "denoise50", "--weights", copies, "--shard", "1/2")
    assert restore("e.png", *task, *words) == 2
    assert said in capsys.readouterr().err


def test_two_processes_never_write_one_result(tmp_path):
    path = tmp_path / "a.png"
    write.part_path(path).write_bytes(b"left by a killed process, and longer than the result")
    with write.replacing(path) as first:
        first.write(b"first")
        with pytest.raises(OSError, match="another process"), write.replacing(path):
            pass
    assert path.read_bytes() == b"first"
    with pytest.raises(ZeroDivisionError), write.replacing(path) as second:
        second.write(b"second")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"] and path.read_bytes() == b"first"


@pytest.mark.slow
def test_a_killed_shard_resumes(weights, tmp_path):
    for seed in range(8):
        put(tmp_path / "photos" / f"{seed}.png", seed, 300)
    words = [sys.executable, "-m", "ipt_jax", "restore", str(tmp_path / "photos")]
    words += ["--task", "denoise50", "--weights", weights, "--batch", "2", "--overlap", "4"]
    shard = ["-o", str(tmp_path / "parts"), "--shard", "1/2"]
    process = subprocess.Popen([*words, *shard], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 300
        while not list((tmp_path / "parts").glob("[0-9].png")) and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    early = digests(tmp_path / "parts")
    done = {name: value for name, value in early.items() if not name.startswith(".")}
    subprocess.run([*words, "-o", str(tmp_path / "whole")], check=True, timeout=300)
    whole = digests(tmp_path / "whole")
    # What is there under its name is complete.
    assert done and done.items() <= whole.items() and len(done) < len(whole)
    times = {name: os.stat(tmp_path / "parts" / name).st_mtime_ns for name in done}
    for number in (1, 2):
        subprocess.run([*words, *shard[:3], f"{number}/2"], check=True, timeout=300)
    assert digests(tmp_path / "parts") == whole
    assert times == {name: os.stat(tmp_path / "parts" / name).st_mtime_ns for name in done}


@pytest.mark.slow
@pytest.mark.skipif(not RAY, reason="needs Ray: pip install 'ray[data]'")
def test_the_example_for_ray(photos, weights, tmp_path):
    words = [sys.executable, str(ROOT / "examples" / "restore_ray.py"), str(photos)]
    words += ["--task", "denoise50", "--weights", weights, "-o", str(tmp_path / "ray")]
    words += ["--actors", "1", "--batch", "2"]
    environment = {**os.environ, "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "5 restored" in done.stdout and "0 failed" in done.stdout
    whole = ["restore", photos, "--task", "denoise50", "--weights", weights, "--batch", "2"]
    command = [sys.executable, "-m", "ipt_jax", *map(str, whole), "-o", str(tmp_path / "whole")]
    subprocess.run(command, check=True, timeout=300)
    assert digests(tmp_path / "ray") == digests(tmp_path / "whole")
    (photos / "e.png").write_bytes(b"no image")
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 1 and "4 were there, 1 failed" in done.stdout, done.stderr[-3000:]
