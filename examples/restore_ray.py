"""Restores folders of images on a Ray cluster, with Ray Data.

    pip install 'ray[data]'
    python examples/restore_ray.py photos --task sr2 -o /shared/out --actors 8 --gpus 1

does what `ipt restore photos --task sr2 -o /shared/out` does: the same names and bytes, results
that are there are left alone, and what failed is listed in `failed-I-of-N.jsonl`. The folders must
have the same paths on all machines. Each actor loads the weights once and restores one shard after
another; Ray restarts actors that die.

The exit code is 0 if every result is there, 1 if a file failed, and 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

from ipt_jax.errors import UserError


class RestoreShards:
    """An actor of Ray: holds the weights, and restores shards.

    Args:
      inputs: absolute paths of files and folders.
      weights: what --weights of `ipt restore` takes.
      settings: the fields of `FileSettings`, without the shard.
      count: the number of shards.
    """

    def __init__(self, inputs: list[str], weights: str, settings: dict[str, Any], count: int):
        import ipt_jax
        from ipt_jax.restore.files import FileSettings

        self._model = ipt_jax.load(weights)
        self._inputs, self._settings, self._count = inputs, FileSettings(**settings), count

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Restores the shard `row["shard"]`, from 1; returns the numbers of files."""
        from ipt_jax.restore.files import restore_files
        from ipt_jax.shards import Shard

        shard = Shard(int(row["shard"]), self._count)
        settings = dataclasses.replace(self._settings, shard=shard)
        outcome = restore_files(self._inputs, lambda: self._model, settings)
        return {
            "shard": shard.number,
            "restored": len(outcome.results),
            "done": len(outcome.done),
            "failed": len(outcome.failed) + len(outcome.blocked),
        }


def restore(options: argparse.Namespace) -> int:
    """Restores everything; returns the exit code.

    Raises:
      UserError: ray is not installed, or wrong input; nothing was written.
    """
    try:
        import ray
    except ImportError:
        raise UserError("this example needs Ray: pip install 'ray[data]'") from None
    from ipt_jax.restore.plan import plan_jobs
    from ipt_jax.weights.default import default_weights

    tasks = [word.strip() for word in options.task.split(",") if word.strip()]
    inputs = [os.path.abspath(os.path.expanduser(word)) for word in options.inputs]
    out = os.path.abspath(os.path.expanduser(options.out))
    weights = str(options.weights or default_weights(tasks))
    if os.path.exists(weights):
        weights = os.path.abspath(weights)
    files = len(plan_jobs(inputs, out, options.format).jobs)
    # Some shards per actor, so that all end at about the same time.
    count = max(1, min(files, 8 * options.actors))
    settings = {"tasks": tasks, "out": out, "format": options.format, "batch": options.batch}
    ray.init(address=options.address, log_to_driver=False)
    try:
        shards = ray.data.from_items([{"shard": number} for number in range(1, count + 1)])
        done = (
            shards.repartition(count)
            .map(
                RestoreShards,
                fn_constructor_args=(inputs, weights, settings, count),
                concurrency=options.actors,
                num_gpus=options.gpus or None,
                num_cpus=options.cpus,
            )
            .take_all()
        )
    finally:
        ray.shutdown()
    totals = {key: sum(row[key] for row in done) for key in ("restored", "done", "failed")}
    print(
        f"{totals['restored']} restored into {out}, {totals['done']} were there, "
        f"{totals['failed']} failed" + (f" (see {out}/failed-*.jsonl)" if totals["failed"] else "")
    )
    return 1 if totals["failed"] else 0


def main(words: Sequence[str] | None = None) -> int:
    """Runs the example; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files and folders")
    parser.add_argument("--task", required=True, metavar="A,B", help="tasks of the weights")
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="a shared folder")
    parser.add_argument("--weights", help="as for `ipt restore` (default: the shipped weights)")
    parser.add_argument("--format", default="png", help="png, jpeg, webp, tiff or bmp")
    parser.add_argument("--batch", type=int, default=16, help="tiles per call and device")
    parser.add_argument("--actors", type=int, default=1, help="processes that restore")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs per actor")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs per actor")
    parser.add_argument("--address", help="of a Ray cluster, or auto (default: a local Ray)")
    try:
        return restore(parser.parse_args(words))
    except UserError as error:
        print(f"restore_ray: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
