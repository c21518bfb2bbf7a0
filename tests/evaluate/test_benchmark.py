"""`ipt evaluate`, from the command line to tables, JSON and report."""

from __future__ import annotations

import json
import math
import os
import pathlib
import shutil
import subprocess

import cv2
import numpy as np
import pytest
import runs

from ipt_jax.cli import evaluate as commands_evaluate
from ipt_jax.cli.app import Parser
from ipt_jax.degradations.jpeg import Jpeg
from ipt_jax.degradations.noise import Noise
from ipt_jax.errors import DataError, UsageError, WeightsError
from ipt_jax.evaluate import report
from ipt_jax.evaluate.published import published
from ipt_jax.evaluate.trials import Trial
from ipt_jax.images.resize import bicubic, bicubic_up
from ipt_jax.metrics import psnr, ssim
from ipt_jax.tasks import TASKS, Task
from tests.evaluate.test_scoring import photograph
from tests.evaluate.test_sets import put


def evaluate(*words: str) -> int:
    parser = Parser(prog="ipt")
    commands_evaluate.add_parser(parser.add_subparsers(required=True))
    options = parser.parse_args(["evaluate", *words])
    return options.run(options)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    """Makes a small Set5, a small CBSD68 and pairs with rain."""
    root = tmp_path_factory.mktemp("data")
    for i in range(2):
        put(root / "Set5" / "HR" / f"p{i}.png", image=photograph(41 + i, 37, i))
        put(root / "CBSD68" / f"{i}.png", image=photograph(30, 30 + 20 * i, i + 5))
        clean = put(root / "Rain100L" / "clean" / f"{i}.png", image=photograph(24, 25, i + 9))
        put(
            root / "Rain100L" / "rainy" / f"{i}.png",
            image=np.clip(clean.astype(int) + 20 * i + 5, 0, 255).astype(np.uint8),
        )
    return root


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("run")
    runs.make_run(folder, tasks=("sr2", "denoise50"))
    return str(folder)


@pytest.fixture(scope="module")
def scores(data, run_folder, tmp_path_factory) -> tuple[dict, str]:
    """Evaluates weights; returns the JSON and the report that were written."""
    out = tmp_path_factory.mktemp("out")
    code = evaluate(
        "--weights",
        run_folder,
        "--data",
        str(data),
        "--overlap",
        "4",
        "--batch",
        "2",
        "--json",
        str(out / "s.json"),
        "--report",
        str(out / "r.html"),
        "--sets",
        "Set5,CBSD68",
    )
    assert code == 0
    return json.loads((out / "s.json").read_text()), (out / "r.html").read_text()


def test_sets_are_scored_at_their_usual_tasks_with_one_program_each(scores):
    found, _ = scores
    assert [(row["set"], row["task"]) for row in found["rows"]] == [
        ("Set5", "sr2"),
        ("CBSD68", "denoise50"),
    ]
    assert found["programs"] == 2
    assert (
        found["protocol"] == "blend" and found["overlap"] == 4 and found["provenance"]["step"] == 20
    )
    for row in found["rows"]:
        assert (
            len(row["scores"]) == row["pictures"] == 2 and row["tiles"] >= 8 and row["seconds"] > 0
        )
        for side in ("input", "result"):
            for metric, value in row[side].items():
                assert value == pytest.approx(
                    np.mean([picture[side][metric] for picture in row["scores"]])
                )


def test_a_score_is_that_of_the_restored_picture(scores, data, run_folder):
    import ipt_jax

    found, _ = scores
    hq = cv2.imread(str(data / "Set5" / "HR" / "p1.png"))[:42, :36, ::-1]
    out = ipt_jax.load(run_folder).restore(
        bicubic(np.ascontiguousarray(hq), 2), "sr2", overlap=4, batch=2
    )
    (score,) = [p for p in found["rows"][0]["scores"] if p["picture"] == "p1"]
    assert score["result"]["psnr_y"] == pytest.approx(psnr(out, hq, "y", 2), abs=1e-3)
    assert score["input"]["psnr_rgb"] == pytest.approx(
        psnr(bicubic_up(bicubic(hq, 2), 2), hq, "rgb", 2)
    )
    assert score["input"]["ssim_y"] == pytest.approx(
        ssim(bicubic_up(bicubic(hq, 2), 2), hq, "y", 2)
    )


def test_words_for_baselines(data, tmp_path, capsys):
    assert (
        evaluate(
            "--weights",
            "input",
            "--data",
            str(data),
            "--sets",
            "Rain100L,CBSD68",
            "--json",
            str(tmp_path / "a.json"),
        )
        == 0
    )
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [(r["set"], r["task"]) for r in rows] == [
        ("Rain100L", "derain"),
        ("CBSD68", "denoise30"),
        ("CBSD68", "denoise50"),
    ]
    assert all(r["input"] == r["result"] for r in rows)
    assert evaluate("--weights", "bicubic", "--data", str(data), "--tasks", "sr3") == 0
    out = capsys.readouterr().out
    assert (
        "CBSD68" in out
        and "Rain100L: 2 images, pairs rainy/ + clean/; skipped, because none of the tasks suits"
        in out
    )
    with pytest.raises(UsageError, match="no task 'sr2'"):
        evaluate("--weights", "input", "--data", str(data), "--tasks", "sr2")


@pytest.mark.parametrize("place", ["", "x2", "Set5/x2", "sr2", "Set5"])
def test_outputs_of_other_software(data, tmp_path, place):
    expected = []
    for i in range(2):
        hq = photograph(41 + i, 37, i)[: (41 + i) // 2 * 2, :36]
        # An error of its own at every pixel, and a large one at the border, which does not count.
        error = np.random.default_rng(i).integers(-4 - 4 * i, 5 + 4 * i, hq.shape)
        worse = np.clip(hq + error, 0, 255).astype(np.uint8)
        for edge in (slice(0, 2), slice(-2, None)):
            worse[edge] = worse[:, edge] = 255 * i
        put(tmp_path / "o" / place / f"p{i}_OTHER_x2.png", image=worse)
        inside = (slice(2, -2), slice(2, -2))
        square = np.square(worse[inside].astype(float) - hq[inside]).mean()
        expected.append(10 * np.log10(255**2 / square))
    assert (
        evaluate(
            "--weights",
            f"outputs:{tmp_path / 'o'}",
            "--data",
            str(data),
            "--sets",
            "Set5",
            "--tasks",
            "sr2",
            "--json",
            str(tmp_path / "a.json"),
        )
        == 0
    )
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [score["picture"] for score in row["scores"]] == ["p0", "p1"]
    assert [score["result"]["psnr_rgb"] for score in row["scores"]] == pytest.approx(expected)
    assert row["result"]["psnr_rgb"] == pytest.approx(np.mean(expected))


def test_equal_pictures_score_inf_and_json_stays_json(data, tmp_path):
    code = evaluate(
        "--weights",
        f"outputs:{data / 'Rain100L' / 'clean'}",
        "--data",
        str(data),
        "--sets",
        "Rain100L",
        "--tasks",
        "derain",
        "--json",
        str(tmp_path / "a.json"),
        "--report",
        str(tmp_path / "r.html"),
    )
    assert code == 0
    text = (tmp_path / "a.json").read_text()
    found = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (
        found["rows"][0]["result"]["psnr_y"] == "inf" and found["rows"][0]["result"]["ssim_y"] == 1
    )


def test_one_tiny_picture_does_not_stop_an_evaluation(tmp_path, capsys):
    for name, side in (("a", 40), ("b", 48), ("eight", 8), ("three", 3)):
        put(tmp_path / "S" / f"{name}.png", image=photograph(side, side))
    words = ["--weights", "bicubic", "--data", str(tmp_path / "S"), "--tasks", "sr2,sr4"]
    files = ["--json", str(tmp_path / "a.json"), "--report", str(tmp_path / "r.html")]
    assert evaluate(*words, *files) == 0
    printed = capsys.readouterr().out
    assert "S sr4: not scored, because smaller than the scale: three" in printed
    assert "S sr4: too small for PSNR, and left out of its mean: eight" in printed
    assert "S sr2: too small for SSIM, and left out of its mean: eight, three" in printed
    two, four = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert (two["pictures"], two["too_small"]) == (4, [])
    assert (four["pictures"], four["too_small"]) == (3, ["three"])
    assert [score["result"]["ssim_y"] is None for score in two["scores"]] == [
        False,
        False,
        True,
        True,
    ]
    assert four["scores"][2]["result"] == dict.fromkeys(four["result"])
    (tmp_path / "S" / "a.png").unlink()
    (tmp_path / "S" / "b.png").unlink()
    (tmp_path / "S" / "eight.png").unlink()
    with pytest.raises(DataError, match="S: all images are too small for sr4"):
        evaluate(*words)


def test_grey_sets_are_named_with_their_standard_errors(tmp_path, capsys):
    for i in range(4):
        grey = photograph(40, 40, i)
        put(tmp_path / "BSD68" / f"{i}.png", image=grey[..., 0])
        put(tmp_path / "mixed" / f"{i}.png", image=grey[..., 0] if i else grey)
    words = ["--weights", "input", "--data", str(tmp_path), "--tasks", "denoise50"]
    files = ["--json", str(tmp_path / "a.json"), "--report", str(tmp_path / "r.html")]
    assert evaluate(*words, *files) == 0
    printed = capsys.readouterr().out
    grey, mixed = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert (grey["noise"], mixed["noise"]) == ("grey", "grey 3 of 4")
    assert [score["noise"] for score in mixed["scores"]] == ["colour", "grey", "grey", "grey"]
    values = [score["result"]["psnr_rgb"] for score in grey["scores"]]
    error = np.std(values, ddof=1) / 2
    assert grey["standard_error"]["result"]["psnr_rgb"] == pytest.approx(error)
    assert grey["gain"]["psnr_rgb"] == 0 and grey["standard_error"]["gain"]["psnr_rgb"] == 0
    (line,) = [line for line in printed.splitlines() if line.startswith("BSD68      denoise50")]
    assert (
        " grey " in line and f"{np.mean(values):.2f}±{error:.2f}" in line and "+0.00±0.00" in line
    )
    # Published scores are for the colour images of this set.
    assert "Published" not in (tmp_path / "r.html").read_text()


def test_outputs_that_are_missing_or_of_another_size(data, tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        evaluate("--weights", f"outputs:{tmp_path / 'o'}", "--data", str(data))
    put(tmp_path / "o" / "p0.png", 5, 5)
    with pytest.raises(DataError, match="no restored picture for p1"):
        evaluate(
            "--weights",
            f"outputs:{tmp_path / 'o'}",
            "--data",
            str(data),
            "--sets",
            "Set5",
            "--tasks",
            "sr2",
        )
    put(tmp_path / "o" / "p1.png", 5, 5)
    with pytest.raises(DataError, match=r"p0\.png is 5x5; sr2 of p0 gives 36x40"):
        evaluate(
            "--weights",
            f"outputs:{tmp_path / 'o'}",
            "--data",
            str(data),
            "--sets",
            "Set5",
            "--tasks",
            "sr2",
        )


def test_another_sigma_and_no_clipping(data, tmp_path):
    results = {}
    for clip in ("on", "off"):
        evaluate(
            "--weights",
            "input",
            "--data",
            str(data / "CBSD68"),
            "--tasks",
            "denoise50@10,denoise50",
            "--noise-clip",
            clip,
            "--json",
            str(tmp_path / "a.json"),
        )
        rows = json.loads((tmp_path / "a.json").read_text())["rows"]
        assert [row["task"] for row in rows] == ["denoise50@10", "denoise50"]
        results[clip] = rows
    for rows in results.values():
        for row, sigma in zip(rows, (10, 50), strict=True):
            files = [data / "CBSD68" / f"{score['picture']}.png" for score in row["scores"]]
            # The stored image is scored, so both conventions give the same numbers.
            found = [psnr_of_stored_noise(cv2.imread(str(file)), sigma) for file in files]
            expected, error = np.mean([f[0] for f in found]), np.hypot(*(f[1] for f in found)) / 2
            # The seed is fixed, so that this cannot fail by chance.
            assert row["result"]["psnr_rgb"] == pytest.approx(expected, abs=3 * error), sigma


def psnr_of_stored_noise(hq: np.ndarray, sigma: float) -> tuple[float, float]:
    """Returns the PSNR of an image with noise, rounded and clipped, and its standard error in dB.

    Each value becomes k with the probability that the noise ends in k - 1/2 to k + 1/2.
    """
    levels = np.arange(256)
    edges = (np.arange(255) + 0.5 - levels[:, None]) / (sigma * 2**0.5)
    below = np.pad(0.5 + 0.5 * np.vectorize(math.erf)(edges), [(0, 0), (1, 1)])
    below[:, -1] = 1
    square = (levels - levels[:, None]) ** 2.0
    mean, fourth = ((np.diff(below) * square**power).sum(1)[hq] for power in (1, 2))
    mse, error = mean.mean(), np.sqrt((fourth - mean**2).sum()) / hq.size
    return 10 * np.log10(255**2 / mse), 10 / np.log(10) * error / mse


def test_trials():
    trial = Trial.parse("denoise30@12.5", TASKS)
    assert (
        trial.head == "denoise30"
        and trial.task.degrade == Noise(12.5)
        and trial.label == "denoise30@12.5"
    )
    assert Trial.parse("denoise@25", TASKS).task == Task("denoise@25", 1, Noise(25.0))
    assert Trial.parse("jpeg@40", TASKS).task.degrade == Jpeg(40.0)
    for word, message in (
        ("denoise5", "did you mean 'denoise50'"),
        ("sr2@30", "only a denoising or JPEG task"),
        ("denoise30@x", "'x' is no standard deviation"),
        ("jpeg@0", "'0' is no JPEG quality"),
        (
            "denoise",
            "draws its strength; name one, such as denoise@15, denoise@25, denoise@30, denoise@50",
        ),
        ("jpeg", "such as jpeg@10, jpeg@20, jpeg@40"),
    ):
        with pytest.raises(UsageError, match=message):
            Trial.parse(word, TASKS)


def test_weights_at_another_sigma_use_the_named_head(data, run_folder, tmp_path):
    evaluate(
        "--weights",
        run_folder,
        "--data",
        str(data),
        "--sets",
        "CBSD68",
        "--tasks",
        "denoise50@70",
        "--overlap",
        "4",
        "--limit",
        "1",
        "--json",
        str(tmp_path / "a.json"),
    )
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert row["task"] == "denoise50@70" and row["pictures"] == 1


@pytest.mark.parametrize(
    "words, error, message",
    [
        (["--weights", "nothing"], WeightsError, "there is no nothing"),
        (["--tasks", "sr4"], UsageError, "there is no task 'sr4'"),
        (["--sets", "Set6"], DataError, "no set 'Set6'"),
        (
            ["--sets", "Rain100L", "--tasks", "denoise50"],
            UsageError,
            "none of the tasks denoise50 can be scored on Rain100L",
        ),
        (
            ["--overlap", "16"],
            UsageError,
            "--overlap 16: tiles of 16 pixels can overlap by 0 to 15",
        ),
        (["--batch", "0"], UsageError, "--batch 0"),
        (["--json", "no/such/folder/a.json"], UsageError, "there is no folder"),
    ],
)
def test_wrong_words(data, run_folder, words, error, message):
    given = {"--weights": run_folder, "--data": str(data)} | dict(
        zip(words[::2], words[1::2], strict=True)
    )
    with pytest.raises(error, match=message):
        evaluate(*(part for pair in given.items() for part in pair))


def test_the_page_needs_no_network_and_holds_scores_and_pictures(scores):
    found, page = scores
    assert "http" not in page and "<script src" not in page and "<link" not in page
    for row in found["rows"]:
        for picture in row["scores"]:
            assert (
                f"{picture['result']['psnr_y']:.2f}" in page
                and f"{picture['result']['ssim_rgb']:.4f}" in page
            )
    assert (
        page.count('<input type="range"') == 4
        and page.count("data:image/jpeg") == 8
        and page.count("data:image/png") == 12
    )
    # The page shows published scores, too.
    assert "EDSR" in page and "38.11" in page and "28.39 RGB" in page


def test_published_scores():
    assert dict(published("set5", "sr2"))["IPT"] == "38.37"
    assert "VDSR" in dict(published("urban100", "sr4")) and published("set5", "denoise50") == []
    assert dict(published("cbsd68", "denoise50@70", True)) == {"IPT": "28.21"}
    # Only scores of the same convention of noise are comparable.
    assert set(dict(published("cbsd68", "denoise30", True))) == {"IPT"}
    assert set(dict(published("cbsd68", "denoise30", False))) == {"CBM3D", "FFDNet", "DnCNN"}


def test_the_largest_error_is_found():
    clean = np.zeros((90, 120, 3), np.uint8)
    after = clean.copy()
    after[40:60, 70:100] = 30
    y, x = report.largest_error(clean, after)
    assert y <= 40 and y + report.ZOOM >= 60 and x <= 70 and x + report.ZOOM >= 100
    assert report.largest_error(clean[:10, :10], after[:10, :10]) == (0, 0)


def test_names_cannot_break_the_page(tmp_path):
    put(tmp_path / "<b>&" / "a<script>.png", 20, 20)
    evaluate(
        "--weights",
        "input",
        "--data",
        str(tmp_path / "<b>&"),
        "--tasks",
        "denoise50",
        "--report",
        str(tmp_path / "r.html"),
    )
    page = (tmp_path / "r.html").read_text()
    assert "<b>&<" not in page and "a<script>" not in page and "a&lt;script&gt;" in page


BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_shows_the_slider(tmp_path):
    """With a black input and a white result, the page is dark only left of the slider."""
    put(tmp_path / "S" / "clean" / "a.png", image=np.full((200, 400, 3), 250, np.uint8))
    put(tmp_path / "S" / "rainy" / "a.png", image=np.zeros((200, 400, 3), np.uint8))
    put(tmp_path / "o" / "a.png", image=np.full((200, 400, 3), 255, np.uint8))
    evaluate(
        "--weights",
        f"outputs:{tmp_path / 'o'}",
        "--data",
        str(tmp_path),
        "--sets",
        "S",
        "--tasks",
        "derain",
        "--report",
        str(tmp_path / "r.html"),
    )
    page = (tmp_path / "r.html").read_text()
    moved = page.replace('value="50"', 'value="25"').replace(
        "</script>",
        "document.querySelector('.pair input').dispatchEvent(new Event('input'));</script>",
    )
    (tmp_path / "moved.html").write_text(moved)
    for name, share in (("r", 0.5), ("moved", 0.25)):
        shot = tmp_path / f"{name}.png"
        subprocess.run(
            [
                BROWSER,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--window-size=1200,1000",
                "--hide-scrollbars",
                f"--user-data-dir={tmp_path / 'profile'}",
                f"--screenshot={shot}",
                f"file://{tmp_path / name}.html",
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
        image = cv2.imread(str(shot), cv2.IMREAD_GRAYSCALE)
        black = (image < 10).mean(axis=1)
        # Rows that cross the image, not the text.
        rows = np.flatnonzero(black > 0.9 * share * 400 / 1200)
        middle = image[rows[len(rows) // 2]]
        dark = np.flatnonzero(middle < 10)
        picture = dark[dark < dark[0] + 400]
        assert len(rows) > 150
        assert len(picture) == pytest.approx(share * 400, abs=4)
        assert (middle[picture[-1] + 8 : picture[0] + 392] > 245).all()


def test_names_that_are_no_text_are_scored_and_shown_escaped(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"set\x1b[2J\xff")
    for name in (b"a\xff", b"b\x1b[2J\n"):
        # OpenCV cannot write to such a name.
        put(tmp_path / "plain.png", image=photograph(24, 25, 1))
        folder.mkdir(exist_ok=True)
        (tmp_path / "plain.png").rename(folder / (os.fsdecode(name) + ".png"))
    page, scores = tmp_path / "page.html", tmp_path / "scores.json"
    words = ["--weights", "bicubic", "--tasks", "sr2", "--data", str(folder)]
    assert evaluate(*words, "--report", str(page), "--json", str(scores)) == 0
    said = capsys.readouterr().out
    assert r"set\x1b[2J\udcff" in said and "\x1b" not in said
    assert r"a\udcff" in page.read_text() and r"b\x1b[2J\n" in page.read_text()
    (row,) = json.loads(scores.read_text())["rows"]
    assert [os.fsencode(one["picture"]) for one in row["scores"]] == [b"a\xff", b"b\x1b[2J\n"]


def test_the_report_names_no_folder_of_this_machine_and_says_how_many_were_scored(
    data, run_folder, tmp_path
):
    words = ["--weights", run_folder, "--data", str(data), "--sets", "Set5", "--limit", "1"]
    assert evaluate(*words, "--overlap", "4", "--report", str(tmp_path / "r.html")) == 0
    text = (tmp_path / "r.html").read_text()
    assert str(tmp_path.parent) not in text and str(data.parent) not in text
    assert f"Evaluation of {pathlib.Path(run_folder).name}<" in text
    assert "<td>1 of 2</td>" in text and "1 of 2 scored" in text


def test_saved_inputs_are_those_that_are_scored(data, tmp_path):
    folder = tmp_path / "inputs"
    words = ["--weights", "input", "--data", str(data), "--sets", "CBSD68", "--task", "denoise50"]
    words += ["--seed", "3", "--noise-clip", "off"]
    file = tmp_path / "s.json"
    assert evaluate(*words, "--save-inputs", str(folder), "--json", str(file)) == 0
    (row,) = json.loads(file.read_text())["rows"]
    for score in row["scores"]:
        name = folder / "CBSD68" / "denoise50" / score["picture"]
        exact = np.load(f"{name}.npy")
        hq = cv2.imread(str(data / "CBSD68" / f"{score['picture']}.png"))[..., ::-1]
        # Noise of sigma 50, neither clipped nor rounded.
        assert exact.dtype == np.float32 and exact.min() < 0 and exact.max() > 255
        assert np.std(exact - hq) == pytest.approx(50, rel=0.05)
        rounded = cv2.imread(f"{name}.png")[..., ::-1]
        assert np.array_equal(rounded, np.clip(np.floor(exact + 0.5), 0, 255))
        assert psnr(rounded, hq, channel="rgb") == pytest.approx(score["input"]["psnr_rgb"])
    # Nothing that is there is replaced.
    with pytest.raises(UsageError, match="must be a new or empty folder"):
        evaluate(*words, "--save-inputs", str(folder))
