"""`ipt push`: weights and their model card to a hub."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ipt_jax.cli.flags import add_task_flag, add_weights_flags, load_weights
from ipt_jax.cli.weights import add_card_flags, described, only_tasks
from ipt_jax.errors import UsageError
from ipt_jax.messages import say
from ipt_jax.versions import install

DESCRIPTION = (
    "Uploads weights to a repository on a hub, which is created if it does not exist: a weights "
    "folder (model.json, weights.safetensors), and the model card as README.md with front matter "
    "for the hub (licence, tags, scores) and as card.json. Then, --weights hf://ORG/NAME takes "
    "them. The token of HF_TOKEN or `hf auth login` must be allowed to write; HF_ENDPOINT names "
    f"another hub than huggingface.co. This command needs huggingface_hub: {install('hub')}."
)


def add_parser(commands: Any) -> None:
    """Adds the command to the sub-parsers of `ipt`."""
    parser = commands.add_parser(
        "push", allow_abbrev=False, help="upload weights to a hub", description=DESCRIPTION
    )
    parser.add_argument("repository", metavar="hf://ORG/NAME", help="the repository to upload to")
    add_weights_flags(parser)
    add_task_flag(parser, "upload only these tasks")
    add_card_flags(parser)
    parser.add_argument(
        "--weights-licence",
        default="",
        metavar="ID",
        help="licence of the weights by the hub's name, apache-2.0, cc-by-sa-4.0, ... (default: "
        "not stated)",
    )
    parser.add_argument(
        "--base-model",
        default="",
        metavar="ORG/NAME",
        help="the model on the hub that the weights were fine-tuned from, for the card",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        help="dtype of the tensors in the file (default: float16 for weights that a float16 file "
        "held, else float32)",
    )
    parser.add_argument(
        "--private", action="store_true", help="a new repository is private (default: public)"
    )
    parser.add_argument(
        "--revision",
        "--branch",
        dest="revision",
        default="",
        metavar="BRANCH",
        help="the branch, which is created if it does not exist (default: main)",
    )
    parser.add_argument(
        "--message",
        default="",
        metavar="TEXT",
        help="message of the commit (default: the tasks and the version of ipt_jax)",
    )
    parser.add_argument(
        "--dry-run",
        metavar="DIR",
        help="write the folder that would be uploaded to DIR, and upload nothing",
    )
    parser.set_defaults(run=push)


def push(options: argparse.Namespace) -> int:
    """Runs `ipt push`; returns 0.

    Raises:
      UserError: wrong usage, weights that are not valid, or access that is denied.
      ExportError: the written weights do not compute what the model computes.
      DownloadError: the network or the hub fails.
    """
    import dataclasses

    from ipt_jax.export import push as pushing
    from ipt_jax.versions import __version__
    from ipt_jax.weights import hub

    address = hub.parse_address(options.repository)
    if address.file or address.sha256:
        raise UsageError(f"{options.repository}: name a repository, hf://ORG/NAME, without a file")
    if options.revision and address.revision not in ("", options.revision):
        raise UsageError(
            f"{options.repository} and --revision {options.revision} name different branches"
        )
    address = dataclasses.replace(address, revision=options.revision or address.revision)
    hub.client(address)
    copy = Path(options.dry_run).expanduser() if options.dry_run else None
    if copy is not None and copy.exists() and not (copy.is_dir() and not any(copy.iterdir())):
        raise UsageError(f"--dry-run {copy} exists; name a new folder")
    restorer = only_tasks(load_weights(options), options.task)
    restorer, details = described(options, restorer)
    about = pushing.Repository(address.repo, options.weights_licence, options.base_model)
    with tempfile.TemporaryDirectory(prefix="ipt-push-") as scratch:
        folder = Path(scratch) / address.repo.rsplit("/", 1)[-1]
        difference = pushing.write_repository(restorer, details, folder, about, dtype=options.dtype)
        size = sum(file.stat().st_size for file in folder.iterdir())
        say(
            f"{', '.join(sorted(file.name for file in folder.iterdir()))}: {size / 1e6:.1f} MB; "
            f"largest difference from the model {difference:.1e} of the largest value"
        )
        if copy is not None:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
            say(f"{copy}: this folder would be uploaded to {address}; nothing was uploaded")
            return 0
        message = options.message or f"{', '.join(restorer.tasks)}, by ipt_jax {__version__}"
        commit = pushing.upload(folder, address, private=options.private, message=message)
    say(f"{dataclasses.replace(address, revision=commit)}: uploaded and checked")
    return 0
