"""Runs, data and weights on a bucket, with the real commands and a server on 127.0.0.1.

The server speaks Google Cloud Storage's protocol; a proxy in front of it injects faults.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import bucket
import data_sets
import groups
import numpy as np
import places
import pytest
import training
from PIL import Image

from ipt_jax.data.prepare import pack
from ipt_jax.train import pretrain
from ipt_jax.weights import default

pytestmark = [
    pytest.mark.skipif(bucket.binary() is None, reason="needs the extra 'bucket'"),
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is not None,
        reason="with TensorFlow installed, etils opens gs:// by it, which ignores the test server",
    ),
]
pytest.importorskip("skimage", reason="needs scikit-image's photographs")
pytest.importorskip("gcsfs", reason="needs gcsfs")

STEPS = 24


@pytest.fixture(scope="module")
def proxy() -> Iterator[bucket.Proxy]:
    port = bucket.free_port()
    front = bucket.Proxy(port)
    with bucket.serve(port, front.port):
        yield front
    front.close()


@pytest.fixture(autouse=True)
def no_faults(proxy) -> Iterator[None]:
    yield
    proxy.fault, proxy.down = (lambda number, method, path: None), False


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> pathlib.Path:
    """A packed set of the small photographs, on the local disk."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "photos").mkdir()
    training.make_photographs(folder / "photos")
    pack.pack(str(folder / "photos"), str(folder / "set"))
    return folder / "set"


@pytest.fixture(scope="module")
def data(proxy, packed) -> str:
    """The same set on the bucket."""
    bucket.upload(proxy.target, packed, "photos")
    return f"gs://{bucket.NAME}/photos"


def values(data: str, **changes: Any) -> dict[str, Any]:
    """The config of a run on a packed set, evaluated once on its way."""
    found = training.settings(pathlib.Path("unused"), **{"steps": STEPS, **changes})
    found["data"] = {"source": "packed", "dir": data, "held_out": 2}
    found["checkpoint"] = {"every": 6, "keep": 2}
    found["evaluate"] = {"every": 12, "pictures": 1, "batch": 4, "overlap": 4, "best": "psnr_y"}
    found["log"] = {"every": 1}
    return {**found, **changes}


@pytest.fixture(scope="module")
def straight(packed, tmp_path_factory) -> pathlib.Path:
    """The run on the local disk, without a stop: what every run on the bucket must equal."""
    from ipt_jax.config.loading import complete

    workdir = tmp_path_factory.mktemp("straight") / "run"
    assert pretrain(complete(values(str(packed))), str(workdir)).finished
    return workdir


def command(proxy: bucket.Proxy, *words: str) -> dict[str, Any]:
    environment = {
        **bucket.child_environment(proxy.port),
        "PYTHONPATH": str(places.ROOT),
        # The runs of the other tests compile the same programs.
        "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"],
    }
    return {"args": [sys.executable, "-m", "ipt_jax", *words], "env": environment, "text": True}


def run(proxy: bucket.Proxy, *words: str, code: int = 0) -> str:
    """Runs a command to its end; returns what it wrote."""
    done = subprocess.run(
        **command(proxy, *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500
    )
    assert done.returncode == code, done.stdout
    assert "Traceback" not in done.stdout and "gcsfs" not in done.stdout, done.stdout
    return done.stdout


def train_words(folder: pathlib.Path, data: str, name: str, **changes: Any) -> list[str]:
    file = training.write_config(folder / "config.py", values(data, **changes))
    return ["pretrain", f"--config={file}", f"--workdir=gs://{bucket.NAME}/{name}"]


def download(proxy: bucket.Proxy, name: str, folder: pathlib.Path) -> pathlib.Path:
    """Copies a run's checkpoints from the bucket, without the help of a client."""
    import urllib.parse
    import urllib.request

    for key in bucket.keys(proxy.target, f"{name}/checkpoints/"):
        file = folder / key
        file.parent.mkdir(parents=True, exist_ok=True)
        address = urllib.parse.quote(key, safe="")
        url = f"http://127.0.0.1:{proxy.target}/storage/v1/b/{bucket.NAME}/o/{address}?alt=media"
        with urllib.request.urlopen(url, timeout=60) as answer:
            file.write_bytes(answer.read())
    return folder / name


def assert_equals(proxy: bucket.Proxy, name: str, straight: pathlib.Path, folder: pathlib.Path):
    local = download(proxy, name, folder)
    training.assert_same(training.arrays(local, STEPS), training.arrays(straight, STEPS))


@pytest.fixture(scope="module")
def finished(proxy, data, tmp_path_factory) -> str:
    """A run on the bucket, killed twice at random moments and started again until it is done."""
    words = train_words(tmp_path_factory.mktemp("finished"), data, "killed")
    chance = random.Random(int(os.environ.get("IPT_TEST_SEED", "1")))
    for kills in range(2):
        process = subprocess.Popen(**command(proxy, *words), stderr=subprocess.DEVNULL)
        end = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < end:
            logged = bucket.keys(proxy.target, "killed/metrics/")
            if len(logged) > 5 + 8 * kills:
                break
            time.sleep(0.2)
        time.sleep(chance.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(proxy, *words)
    return "killed"


@pytest.mark.slow
def test_a_run_that_is_killed_twice_equals_the_local_run(proxy, finished, straight, tmp_path):
    assert_equals(proxy, finished, straight, tmp_path)
    names = bucket.keys(proxy.target, f"{finished}/metrics/")
    steps = [int(name.rsplit("/", 1)[1].split("-")[0]) for name in names if "train" in name]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_requests_do_not_grow_with_the_batches(proxy, data, tmp_path):
    """Twelve steps more cost only their lines of metrics and the records of their images."""
    counts = []
    for steps in (6, 18):
        before = len(proxy.requests)
        words = train_words(tmp_path, data, f"count{steps}", evaluate={"every": 0})
        run(proxy, *words, f"--config.steps={steps}", "--config.checkpoint.every=100")
        made = proxy.requests[before:]
        lists = [path for method, path in made if method == "GET" and "/o?" in path]
        counts.append((len(made), len(lists)))
    (few, few_lists), (many, many_lists) = counts
    # Less than one a step: the lock and Orbax look again where a run takes longer.
    assert many_lists - few_lists < 12, counts
    print(f"requests of a step: {(many - few) / 12}")
    # Each step reads four images and writes one line of metrics.
    assert (many - few) / 12 <= 12, counts


@pytest.mark.slow
def test_requests_of_a_save_are_bounded(proxy, data, tmp_path):
    """docs/data.md states the numbers."""
    counts = []
    for every in (100, 2):
        before = len(proxy.requests)
        words = train_words(tmp_path, data, f"saves{every}", evaluate={"every": 0})
        run(proxy, *words, "--config.steps=12", f"--config.checkpoint.every={every}")
        counts.append(len(proxy.requests) - before)
    saves = 5
    each = (counts[1] - counts[0]) / saves
    print(f"requests: {counts[0]} without, {counts[1]} with {saves} more saves, {each} each")
    assert 5 <= each <= 180, counts


@pytest.mark.slow
def test_a_tfds_set_on_the_bucket_trains_as_on_a_disk(proxy, tmp_path):
    from ipt_jax.config.loading import complete

    data_sets.write_tfds(tmp_path / "sets", [data_sets.jpeg(i) for i in range(8)])
    bucket.upload(proxy.target, tmp_path / "sets", "sets")

    def changed(place: str) -> dict[str, Any]:
        found = values(place, steps=4, evaluate={"every": 0})
        return {**found, "data": {"source": "tfds", "name": "tiny", "dir": place, "held_out": 2}}

    file = training.write_config(tmp_path / "config.py", changed(f"gs://{bucket.NAME}/sets"))
    before = len(proxy.requests)
    run(proxy, "pretrain", f"--config={file}", f"--workdir=gs://{bucket.NAME}/of-tfds")
    records = [path for _, path in proxy.requests[before:] if "array_record" in path]
    assert records, "the records were not read from the bucket"
    assert pretrain(complete(changed(str(tmp_path / "sets"))), str(tmp_path / "local")).finished
    local = download(proxy, "of-tfds", tmp_path / "copy")
    training.assert_same(training.arrays(local, 4), training.arrays(tmp_path / "local", 4))
    text = run(proxy, "data", "check", "tiny", "--data-dir", f"gs://{bucket.NAME}/sets")
    assert "8 images" in text


@pytest.mark.slow
def test_two_processes_share_a_run_on_the_bucket(proxy, data, packed, tmp_path):
    """Two processes on the bucket save what two processes on a disk save."""

    def both(workdir: str, place: str, steps: int) -> None:
        changes: dict[str, Any] = {"steps": steps, "devices": 0, "batch_size": 16}
        changes["evaluate"] = {"every": 0}
        file = training.write_config(tmp_path / "config.py", values(place, **changes))
        port = groups.free_port()
        processes = []
        for i in range(2):
            words = [f"--coordinator=127.0.0.1:{port}", "--num-processes=2", f"--process-id={i}"]
            settings = command(
                proxy, "pretrain", f"--config={file}", f"--workdir={workdir}", *words
            )
            flags = "--xla_backend_optimization_level=0 --xla_cpu_multi_thread_eigen=false"
            settings["env"]["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=2 {flags}"
            processes.append(
                subprocess.Popen(**settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            )
        try:
            texts = [process.communicate(timeout=300)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0, 0], "\n---\n".join(texts)

    both(f"gs://{bucket.NAME}/pair", data, 4)
    # The second start resumes the state that both processes have written.
    both(f"gs://{bucket.NAME}/pair", data, 6)
    both(str(tmp_path / "local"), str(packed), 6)
    local = download(proxy, "pair", tmp_path / "copy")
    training.assert_same(training.arrays(local, 6), training.arrays(tmp_path / "local", 6))


@pytest.mark.slow
def test_sigterm_saves_and_the_run_is_resumed(proxy, data, straight, tmp_path):
    words = train_words(tmp_path, data, "stopped")
    process = subprocess.Popen(
        **command(proxy, *words, "--stopped-code", "75"), stderr=subprocess.PIPE
    )
    end = time.monotonic() + 240
    while len(bucket.keys(proxy.target, "stopped/metrics/")) < 4 and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 75 and "saved" in errors, errors
    assert "stopped/lock" not in bucket.keys(proxy.target, "stopped/")
    # The profiler cannot write to a bucket itself.
    run(proxy, *words, "--config.log.profile=1:100000")
    assert_equals(proxy, "stopped", straight, tmp_path)
    traces = bucket.keys(proxy.target, "stopped/tensorboard/plugins/profile/")
    assert len(traces) == 1 and traces[0].endswith(".xplane.pb"), traces


@pytest.mark.slow
def test_every_command_takes_weights_on_the_bucket(proxy, finished, tmp_path):
    run_ = f"gs://{bucket.NAME}/{finished}"
    (tmp_path / "set").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "set" / "a.png")
    scores = tmp_path / "scores.json"
    tiling = ("--overlap", "4", "--batch", "2")
    run(
        proxy,
        "evaluate",
        "--weights",
        run_,
        "--data",
        str(tmp_path / "set"),
        "--tasks",
        "sr2",
        *tiling,
        "--json",
        str(scores),
    )
    assert json.loads(scores.read_text())["rows"][0]["pictures"] == 1
    out = tmp_path / "best.npz"
    run(proxy, "export", "--weights", f"{run_}@best", "--format", "npz", "--out", str(out))
    restored = tmp_path / "restored.png"
    run(
        proxy,
        "restore",
        str(tmp_path / "set" / "a.png"),
        "--task",
        "sr2",
        "--weights",
        f"{run_}@{STEPS}",
        "-o",
        str(restored),
        *tiling,
    )
    assert Image.open(restored).size == (48, 40)
    code = (
        f"import ipt_jax; model = ipt_jax.load({run_!r}); print(sorted(model.tasks), "
        "model.provenance['step'])"
    )
    settings = command(proxy)
    settings["args"] = [sys.executable, "-c", code]
    loaded = subprocess.run(**settings, capture_output=True, timeout=300)
    assert loaded.stdout.strip() == f"['denoise50', 'sr2'] {STEPS}", loaded.stderr


@pytest.mark.slow
def test_a_weights_folder_and_a_file_on_the_bucket(proxy, tmp_path, monkeypatch):
    """They are copied once, and again when the object has changed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bucket.upload(proxy.target, default.SHIPPED / "ipt_small", "weights")
    address = f"gs://{bucket.NAME}/weights"
    out = tmp_path / "sr2.safetensors"
    words = ("export", "--format", "safetensors", "--overwrite", "--out", str(out), "--weights")
    assert "tasks sr2" in run(proxy, *words, address, "--task", "sr2")
    (copy,) = (tmp_path / "cache").rglob("weights.safetensors")
    written = copy.stat().st_mtime_ns
    run(proxy, *words, address, "--task", "sr2,jpeg")
    assert copy.stat().st_mtime_ns == written
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "w.safetensors").write_bytes(out.read_bytes())
    bucket.upload(proxy.target, tmp_path / "files", "files")
    file = f"gs://{bucket.NAME}/files/w.safetensors"
    assert "tasks sr2, jpeg" in run(proxy, *words, file, "--weights-tasks", "sr2,jpeg")
    run(proxy, *words, address, "--task", "sr2")
    (tmp_path / "files" / "w.safetensors").write_bytes(out.read_bytes())
    bucket.upload(proxy.target, tmp_path / "files", "files")
    printed = run(proxy, *words, file)
    assert "tasks sr2\n" in printed, printed
    assert f"{file} (downloaded" in run(proxy, "weights")


@pytest.mark.slow
def test_finetuning_from_the_bucket_to_the_bucket(proxy, finished, data, tmp_path):
    file = training.write_config(tmp_path / "config.py", values(data, tasks=["sr2"], steps=2))
    run(
        proxy,
        "finetune",
        f"--config={file}",
        f"--workdir=gs://{bucket.NAME}/tuned",
        f"--config.init_from=gs://{bucket.NAME}/{finished}",
        "--config.evaluate.best=",
        "--config.evaluate.every=0",
    )
    assert any("checkpoints/2/" in key for key in bucket.keys(proxy.target, "tuned/"))


@pytest.mark.slow
def test_a_second_run_is_refused_while_the_first_lives(proxy, data, tmp_path):
    words = train_words(tmp_path, data, "locked", steps=100_000)
    process = subprocess.Popen(**command(proxy, *words), stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 240
        while len(bucket.keys(proxy.target, "locked/metrics/")) < 2 and time.monotonic() < end:
            time.sleep(0.2)
        text = run(proxy, *words, code=2)
        assert "belongs to a run that is under way" in text and str(process.pid) in text
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_data_on_the_bucket_is_checked_and_previewed(proxy, data, tmp_path):
    text = run(proxy, "data", "check", data)
    assert "8 images" in text and "cannot be read" not in text
    file = training.write_config(tmp_path / "config.py", values(data))
    page = tmp_path / "page.png"
    run(proxy, "data", "preview", f"--config={file}", "-o", str(page))
    assert Image.open(page).width > 100
    text = run(proxy, "data", "check", f"gs://{bucket.NAME}/nothing", code=2)
    assert "holds neither a packed set nor a TFDS set" in text
    text = run(proxy, "data", "prepare", "folder", str(tmp_path), "--out", data, code=2)
    assert "only a local path is possible" in text


@pytest.mark.soak
def test_faults_between_the_run_and_the_bucket_lose_nothing(proxy, data, straight, tmp_path):
    """A tenth of the requests fails, is cut or waits, a few wait for 10 s; one outage of 60 s."""
    chance = random.Random(3)
    kinds = ("503", "429", "cut upload", "cut download", 0.5, 0.5, 0.5, 0.5)

    def fault(number: int, method: str, path: str) -> Any:
        if number % 101 == 100:
            return 10.0
        kind = chance.choice(kinds) if chance.random() < 0.1 else None
        # When the answer to the last part of an upload is lost, the client sends that part again.
        # Google's servers then answer that the upload is complete, this one that there is none.
        return None if kind == "cut download" and path.startswith("/upload/") else kind

    proxy.fault = fault
    before = proxy.faults
    words = train_words(tmp_path, data, "faults")
    process = subprocess.Popen(
        **command(proxy, *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    end = time.monotonic() + 240
    while len(bucket.keys(proxy.target, "faults/metrics/")) < 8 and time.monotonic() < end:
        time.sleep(0.2)
    proxy.down = True
    time.sleep(60)
    proxy.down = False
    text, _ = process.communicate(timeout=500)
    proxy.fault = lambda number, method, path: None
    print(text)
    assert process.returncode == 0, text
    assert "Traceback" not in text, text
    assert "waiting for the metrics of step" in text or "waiting for the save" in text, text
    assert proxy.faults - before > 20
    assert_equals(proxy, "faults", straight, tmp_path)
