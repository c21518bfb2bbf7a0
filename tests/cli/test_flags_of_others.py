"""Flags of `ipt compile`, `ipt data`, `ipt bench data` and of `ipt` itself: each does something."""

from __future__ import annotations

import json

import cv2
import pytest
from data_sets import jpeg, write_tfds

from ipt_jax.bench import attention as bench_attention
from ipt_jax.bench import data as bench_data
from ipt_jax.bench import step as bench_step
from ipt_jax.cli.app import main
from ipt_jax.data.prepare import inspect, pack
from ipt_jax.data.sources.packed import DESCRIPTION
from ipt_jax.tpu import compile as tpu_compile
from ipt_jax.versions import __version__

CONFIG = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict(dict(batch_size=24, data=dict(source="folder", held_out=0)))
"""


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert not ended.value.code
    assert capsys.readouterr().out == f"ipt {__version__}\n"


@pytest.fixture
def compiled(monkeypatch, tmp_path, capsys):
    """Returns a function that runs `ipt compile` with a stand-in for the compiler.

    It returns the report that is written, the printed text, and the program that is written.
    """

    def compile_step_for(config, topology, utilisation):
        report = {
            "chips": topology.chips,
            "slices": topology.slices,
            "batch": config["batch_size"],
            "utilisation": utilisation,
            "fits": True,
            "traffic": {},
        }
        return report, "the program"

    monkeypatch.setattr(tpu_compile, "compile_step_for", compile_step_for)
    monkeypatch.setattr(tpu_compile, "describe_report", lambda report: "the report")
    monkeypatch.setattr(tpu_compile, "describe_kinds", lambda report: "the kinds")

    def run(*flags):
        file, program = tmp_path / "report.json", tmp_path / "program.txt"
        words = ["--config=configs/demo.py", f"--json={file}", f"--hlo={program}"]
        if not any(flag.startswith("--topology") for flag in flags):
            words.append("--topology=v5e:2x4")
        assert main(["compile", *words, "--config.batch_size=96", *flags]) == 0
        assert file.exists() and program.exists()
        return json.loads(file.read_text()), capsys.readouterr().out, program.read_text()

    return run


def test_flags_of_compile(compiled):
    report, said, program = compiled()
    usual = {"chips": 8, "slices": 1, "batch": 96, "utilisation": 0.45}
    assert usual.items() <= report.items()
    assert program == "the program"
    assert "the report" in said and "the kinds" not in said
    for flags, changed in (
        (["--topology=v5e:2x2"], {"chips": 4}),
        (["--slices=2", "--batch-per-chip=12"], {"chips": 16, "slices": 2, "batch": 192}),
        (["--batch-per-chip=24"], {"batch": 192}),
        (["--utilisation=0.3"], {"utilisation": 0.3}),
    ):
        assert ({**usual, **changed}).items() <= compiled(*flags)[0].items(), flags
    assert "the kinds" in compiled("--by-kind")[1]


@pytest.fixture
def photos(tmp_path) -> str:
    (tmp_path / "photos").mkdir()
    for i in range(6):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(jpeg(i, 220, 260))
    (tmp_path / "config.py").write_text(CONFIG)
    return str(tmp_path / "photos")


def test_pairs_and_place_of_a_preview(photos, tmp_path):
    config = [f"--config={tmp_path / 'config.py'}", f"--config.data.dir={photos}"]
    sheets = {}
    for pairs in (1, 3):
        file = tmp_path / f"{pairs}.png"
        assert main(["data", "preview", *config, f"--pairs={pairs}", "-o", str(file)]) == 0
        sheets[pairs] = cv2.imread(str(file))
    # A pair is two images of up to 192 pixels. The sheet of one pair begins that of three.
    assert sheets[3].shape[1] - sheets[1].shape[1] == 2 * (2 * 192 + 14)
    assert (sheets[3][:, : sheets[1].shape[1] - 20] == sheets[1][:, :-20]).all()


@pytest.fixture
def pools(monkeypatch) -> list[int]:
    """The number of threads of each pool that the tools of `ipt data` start."""
    sizes: list[int] = []
    for module in (inspect, pack):

        class Noted(module.ThreadPoolExecutor):
            def __init__(self, threads):
                sizes.append(threads)
                super().__init__(threads)

        monkeypatch.setattr(module, "ThreadPoolExecutor", Noted)
    return sizes


def test_flags_of_packing(photos, tmp_path, pools):
    shards = {}
    for size in ("256", "0.01"):
        out = tmp_path / size
        words = ["-o", str(out), "--shard-mb", size, "--threads", "3"]
        assert main(["data", "prepare", "folder", photos, *words]) == 0
        shards[size] = len(json.loads((out / DESCRIPTION).read_text())["shards"])
    assert shards["256"] == 1 < shards["0.01"]
    assert pools and set(pools) == {3}


def test_flags_of_checking(photos, tmp_path, pools):
    def report(name, *flags):
        file = tmp_path / "report.json"
        assert main(["data", "check", name, "--json", str(file), *flags]) == 0
        return json.loads(file.read_text())

    assert report(photos, "--threads=3")["smaller_than_crop"] == 0
    assert pools and set(pools) == {3}
    assert report(photos, "--crop=230")["smaller_than_crop"] == 6
    write_tfds(tmp_path / "sets", [jpeg(i) for i in range(5)])
    sets = f"--data-dir={tmp_path / 'sets'}"
    assert report("tiny", sets)["pictures"] == 5
    assert report("tiny", sets, "--split=train[:2]")["pictures"] == 2


def test_flags_of_bench_data(photos, tmp_path, monkeypatch):
    asked = []

    def measure(batches, workers, seconds, prefetch):
        asked.append((batches.crops, workers, seconds, prefetch))
        return {}

    monkeypatch.setattr(bench_data, "measure_batches", measure)
    monkeypatch.setattr(bench_data, "describe_result", lambda crops, result: [])
    file = tmp_path / "found.json"
    words = [f"--config={tmp_path / 'config.py'}", f"--config.data.dir={photos}"]
    words += ["--config.data.prefetch=4", f"--json={file}"]
    assert main(["bench", "data", *words]) == 0
    assert main(["bench", "data", *words, "--workers=3", "--crops=2", "--seconds=0.5"]) == 0
    assert asked == [(1, [0, 1, 2], 5.0, 4), (4, [0, 1, 2], 5.0, 4), (2, [3], 0.5, 4)]
    assert file.exists() and list(json.loads(file.read_text())["crops"]) == ["2"]


def test_the_steps_and_files_of_a_preview(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other.py"
    other.write_text(CONFIG.replace("batch_size=24", "batch_size=24, seed=1"))
    sheets = []
    for config, step in (("config", 0), ("config", 1), ("other", 0)):
        file = tmp_path / f"{config}{step}.png"
        words = [f"--config={tmp_path / config}.py", f"--config.data.dir={photos}", "--pairs=1"]
        assert main(["data", "preview", *words, f"--step={step}", f"--out={file}"]) == 0
        assert file.exists()
        sheets.append(file.read_bytes())
    assert len(set(sheets)) == 3


def test_sets_are_packed_where_asked_and_checked(photos, tmp_path, capsys):
    (tmp_path / "two").mkdir()
    for i in range(2):
        (tmp_path / "two" / f"{i}.jpg").write_bytes(jpeg(i))
    for source, count in ((photos, 6), (str(tmp_path / "two"), 2)):
        out, report = tmp_path / f"packed{count}", tmp_path / f"{count}.json"
        assert main(["data", "prepare", "folder", source, "--out", str(out)]) == 0
        assert (out / DESCRIPTION).exists()
        assert main(["data", "check", str(out), "--json", str(report)]) == 0
        assert report.exists()
        assert json.loads(report.read_text())["pictures"] == count


def test_flags_of_preparing_imagenet(tmp_path, capsys):
    """Sets that are there are read, and nothing is built."""
    command = ["data", "prepare", "imagenet2012", "--manual-dir", str(tmp_path / "none")]
    for count in (2, 3):
        folder = tmp_path / f"sets{count}"
        write_tfds(folder, [jpeg(i) for i in range(count)], name="imagenet2012")
        assert main([*command, "--data-dir", str(folder), "--split", "train"]) == 0
        assert f"train: {count} images" in capsys.readouterr().out
    assert main([*command, "--data-dir", str(folder)]) == 2
    assert "was built without one of the splits" in capsys.readouterr().err
    for name in ("one", "two"):
        words = ["--manual-dir", str(tmp_path / name), "--data-dir", str(tmp_path / "new")]
        assert main(["data", "prepare", "imagenet2012", *words]) == 2
        assert str(tmp_path / name) in capsys.readouterr().err


def test_the_config_of_each_benchmark_is_the_one_that_is_named(photos, tmp_path, monkeypatch):
    """`ipt compile` is one of them: it reads a config, too."""
    (tmp_path / "other.py").write_text(CONFIG.replace("batch_size=24", "batch_size=48"))
    seen: list[int] = []

    def note(config, *more):
        seen.append(config["batch_size"])
        return {}

    monkeypatch.setattr(bench_step, "measure_model", note)
    monkeypatch.setattr(bench_attention, "measure_attention", note)
    monkeypatch.setattr(bench_attention, "describe_attention", lambda found: "")
    monkeypatch.setattr(bench_data, "batches_with_crops", note)
    monkeypatch.setattr(bench_data, "measure_batches", lambda *more: {})
    monkeypatch.setattr(bench_data, "describe_result", lambda *more: [])
    report = {"fits": True, "traffic": None}
    monkeypatch.setattr(tpu_compile, "compile_step_for", lambda *more: (report, note(*more)))
    monkeypatch.setattr(tpu_compile, "describe_report", lambda report: "")
    for command in (
        ["bench", "step"],
        ["bench", "forward"],
        ["bench", "attention"],
        ["bench", "data", "--crops=1"],
        ["compile", "--topology=v5e:1x1"],
    ):
        seen.clear()
        for name in ("config", "other"):
            words = [f"--config={tmp_path / name}.py", f"--config.data.dir={photos}"]
            assert main([*command, *words]) == 0
        assert seen == [24, 48], command
