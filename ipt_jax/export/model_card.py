"""The model card: tasks, training data and scores of weights, as JSON and as Markdown.

Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epath

from ipt_jax.config.recorded import read_recorded
from ipt_jax.model.ipt import GEOMETRY
from ipt_jax.restore.restorer import Restorer
from ipt_jax.run_folder import metrics_log
from ipt_jax.run_folder.folder import CONFIG
from ipt_jax.storage import scheme_of
from ipt_jax.versions import versions
from ipt_jax.weights.load import is_fetched, shown_address
from ipt_jax.weights.tensor_files import sha256_of

UNKNOWN = "not stated"
# Licences of the data sources that have a name. The licence of a folder must be given by the user.
LICENCES = {
    "embedded": "scikit-image's photographs astronaut, chelsea, coffee and rocket: public domain "
    "(NASA) or CC0",
    "imagenet2012": "ImageNet: its terms of access, for non-commercial research and education",
}


@dataclasses.dataclass(frozen=True)
class Details:
    """What is known about a training run.

    Attributes:
      config: the run's complete config; {} where it is not known.
      data: fingerprint and number of images of its data.
      steps: the step of the weights; None where it is not known.
      scores: `{"<set>/<task>/<metric>": value}` of the last evaluation at or before this step.
      licence: licence of the training data.
    """

    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int | None = None
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    licence: str = UNKNOWN


def collect_details(
    weights: str, restorer: Restorer, licence: str | None = None, scores: str | None = None
) -> Details:
    """Collects details from a run's folder, or from the provenance of exported weights.

    Args:
      weights: the value of --weights.
      restorer: the weights.
      licence: licence of the training data; None where the name of the data tells it.
      scores: a JSON file that `ipt evaluate --json` wrote; None for the run's own scores.

    Raises:
      OSError, ValueError, KeyError, TypeError: the file of scores is missing or not valid.
    """
    provenance = restorer.provenance
    config, measured = provenance.get("training", {}), {}
    step = provenance.get("step")
    name, _, _ = weights.rpartition("@")
    # A run's folder is local or in a bucket.
    folders = (weights, name or weights) if scheme_of(weights) in ("", "gs") else ()
    for folder in map(epath.Path, folders):
        if (folder / CONFIG).exists():
            config = read_recorded(folder)["config"]
            lines = metrics_log.read_run_lines(folder)
            lines = [line for line in lines if any("/psnr" in key for key in line)]
            lines = [line for line in lines if step is None or line["step"] <= step]
            last = lines[-1] if lines else {}
            # Values that were not finite are null in the log.
            measured = {k: v for k, v in last.items() if "/" in k and v is not None}
            break
    if scores is not None:
        measured = _scores(scores)
    source = config.get("data", {}).get("source", "")
    if source == "tfds":
        source = config["data"].get("name", "")
    return Details(
        config=config,
        data=provenance.get("data") or {},
        steps=step,
        scores=measured or provenance.get("scores", {}),
        licence=licence or provenance.get("licence") or LICENCES.get(source, UNKNOWN),
    )


def _scores(file: str) -> dict[str, float]:
    """Returns the scores of a JSON file that `ipt evaluate --json` wrote.

    Scores for noise that was not clipped have " unclipped" after the name of the task.
    """
    rows = json.loads(Path(file).read_text())["rows"]
    kind = {False: " unclipped"}
    return {
        f"{row['set']}/{row['task']}{kind.get(row.get('noise_clipped'), '')}/{name}": value
        for row in rows
        for name, value in {"pictures": row["pictures"], **row["result"]}.items()
    }


def exported_provenance(restorer: Restorer, known: Details) -> dict[str, Any]:
    """Returns the provenance of exported weights.

    It has the details, so that a card can be made from the exported weights again, and no paths of
    this machine.
    """
    provenance = {k: v for k, v in restorer.provenance.items() if k != "from"} | {
        "from": _source(restorer)
    }
    return provenance | {
        "training": _without_paths(known.config),
        "scores": dict(known.scores),
        "licence": known.licence,
    }


def _source(restorer: Restorer) -> str:
    """Returns the name of the run or file that the weights come from, without its folder."""
    return str(restorer.provenance.get("from", "")).rstrip("/").rsplit("/", 1)[-1]


def _without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config without the paths of the machine on which the run was."""
    plain: dict[str, Any] = {
        k: _without_paths(v) if isinstance(v, Mapping) else v for k, v in config.items()
    }
    for key in ("dir", "init_from"):
        if plain.get(key) and is_fetched(str(plain[key])):
            plain[key] = shown_address(str(plain[key]))
        elif plain.get(key):
            plain[key] = str(plain[key]).rstrip("/").rsplit("/", 1)[-1]
    return plain


def make_card(
    restorer: Restorer, out: Path, form: str, dtype: str, difference: float, known: Details
) -> dict[str, Any]:
    """Returns the card.

    Args:
      restorer: the weights.
      out: the file or folder that was written.
      form: its format.
      dtype: its dtype.
      difference: largest difference from the model's outputs over their largest magnitude.
      known: details of the training.
    """
    model = restorer.model
    data = known.config.get("data", {})
    set_name = data.get("name", "") if data.get("source") == "tfds" else ""
    return {
        "file": out.name,
        "format": form,
        "dtype": dtype,
        "sha256": sha256_of(out / "weights.safetensors" if out.is_dir() else out),
        "tasks": [
            {
                "name": task.name,
                "scale": task.scale,
                "degradation": _describe_degradation(task.degrade),
            }
            for task in restorer.tasks.values()
        ],
        "model": {key: getattr(model, key) for key in GEOMETRY},
        "parameters": sum(x.size for x in jax.tree.leaves(restorer.params)),
        "weights": {"ema": "moving average", "params": "raw"}.get(
            str(restorer.provenance.get("part")), "as they were given"
        ),
        "source": _source(restorer),
        "training": {
            "steps": known.steps,
            "data": {
                "source": data.get("source", UNKNOWN),
                "name": set_name,
                "pictures": known.data.get("pictures"),
                "fingerprint": known.data.get("fingerprint"),
            },
            "licence of the data": known.licence,
            "config": _without_paths(known.config),
        },
        "scores": {
            k: v
            for k, v in known.scores.items()
            if re.split("[@ ]", k.split("/")[1])[0] in restorer.tasks
        },
        "difference from the model": difference,
        "versions": versions(),
    }


def _describe_degradation(degrade: Any) -> str:
    """Returns the name of a degradation and its numbers."""
    if dataclasses.is_dataclass(degrade) and not isinstance(degrade, type):
        inside = ", ".join(
            f"{k} {v}"
            for k, v in dataclasses.asdict(degrade).items()
            if isinstance(v, (int, float))
        )
        return type(degrade).__name__.lower() + (f" ({inside})" if inside else "")
    return type(degrade).__name__.lower()


def card_as_markdown(card: Mapping[str, Any]) -> str:
    """Returns the card as Markdown."""
    training, data, model = card["training"], card["training"]["data"], card["model"]
    tasks = "\n".join(
        f"| {t['name']} | x{t['scale']} | {t['degradation']} |" for t in card["tasks"]
    )
    scores = "\n".join(f"| {key} | {value:.4g} |" for key, value in card["scores"].items())
    optim = training["config"].get("optim", {})
    lines = [
        f"# {card['file']}",
        "",
        "IPT (Chen et al., Pre-Trained Image Processing Transformer, CVPR 2021) for image "
        f"restoration, written by ipt_jax {card['versions']['ipt_jax']} as {card['format']}, "
        f"{card['dtype']}.",
        "",
        "## Tasks",
        "",
        "| task | scale | degradation it undoes |",
        "|---|---|---|",
        tasks,
        "",
        f"Input: tiles of {model['tile']}x{model['tile']} RGB pixels in 0..255; output in 0..255, "
        "neither clipped nor rounded.",
        "The weights were trained on synthetic degradations. For other degradations (compression, "
        "blur, other noise) the result may be worse than the input.",
        "",
        "## Model",
        "",
        f"{card['parameters']:,} parameters: {model['features']} features, patches of "
        f"{model['patch']}, {model['heads']} heads, {model['encoder_layers']} + "
        f"{model['decoder_layers']} layers. Weights: {card['weights']}.",
        "",
        "## Training",
        "",
        f"- steps: {training['steps'] if training['steps'] is not None else UNKNOWN}",
        f"- data: {data['source']}{' ' + data['name'] if data['name'] else ''}"
        + (f", {data['pictures']} images" if data["pictures"] else ""),
        f"- licence of the training data: {training['licence of the data']}",
        *(
            [
                f"- learning rate {optim['learning_rate']:g}, batch "
                f"{training['config'].get('batch_size')}, schedule {optim.get('schedule')}"
            ]
            if optim
            else []
        ),
        "- the complete config is in the JSON file beside this card",
        "",
        "## Scores",
        "",
        *(["| set/task/metric | |", "|---|---|", scores] if scores else ["None known."]),
        "",
        "## Check",
        "",
        "The written file was run on random patches. Its outputs differ from the model's by at "
        f"most {card['difference from the model']:.1e} of the largest value.",
        f"SHA-256 `{card['sha256']}`",
        "",
    ]
    return "\n".join(lines)
