"""The report of an evaluation: one HTML file with scores and images, which needs no network."""

from __future__ import annotations

import base64
import dataclasses
import heapq
import html
import pathlib
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ipt_jax.evaluate.published import published
from ipt_jax.evaluate.scoring import NIQE, Result, Score
from ipt_jax.images.sheet import encode_image
from ipt_jax.messages import printable

if TYPE_CHECKING:
    from ipt_jax.evaluate.results import Row

NAMES = {
    "psnr_y": "PSNR-Y",
    "psnr_rgb": "PSNR-RGB",
    "ssim_y": "SSIM-Y",
    "ssim_rgb": "SSIM-RGB",
    NIQE: "NIQE (lower is better)",
}
# Side of the crop with the largest error, in pixels.
ZOOM = 48


@dataclasses.dataclass(order=True)
class _Shown:
    """An image that the report shows.

    The heap of these has the image with the highest PSNR first, which is dropped first.

    Attributes:
      key: negative PSNR on Y of the result in dB.
      order: negative number of the image, which decides between equal keys.
      score: the image's score.
      images: the clean, degraded and restored image, uint8 `[H, W, 3]`; None if `figure` is there.
      figure: the image's part of the page, made by another process.
    """

    key: float
    order: int
    score: Score = dataclasses.field(compare=False)
    images: tuple[np.ndarray, np.ndarray, np.ndarray] | None = dataclasses.field(compare=False)
    figure: str = dataclasses.field(compare=False, default="")


class Report:
    """Collects results, and keeps only the images that the report will show.

    Args:
      pictures: number of images shown for each set and task: those with the lowest PSNR.
    """

    def __init__(self, pictures: int = 6):
        self._limit = pictures
        self._shown: dict[tuple[str, str], list[_Shown]] = {}

    def add(self, row: Row, result: Result) -> None:
        """Adds an image's score and its clean, degraded and restored image."""
        score, *images = result
        self._push(row, score, len(row.scores), (images[0], images[1], images[2]))

    def add_figure(self, row: Row, score: Score, order: int, figure: str) -> None:
        """Adds what `figures` of another process returned.

        Args:
          row: the set and task.
          score: the image's score.
          order: the number of the image in its set.
          figure: the image's part of the page.
        """
        self._push(row, score, order, None, figure)

    def figures(self, row: Row) -> dict[str, str]:
        """Returns the images of a row that the page may show: name -> its part of the page."""
        shown = self._shown.get((row.set.name, row.task), [])
        return {entry.score.picture: _figure(entry, row.task) for entry in shown}

    def _push(
        self,
        row: Row,
        score: Score,
        order: int,
        images: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
        figure: str = "",
    ) -> None:
        heap = self._shown.setdefault((row.set.name, row.task), [])
        psnr = score.after["psnr_y"]
        # An image without a PSNR, which is tiny, comes last.
        key = -np.inf if np.isnan(psnr) else -psnr
        entry = _Shown(key, -order, score, images, figure)
        if len(heap) < self._limit:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)

    def html(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> str:
        """Returns the report as one HTML page."""
        described = ", ".join(
            f"{key} {_name(value)}"
            for key, value in settings.items()
            if not isinstance(value, Mapping)
        )
        provenance = settings.get("provenance") or {}
        origin = ", ".join(
            f"{key} {_name(value)}"
            for key, value in provenance.items()
            if isinstance(value, (str, int))
        )
        body = [
            f"<h1>Evaluation of {_text(_name(settings['weights']))}</h1>",
            f'<p class="settings">{_text(described)}</p>',
        ]
        if origin:
            body.append(f'<p class="settings">Weights: {_text(origin)}</p>')
        body.append(_means(rows))
        for row in rows:
            body.append(self._section(row))
        return string.Template(_asset("report.html")).substitute(
            title=f"Evaluation of {_text(_name(settings['weights']))}",
            style=_asset("report.css"),
            script=_asset("report.js"),
            body="\n".join(body),
        )

    def _section(self, row: Row) -> str:
        """Returns the part of the page for a set at a task."""
        shown = sorted(self._shown.get((row.set.name, row.task), []), reverse=True)
        pictures = "".join(_figure(entry, row.task) for entry in shown)
        which = (
            f", {len(shown)} with the lowest PSNR of {len(row.scores)}"
            if len(shown) < len(row.scores)
            else ""
        )
        return (
            f"<h2>{_text(row.set.name)}, {_text(row.task)}</h2>"
            f"<p>{_text(row.set.describe())}; {_count(row)} scored. Left of the line the input, "
            f"right of it the result{which}; drag the line.</p>"
            f'{_published(row)}<div class="pictures">{pictures}</div>'
            f"<details><summary>Scores of every picture</summary>{_scores(row.scores)}</details>"
        )


def _name(value: Any) -> Any:
    """Returns the last part of an absolute path, which says nothing to others; else the value."""
    is_path = isinstance(value, str) and pathlib.PurePath(value).is_absolute()
    return pathlib.PurePath(value).name if is_path else value


def _asset(name: str) -> str:
    return resources.files("ipt_jax.evaluate").joinpath(name).read_text("utf-8")


def _text(value: Any) -> str:
    return html.escape(printable(value))


def _number(metric: str, value: float, error: float = np.nan) -> str:
    """Returns a score, with its standard error if there is one, as the table shows it."""
    if np.isnan(value):
        return "-"
    digits = 4 if metric.startswith("ssim") else 2
    text = f"{value:.{digits}f}" if np.isfinite(value) else "inf"
    return text if np.isnan(error) else f"{text} &plusmn; {error:.{digits}f}"


def _cells(score: Score, errors: Mapping[str, Mapping[str, float]] | None = None) -> str:
    none = dict.fromkeys(score.after, np.nan)
    before, after = (errors[side] if errors else none for side in ("input", "result"))
    return "".join(
        f"<td>{_number(m, score.before[m], before[m])}</td>"
        f"<td><b>{_number(m, score.after[m], after[m])}</b></td>"
        for m in score.after
    )


def _head(metrics: Sequence[str], *first: str) -> str:
    return (
        "<tr>"
        + "".join(f"<th>{name}</th>" for name in first)
        + "".join(f"<th>{NAMES[m]}, input</th><th>result</th>" for m in metrics)
    )


def _means(rows: Sequence[Row]) -> str:
    lines = "".join(
        f"<tr><td>{_text(row.set.name)}</td><td>{_text(row.task)}</td>"
        f"{_cells(row.mean, row.standard_errors())}"
        f"<td>{_count(row)}</td><td>{row.noise}</td></tr>"
        for row in rows
    )
    notes = "".join(f"<br>{_text(note)}" for row in rows for note in row.notes())
    return (
        f'<div class="scroll"><table>{_head(rows[0].metrics, "set", "task")}'
        f"<th>pictures</th><th>noise</th></tr>{lines}"
        f"</table></div><p>&plusmn; is the standard error of a mean over the images.{notes}</p>"
    )


def _count(row: Row) -> str:
    """Returns the number of scored images, "3 of 5" where others of the set were left out."""
    scored, all_of_them = len(row.scores), row.set.count
    return str(scored) if scored == all_of_them else f"{scored} of {all_of_them}"


def _published(row: Row) -> str:
    """Returns a table of published scores beside these weights'; '' where none is comparable."""
    others = published(row.set.canonical, row.task, row.noise_clipped)
    # Published means are over all images of a set, and of colour images where noise was added.
    if not others or len(row.scores) < row.set.count or row.noise not in ("", "colour"):
        return ""
    after = row.mean.after
    mine = f"{_number('psnr_y', after['psnr_y'])}, {_number('psnr_rgb', after['psnr_rgb'])} RGB"
    heads = "".join(f"<th>{_text(method)}</th>" for method, _ in others)
    cells = "".join(f"<td>{_text(value)}</td>" for _, value in others)
    return (
        "<p>Published, PSNR on Y in dB unless it says RGB:</p>"
        '<div class="scroll"><table><tr><th>these '
        f"weights</th>{heads}</tr><tr><td><b>{mine}</b></td>{cells}</tr></table></div>"
    )


def _scores(scores: Sequence[Score]) -> str:
    lines = "".join(f"<tr><td>{_text(score.picture)}</td>{_cells(score)}</tr>" for score in scores)
    head = _head(list(scores[0].after), "picture")
    return f'<div class="scroll"><table>{head}</tr>{lines}</table></div>'


def _figure(entry: _Shown, task: str) -> str:
    if entry.images is None:
        return entry.figure
    clean, before, after = entry.images
    b, a = (side["psnr_y"] for side in (entry.score.before, entry.score.after))
    name = _text(entry.score.picture)
    caption = f"{name}: {_number('psnr_y', b)} &rarr; <b>{_number('psnr_y', a)}</b> dB"
    y, x = largest_error(clean, after)
    cuts = [
        (which, image[y : y + ZOOM, x : x + ZOOM])
        for which, image in (("clean", clean), ("input", before), ("result", after))
    ]
    zoom = "".join(
        f'<div><img src="{_png(cut)}" alt="{which}">{which}</div>' for which, cut in cuts
    )
    label = f"{name}, {_text(task)}: input on the left, result on the right"
    return (
        f'<figure><figcaption>{caption}</figcaption><div class="row"><div class="pair">'
        f'<img src="{_jpeg(before)}" alt="input">'
        f'<img class="after" src="{_jpeg(after)}" alt="result"><div class="bar"></div>'
        f'<input type="range" min="0" max="100" step="0.1" value="50" aria-label="{label}"></div>'
        f'<div><div class="zoom">{zoom}</div>The worst place: row {y}, column '
        f"{x}</div></div></figure>"
    )


def largest_error(clean: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    """Returns the upper left corner (row, column) of the crop with the largest squared error.

    Args:
      clean: uint8 `[H, W, 3]`.
      after: uint8 `[H, W, 3]`; the crop has `ZOOM` pixels a side, or fewer in a smaller image.
    """
    error = np.square(clean.astype(np.float32) - after).sum(axis=2)
    side = [min(ZOOM, size) for size in error.shape]
    sums = cv2.boxFilter(
        error,
        cv2.CV_64F,
        (side[1], side[0]),
        anchor=(0, 0),
        normalize=False,
        borderType=cv2.BORDER_CONSTANT,
    )
    inside = sums[: error.shape[0] - side[0] + 1, : error.shape[1] - side[1] + 1]
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(row), int(column)


def _data(kind: str, image: np.ndarray, *settings: int) -> str:
    """Returns an image as a data URL."""
    data = base64.b64encode(encode_image(image, f".{kind}", settings)).decode()
    return f"data:image/{'jpeg' if kind == 'jpg' else kind};base64,{data}"


def _jpeg(image: np.ndarray) -> str:
    sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    return _data("jpg", image, cv2.IMWRITE_JPEG_QUALITY, 93, *sampling)


def _png(image: np.ndarray) -> str:
    return _data("png", image)
