"""Says by how much one file of `ipt evaluate --json` is better than another.

    python benchmarks/compare.py before.json after.json --out difference.json

For each set, task and metric: the mean over the images of second - first, and its 95 % interval by
a paired bootstrap over the images (10,000 resamples from the seed). Files that were not scored on
the same images with the same noise are refused.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import sys

from ipt_jax.errors import UserError
from ipt_jax.evaluate.compare import compare_files, difference_lines
from ipt_jax.metrics import METRICS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=pathlib.Path)
    parser.add_argument("second", type=pathlib.Path)
    parser.add_argument("--metrics", default="psnr_y,psnr_rgb,ssim_y", help=", ".join(METRICS))
    parser.add_argument("--seed", type=int, default=0, help="seed of the resamples")
    parser.add_argument("--out", type=pathlib.Path, help="write all differences there, as JSON")
    options = parser.parse_args()
    try:
        found = compare_files(options.first, options.second, options.seed)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(difference_lines(found, options.metrics.split(","))))
    if options.out:
        rows = [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
            for row in (one._asdict() for one in found)
        ]
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
