"""The report of an evaluation: one HTML file that needs no network, with scores, pictures, and
where they are worst.
"""

from __future__ import annotations

import base64
import dataclasses
import heapq
import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ipt_jax.evaluate.published import published
from ipt_jax.evaluate.scoring import Result, Score
from ipt_jax.images.sheet import encode_image
from ipt_jax.metrics import METRICS

if TYPE_CHECKING:
    from ipt_jax.evaluate.results import Row

NAMES = {"psnr_y": "PSNR-Y", "psnr_rgb": "PSNR-RGB", "ssim_y": "SSIM-Y", "ssim_rgb": "SSIM-RGB"}
# Side of the worst place, in pixels
ZOOM = 48

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2.2em; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } td, th { padding: .15em .8em; text-align: right; }
th { border-bottom: 1px solid var(--line); font-weight: 600; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
td b { font-weight: 600; } .settings { color: #888; } .scroll { overflow-x: auto; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.5em; margin: 1em 0; }
figure { margin: 0; max-width: 100%; } figcaption { margin-bottom: .3em; }
.pair { position: relative; display: inline-block; line-height: 0; max-width: 100%; }
.pair img { max-width: 100%; } .pair .after { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--x, 50%)); }
.pair .bar { position: absolute; top: 0; bottom: 0; left: var(--x, 50%); width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 3px #000; pointer-events: none; }
.pair input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize; }
.row { display: flex; flex-wrap: wrap; gap: 1em; align-items: flex-start; font-size: .85em; }
.zoom { display: flex; gap: .5em; flex-wrap: wrap; }
.zoom img { width: 192px; height: 192px; image-rendering: pixelated; display: block; }
details { margin: .8em 0; } summary { cursor: pointer; }
"""
SCRIPT = """
for (const range of document.querySelectorAll('.pair input'))
  range.addEventListener('input', () => range.parentElement.style.setProperty('--x', range.value + '%'));
"""


@dataclasses.dataclass(order=True)
class _Shown:
    """A picture that the page shows; the best of those kept comes first in the heap, to be thrown
    out first.
    """

    key: float
    order: int
    score: Score = dataclasses.field(compare=False)
    images: tuple[np.ndarray, np.ndarray, np.ndarray] = dataclasses.field(compare=False)


class Report:
    """Collects results as they come, keeping only the pictures that it will show.

    Args:
      pictures: how many of each set and task are shown: those with the lowest PSNR.
    """

    def __init__(self, pictures: int = 6):
        self._limit = pictures
        self._shown: dict[tuple[str, str], list[_Shown]] = {}

    def add(self, row: Row, result: Result) -> None:
        """Takes a picture's score and the clean, degraded and restored picture."""
        score, *images = result
        heap = self._shown.setdefault((row.set.name, row.trial.label), [])
        entry = _Shown(
            -score.after["psnr_y"], -len(row.scores), score, (images[0], images[1], images[2])
        )
        if len(heap) < self._limit:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)

    def html(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> str:
        """The page."""
        said = ", ".join(
            f"{key} {value}" for key, value in settings.items() if not isinstance(value, Mapping)
        )
        provenance = settings.get("provenance") or {}
        origin = ", ".join(
            f"{key} {value}" for key, value in provenance.items() if isinstance(value, (str, int))
        )
        body = [
            f"<h1>Evaluation of {_text(settings['weights'])}</h1>",
            f'<p class="settings">{_text(said)}</p>',
        ]
        if origin:
            body.append(f'<p class="settings">Weights: {_text(origin)}</p>')
        body.append(_means(rows))
        for row in rows:
            body.append(self._section(row))
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width"><title>Evaluation of '
            f"{_text(settings['weights'])}</title>"
            f"<style>{STYLE}</style></head>\n<body>\n"
            + "\n".join(body)
            + f"\n<script>{SCRIPT}</script>\n</body></html>\n"
        )

    def _section(self, row: Row) -> str:
        shown = sorted(self._shown.get((row.set.name, row.trial.label), []), reverse=True)
        pictures = "".join(_figure(entry, row.trial.label) for entry in shown)
        which = (
            f", {len(shown)} with the lowest PSNR of {len(row.scores)}"
            if len(shown) < len(row.scores)
            else ""
        )
        return (
            f"<h2>{_text(row.set.name)}, {_text(row.trial.label)}</h2>"
            f"<p>{_text(row.set.describe())}. Left of the line the input, right of it the "
            f"result{which}; drag the line.</p>"
            f'{_published(row)}<div class="pictures">{pictures}</div>'
            f"<details><summary>Scores of every picture</summary>{_scores(row.scores)}</details>"
        )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _number(metric: str, value: float) -> str:
    return (
        ("inf" if not np.isfinite(value) else f"{value:.2f}")
        if metric.startswith("psnr")
        else f"{value:.4f}"
    )


def _cells(score: Score) -> str:
    return "".join(
        f"<td>{_number(m, score.before[m])}</td><td><b>{_number(m, score.after[m])}</b></td>"
        for m in METRICS
    )


def _head(*first: str) -> str:
    return (
        "<tr>"
        + "".join(f"<th>{name}</th>" for name in first)
        + "".join(f"<th>{NAMES[m]}, input</th><th>result</th>" for m in METRICS)
    )


def _means(rows: Sequence[Row]) -> str:
    lines = "".join(
        f"<tr><td>{_text(row.set.name)}</td><td>{_text(row.trial.label)}</td><td>{len(row.scores)}</td>"
        f"{_cells(row.mean)}</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table>{_head("set", "task", "pictures")}</tr>{lines}</table></div>'
    )


def _published(row: Row) -> str:
    """A line of published scores with these weights' among them; '' where none compare."""
    others = published(row.set.canonical, row.trial.label)
    # Published means are over whole sets
    if not others or len(row.scores) < len(row.set.hq):
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
    return f'<div class="scroll"><table>{_head("picture")}</tr>{lines}</table></div>'


def _figure(entry: _Shown, task: str) -> str:
    clean, before, after = entry.images
    b, a = (side["psnr_y"] for side in (entry.score.before, entry.score.after))
    caption = f"{_text(entry.score.picture)}: {_number('psnr_y', b)} &rarr; <b>{_number('psnr_y', a)}</b> dB"
    y, x = worst_place(clean, after)
    cuts = [
        (name, image[y : y + ZOOM, x : x + ZOOM])
        for name, image in (("clean", clean), ("input", before), ("result", after))
    ]
    zoom = "".join(f'<div><img src="{_png(cut)}" alt="{name}">{name}</div>' for name, cut in cuts)
    label = f"{_text(entry.score.picture)}, {_text(task)}: input on the left, result on the right"
    return (
        f'<figure><figcaption>{caption}</figcaption><div class="row"><div class="pair">'
        f'<img src="{_jpeg(before)}" alt="input">'
        f'<img class="after" src="{_jpeg(after)}" alt="result"><div class="bar"></div>'
        f'<input type="range" min="0" max="100" step="0.1" value="50" aria-label="{label}"></div>'
        f'<div><div class="zoom">{zoom}</div>The worst place: row {y}, column '
        f"{x}</div></div></figure>"
    )


def worst_place(clean: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    """(row, column) of the corner of the place with the largest squared error, `ZOOM` pixels a
    side.
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
    data = base64.b64encode(encode_image(image, f".{kind}", settings)).decode()
    return f"data:image/{'jpeg' if kind == 'jpg' else kind};base64,{data}"


def _jpeg(image: np.ndarray) -> str:
    sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    return _data("jpg", image, cv2.IMWRITE_JPEG_QUALITY, 93, *sampling)


def _png(image: np.ndarray) -> str:
    return _data("png", image)
