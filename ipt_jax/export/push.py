"""Weights for a hub: a folder with the weights, their model card as README.md, and its upload."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ipt_jax.errors import DownloadError, WeightsError
from ipt_jax.export import export, model_card
from ipt_jax.restore.restorer import Restorer
from ipt_jax.weights import hub
from ipt_jax.weights.tensor_files import sha256_of
from ipt_jax.weights.web import TENSORS

README = "README.md"
CARD = "card.json"
# The kind of model, one of the hub's list (huggingface.co/tasks).
PIPELINE = "image-to-image"
# Tags by the begin of a task's name.
TAGS = {
    "sr": "super-resolution",
    "photo": "super-resolution",
    "denoise": "denoising",
    "derain": "deraining",
    "deblur": "deblurring",
    "jpeg": "jpeg-artifact-removal",
}
_METRIC = re.compile(r"(psnr|ssim)(?:_(y|rgb))?")


@dataclasses.dataclass(frozen=True)
class Repository:
    """What the front matter of a README.md states besides the weights.

    Attributes:
      repo: "org/name".
      licence: the licence of the weights by the hub's name, such as "apache-2.0"; "" if it is not
        stated.
      base: the weights that these were fine-tuned from, "org/name" on the hub; "" for none.
    """

    repo: str
    licence: str = ""
    base: str = ""


def smallest_dtype(restorer: Restorer) -> str:
    """Returns "float16" if that holds every parameter exactly, as after a float16 file, else
    "float32"."""
    with np.errstate(over="ignore"):
        exact = all(
            np.array_equal(np.asarray(x, np.float16).astype(np.float32), np.asarray(x))
            for x in jax.tree.leaves(restorer.params)
        )
    return "float16" if exact else "float32"


def write_repository(
    restorer: Restorer,
    details: model_card.Details,
    folder: Path,
    about: Repository,
    *,
    dtype: str | None = None,
) -> float:
    """Writes the folder that is uploaded: a weights folder, README.md and card.json.

    The weights are read back and compared with the model, as `ipt export` does.

    Args:
      restorer: the weights.
      details: what the card states about the training.
      folder: the folder to write, which does not exist yet.
      about: what the front matter states.
      dtype: "float32" or "float16"; None for the smallest that loses nothing.

    Returns:
      The largest difference from the model's outputs over their largest magnitude.

    Raises:
      ExportError: the difference is above the bound.
      WeightsError: huggingface_hub is not installed.
    """
    hub.client(hub.HubAddress(about.repo))
    from huggingface_hub import ModelCard

    dtype = dtype or smallest_dtype(restorer)
    difference, card = export.write_weights(restorer, folder, "folder", dtype, details)
    card = {**card, "file": about.repo.rsplit("/", 1)[-1]}
    export.write_json(folder / CARD, card)
    data = front_matter(card, about)
    text = model_card.card_as_markdown(card).replace(
        "the JSON file beside this card", f"[{CARD}]({CARD})"
    )
    use = usage(about.repo, next(iter(restorer.tasks)))
    head, mark, tail = text.partition("## Tasks\n")
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{head}{use}\n{mark}{tail}").save(folder / README)
    return difference


def usage(repo: str, task: str) -> str:
    """Returns the section of the README that says how the weights are used."""
    return "\n".join(
        [
            "## Use",
            "",
            "```bash",
            f"ipt restore photo.png --task {task} --weights hf://{repo}",
            "```",
            "",
            "```python",
            "import ipt_jax",
            "",
            f'model = ipt_jax.load("hf://{repo}")',
            f'restored = model.restore(image, task="{task}")  # uint8 [H, W, 3]',
            "```",
            "",
        ]
    )


def front_matter(card: Mapping[str, Any], about: Repository) -> Any:
    """Returns the front matter of the README as huggingface_hub's ModelCardData.

    Args:
      card: the model card of `model_card.make_card`.
      about: what is stated besides.
    """
    from huggingface_hub import ModelCardData

    names = [task["name"] for task in card["tasks"]]
    kinds = [tag for start, tag in TAGS.items() if any(n.startswith(start) for n in names)]
    more: dict[str, Any] = {}
    if not about.licence:
        # The hub asks for a name where the licence is none of its list.
        more["license_name"] = "not-stated"
    return ModelCardData(
        license=about.licence or "other",
        library_name="ipt_jax",
        pipeline_tag=PIPELINE,
        base_model=about.base or None,
        tags=list(dict.fromkeys(["image-restoration", "ipt", "jax", "flax", *kinds])),
        model_name=about.repo.rsplit("/", 1)[-1],
        eval_results=eval_results(card["scores"]) or None,
        **more,
    )


def eval_results(scores: Mapping[str, float]) -> list[Any]:
    """Returns scores as huggingface_hub's EvalResult, from `{"Set5/sr2/psnr_y": 36.4}`.

    The set is the data set, and the task, with its strength and convention of noise, is the data
    set's configuration. The scores of degraded inputs are left out.
    """
    from huggingface_hub import EvalResult

    results = []
    for key, value in scores.items():
        where, _, metric = key.rpartition("/")
        name, _, task = where.partition("/")
        found = _METRIC.fullmatch(metric)
        if found is None or not task or "/" in task:
            continue
        channels = f" ({found[2].upper()})" if found[2] else ""
        images = scores.get(f"{where}/pictures")
        results.append(
            EvalResult(
                task_type=PIPELINE,
                task_name=task,
                dataset_type=re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"),
                dataset_name=name,
                dataset_config=task,
                dataset_args={"images": int(images)} if images else None,
                metric_type=found[1],
                metric_name=found[1].upper() + channels,
                metric_value=round(float(value), 4),
            )
        )
    return results


def upload(folder: Path, address: hub.HubAddress, *, private: bool, message: str) -> str:
    """Uploads a folder to a repository, which is created if it does not exist.

    Args:
      folder: the folder of `write_repository`.
      address: the repository; its revision is a branch, which is created if it does not exist.
      private: whether a new repository is private.
      message: the message of the commit.

    Returns:
      The commit.

    Raises:
      WeightsError: access is denied, or the hub refuses the front matter.
      DownloadError: the network or the hub fails.
    """
    api = hub.client(address)
    branch = address.revision or "main"
    with hub.explained(address, writes=True):
        api.create_repo(address.repo, private=private or None, exist_ok=True)
        if branch != "main":
            api.create_branch(address.repo, branch=branch, exist_ok=True)
        commit = api.upload_folder(
            repo_id=address.repo, folder_path=folder, revision=branch, commit_message=message
        )
        info = api.model_info(address.repo, revision=commit.oid, files_metadata=True)
    stored = {one.rfilename: hub.lfs_sha256(one.lfs) for one in info.siblings or []}
    missing = {file.name for file in folder.iterdir()} - stored.keys()
    if missing:
        raise DownloadError(
            f"{address}: after the upload, the hub has no {', '.join(sorted(missing))}; repeat the "
            "command"
        )
    if stored[TENSORS] not in ("", sha256_of(folder / TENSORS)):
        raise WeightsError(
            f"{address}: after the upload, {TENSORS} has another SHA-256 than the local file; "
            "repeat the command"
        )
    return str(commit.oid)
