"""`ipt data preview`: a batch of a config as a picture."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

PAIRS = 4


def add_parser(commands: Any) -> None:
    """`ipt data preview`."""
    command = commands.add_parser(
        "preview",
        allow_abbrev=False,
        help="show the first batch of a config",
        description="Writes a batch as a picture: a row a task, pairs of what the network sees and "
        "what it should give.",
        epilog="Every key of the config can be set: --config.data.dir=photos",
    )
    command.add_argument(
        "--config", required=True, metavar="FILE", help="a config file, e.g. configs/demo.py"
    )
    command.add_argument(
        "-o",
        "--out",
        default="preview.png",
        metavar="FILE",
        help="the picture (default: preview.png)",
    )
    command.add_argument(
        "--step", type=int, default=0, metavar="N", help="whose batch (default: 0)"
    )
    command.add_argument(
        "--pairs",
        type=int,
        default=PAIRS,
        metavar="N",
        help=f"of each task, at most (default: {PAIRS})",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs `ipt data preview`."""
    from ipt_jax.config import loading as configs
    from ipt_jax.data import pipeline
    from ipt_jax.errors import DataError
    from ipt_jax.tasks import make_tasks
    from ipt_jax.train import data as data_module

    out = pathlib.Path(options.out)
    if not out.absolute().parent.is_dir():
        raise DataError(f"--out {out}: there is no folder {out.absolute().parent}")
    config = configs.load(options.config, getattr(options, "overrides", ()))
    config, source = data_module.open_data(config)
    batches = pipeline.make_batches(source, make_tasks(config.tasks), config)
    item = batches(options.step)
    for text in item.replaced:
        print(f"replaced a picture that cannot be read: {text}")
    _save(out, sheet(item.batch, options.pairs))
    rows = len(next(iter(item.batch.values()))["lq"])
    print(
        f"{out}: step {options.step}, {', '.join(item.batch)}; {min(rows, options.pairs)} of "
        f"{rows} pairs of each"
    )
    return 0


def sheet(batch: dict[str, dict[str, Any]], pairs: int = PAIRS) -> Any:
    """A batch as a picture, uint8 RGB: a row a task, each pair lq (its pixels enlarged to squares)
    beside hq.

    Args:
      batch: `{task: {"lq", "hq"}}`.
      pairs: columns of pairs, at most.
    """
    import cv2
    import numpy as np

    side = max(pair["hq"].shape[1] for pair in batch.values())
    columns = min(pairs, max(len(pair["hq"]) for pair in batch.values()))
    gap, text = 6, 20
    width = columns * (2 * side + 2 + 2 * gap) + gap
    page = np.full((len(batch) * (side + text + gap) + gap, width, 3), 255, np.uint8)
    for row, (name, pair) in enumerate(batch.items()):
        top = gap + row * (side + text + gap)
        cv2.putText(
            page,
            f"{name}: degraded | clean",
            (gap, top + 14),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.45,
            (0, 0, 0),
            1,
            cv2.LINE_AA,
        )
        for column, (lq, hq) in enumerate(
            zip(pair["lq"][:columns], pair["hq"][:columns], strict=True)
        ):
            for place, image in enumerate((lq, hq)):
                image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
                image = cv2.resize(image, (side, side), interpolation=cv2.INTER_NEAREST)
                left = gap + column * (2 * side + 2 + 2 * gap) + place * (side + 2)
                page[top + text : top + text + side, left : left + side] = image
    return page


def _save(path: pathlib.Path, image: Any) -> None:
    import cv2

    ok, data = cv2.imencode(path.suffix or ".png", image[..., ::-1])
    if not ok:
        raise OSError(f"cannot write {path}: use a name that ends in .png")
    path.write_bytes(data.tobytes())
