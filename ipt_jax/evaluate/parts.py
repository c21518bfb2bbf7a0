"""Parts of an evaluation: what each shard writes, and how they are joined."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ipt_jax.errors import DataError, UsageError
from ipt_jax.evaluate.report import Report
from ipt_jax.evaluate.results import Row, json_numbers, numbers_of
from ipt_jax.evaluate.scoring import Score
from ipt_jax.evaluate.sets import SetSummary
from ipt_jax.messages import listed
from ipt_jax.shards import Shard

# The version of the format of parts.
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Merged:
    """The results of all shards together.

    Attributes:
      rows: the rows, as one run would have made them, except for the seconds, which are summed.
      described: what was scored, and the settings.
      report: the images of the report; None if it was not asked for.
    """

    rows: list[Row]
    described: dict[str, Any]
    report: Report | None


def write_part(
    path: str,
    shard: Shard,
    described: Mapping[str, Any],
    identity: Mapping[str, Any],
    rows: Sequence[Row],
    names: Sequence[Sequence[str]],
    report: Report | None,
) -> None:
    """Writes the scores of a shard.

    Args:
      path: the JSON file.
      shard: the shard.
      described: what was scored, and the settings.
      identity: what else must be the same for all shards.
      rows: the shard's rows, which may have no scores.
      names: for each row, the names of the images of all shards, in order.
      report: the images of the report; None for none.
    """
    part = {
        "part": {
            "format": FORMAT,
            "shard": shard.number,
            "of": shard.count,
            "report": bool(report),
        },
        "described": described,
        "identity": identity,
        "rows": [
            {
                **_head(row, all_names),
                "tiles": row.tiles,
                "seconds": row.seconds,
                "too_small": row.too_small,
                "scores": [
                    {
                        "picture": score.picture,
                        "task": score.task,
                        "input": json_numbers(score.before),
                        "result": json_numbers(score.after),
                        "noise": score.noise,
                    }
                    for score in row.scores
                ],
                "figures": report.figures(row) if report else {},
            }
            for row, all_names in zip(rows, names, strict=True)
        ],
    }
    Path(path).write_text(json.dumps(part, indent=1) + "\n")


def _head(row: Row, names: Sequence[str]) -> dict[str, Any]:
    """Returns what a row has in common in all parts."""
    return {
        "set": dataclasses.asdict(row.set),
        "task": row.task,
        "noise_clipped": row.noise_clipped,
        "names": list(names),
    }


def join_parts(files: Sequence[str], *, with_report: bool) -> Merged:
    """Joins the parts of all shards.

    Raises:
      DataError: a file is not a part, parts do not belong together, or one is missing.
      UsageError: a report is wanted, but a part has no images for it.
    """
    parts = {file: _read(file) for file in files}
    first_file, first = next(iter(parts.items()))
    count = first["part"]["of"]
    seen: dict[int, str] = {}
    for file, part in parts.items():
        _check_same(first_file, first, file, part)
        number = part["part"]["shard"]
        if number in seen:
            raise DataError(f"{file} and {seen[number]} are both shard {number}/{count}")
        seen[number] = file
        if with_report and not part["part"]["report"]:
            raise UsageError(f"--report: {file} has no images; run the shards with --report, too")
    if len(files) != len(parts):
        raise DataError("--merge: a part is named twice")
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in seen]
    if missing:
        raise DataError(f"--merge: parts are missing: {listed(missing)}")
    report = Report() if with_report else None
    rows = [
        _join_row([part["rows"][index] for part in parts.values()], report)
        for index in range(len(first["rows"]))
    ]
    return Merged(rows, first["described"], report)


def _read(file: str) -> dict[str, Any]:
    """Returns a part. Raises DataError if the file is none."""
    try:
        part = json.loads(Path(file).read_text())
        if part["part"]["format"] != FORMAT:
            raise DataError(
                f"{file} was written by another version of ipt_jax; run all shards and the merge "
                "with the same version"
            )
        part["described"], part["identity"], part["rows"]
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    except DataError:
        raise
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{file} is not a part of an evaluation; `ipt evaluate --shard I/N --json FILE` writes "
            "parts"
        ) from None
    return part


def _check_same(first_file: str, first: dict[str, Any], file: str, part: dict[str, Any]) -> None:
    """Raises DataError if two parts are not of the same evaluation; the message says why."""
    both = f"{first_file} and {file} do not belong together:"
    if part["part"]["of"] != first["part"]["of"]:
        raise DataError(
            f"{both} one of {first['part']['of']} parts and one of {part['part']['of']} parts"
        )
    for group in ("described", "identity"):
        ours, theirs = first[group], part[group]
        differ = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        if differ:
            shown = (
                f"{'weights differ' if key == 'fingerprint' else key}: {ours.get(key)} and "
                f"{theirs.get(key)}"
                for key in differ
            )
            raise DataError(f"{both} {listed(shown)}")
    keys = ("set", "task", "noise_clipped", "names")
    heads = [[{key: row[key] for key in keys} for row in one["rows"]] for one in (first, part)]
    if heads[0] != heads[1]:
        raise DataError(f"{both} their sets, tasks or images differ")


def _join_row(rows: Sequence[dict[str, Any]], report: Report | None) -> Row:
    """Joins the parts of a row. Raises DataError unless each image is in exactly one of them."""
    names, one = rows[0]["names"], SetSummary(**rows[0]["set"])
    scores: dict[str, tuple[Score, str | None]] = {}
    too_small: list[str] = []
    for row in rows:
        too_small += row["too_small"]
        for each in row["scores"]:
            score = Score(
                each["picture"],
                each["task"],
                numbers_of(each["input"]),
                numbers_of(each["result"]),
                each["noise"],
            )
            if score.picture in scores:
                raise DataError(f"--merge: two parts have scores of {score.picture} in {one.name}")
            scores[score.picture] = score, row["figures"].get(score.picture)
    without = set(names) - scores.keys() - set(too_small)
    if without or len(scores) + len(too_small) != len(names):
        raise DataError(
            f"--merge: in {one.name} {rows[0]['task']} some images have no scores, or several: "
            f"{listed(sorted(without))}"
        )
    if not scores:
        raise DataError(f"{one.name}: all images are too small for {rows[0]['task']}")
    joined = Row(
        one,
        rows[0]["task"],
        rows[0]["noise_clipped"],
        [scores[name][0] for name in names if name in scores],
        sum(row["tiles"] for row in rows),
        sum(row["seconds"] for row in rows),
        [name for name in names if name in set(too_small)],
    )
    if report is not None:
        for order, name in enumerate(names):
            if name in scores:
                score, figure = scores[name]
                if figure is not None:
                    report.add_figure(joined, score, order, figure)
    return joined
