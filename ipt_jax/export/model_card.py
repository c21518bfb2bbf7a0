"""A model card: what weights are for, what they were trained on, how they score; as JSON and as
Markdown.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from ipt_jax.model.ipt import GEOMETRY
from ipt_jax.restore.restorer import Restorer
from ipt_jax.run_folder import metrics_log

UNKNOWN = "not stated"
# What is known of the sources that have a name; of a folder only its owner can say it.
LICENCES = {
    "embedded": "scikit-image's photographs astronaut, chelsea, coffee and rocket: public domain "
    "(NASA) or CC0",
    "imagenet2012": "ImageNet: its terms of access, for non-commercial research and education",
}


@dataclasses.dataclass(frozen=True)
class Details:
    """What is known of a training run.

    Attributes:
      config: the run's whole config; {} where it is not known.
      data: its data's fingerprint and number of pictures.
      steps: after which the weights were taken; None where it is not known.
      scores: `{"<set>/<task>/<metric>": value}` of the last evaluation at or before that step.
      licence: of the training data.
    """

    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int | None = None
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    licence: str = UNKNOWN


def details(
    weights: str, restorer: Restorer, licence: str | None = None, scores: str | None = None
) -> Details:
    """What a run's folder tells of itself, or what weights that were exported before still say.

    Args:
      weights: what was loaded, as it was named.
      licence: of the training data, where its name does not tell.
      scores: a JSON file that `ipt evaluate --json` wrote.
    """
    said = restorer.provenance
    config, measured = said.get("training", {}), {}
    step = said.get("step")
    name, _, _ = weights.rpartition("@")
    for folder in (epath.Path(weights), epath.Path(name or weights)):
        if (folder / "config.json").exists():
            config = json.loads((folder / "config.json").read_text())["config"]
            file = folder / "metrics.jsonl"
            lines = metrics_log.read_lines(file) if file.exists() else []
            lines = [line for line in lines if any("/psnr" in key for key in line)]
            lines = [line for line in lines if step is None or line["step"] <= step]
            measured = {k: v for k, v in lines[-1].items() if "/" in k} if lines else {}
            break
    if scores is not None:
        measured = _scores(scores)
    source = config.get("data", {}).get("source", "")
    known = (
        LICENCES.get(config["data"].get("name", "") if source == "tfds" else source, UNKNOWN)
        if source
        else UNKNOWN
    )
    return Details(
        config,
        said.get("data") or {},
        step,
        measured or said.get("scores", {}),
        licence or said.get("licence") or known,
    )


def _scores(file: str) -> dict[str, float]:
    rows = json.loads(Path(file).read_text())["rows"]
    return {
        f"{row['set']}/{row['task']}/{name}": value
        for row in rows
        for name, value in {"pictures": row["pictures"], **row["result"]}.items()
    }


def kept(restorer: Restorer, known: Details) -> dict[str, Any]:
    """The provenance that goes with weights, so that a card can be made of them again: nothing of
    where files were.
    """
    said = {k: v for k, v in restorer.provenance.items() if k != "from"} | {
        "from": _source(restorer)
    }
    return said | {
        "training": _without_places(known.config),
        "scores": dict(known.scores),
        "licence": known.licence,
    }


def _source(restorer: Restorer) -> str:
    return str(restorer.provenance.get("from", "")).rstrip("/").rsplit("/", 1)[-1]


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the folders of the machine it ran on."""
    plain: dict[str, Any] = {
        k: _without_places(v) if isinstance(v, Mapping) else v for k, v in config.items()
    }
    for key in ("dir", "init_from"):
        if plain.get(key):
            plain[key] = str(plain[key]).rstrip("/").rsplit("/", 1)[-1]
    return plain


def make(
    restorer: Restorer, out: Path, form: str, dtype: str, difference: float, known: Details
) -> dict[str, Any]:
    """The card's contents."""
    from ipt_jax.versions import versions

    model = restorer.model
    data = known.config.get("data", {})
    tasks = restorer.tasks.values()
    set_name = data.get("name", "") if data.get("source") == "tfds" else ""
    return {
        "file": out.name,
        "format": form,
        "dtype": dtype,
        "sha256": _digest(out),
        "tasks": [
            {"name": task.name, "scale": task.scale, "degradation": _words(task.degrade)}
            for task in tasks
        ],
        "model": {key: getattr(model, key) for key in GEOMETRY},
        "parameters": _count(restorer.params),
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
            "config": _without_places(known.config),
        },
        "scores": {
            k: v for k, v in known.scores.items() if k.split("/")[1].split("@")[0] in restorer.tasks
        },
        "difference from the model": difference,
        "versions": versions(),
    }


def _count(params: Any) -> int:
    import jax

    return sum(x.size for x in jax.tree.leaves(params))


def _words(degrade: Any) -> str:
    if dataclasses.is_dataclass(degrade) and not isinstance(degrade, type):
        inside = ", ".join(
            f"{k} {v}"
            for k, v in dataclasses.asdict(degrade).items()
            if isinstance(v, (int, float))
        )
        return type(degrade).__name__.lower() + (f" ({inside})" if inside else "")
    return type(degrade).__name__.lower()


def _digest(out: Path) -> str:
    file = out / "weights.safetensors" if out.is_dir() else out
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def markdown(card: Mapping[str, Any]) -> str:
    """The card to be read."""
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
        "restoration, written by ipt_jax "
        f"{card['versions']['ipt_jax']} as {card['format']}, {card['dtype']}.",
        "",
        "## Tasks",
        "",
        "| task | scale | degradation it undoes |",
        "|---|---|---|",
        tasks,
        "",
        f"Input: tiles of {model['tile']}x{model['tile']} RGB pixels in 0..255; output in 0..255, "
        "neither clipped nor rounded.",
        "Trained on synthetic degradations: on others (compression, blur, other noise) results may "
        "be worse than the input.",
        "",
        "## Model",
        "",
        f"{card['parameters']:,} parameters: {model['features']} features, patches of "
        f"{model['patch']}, {model['heads']} "
        f"heads, {model['encoder_layers']} + {model['decoder_layers']} layers. Weights: "
        f"{card['weights']}.",
        "",
        "## Training",
        "",
        f"- steps: {training['steps'] if training['steps'] is not None else UNKNOWN}",
        f"- data: {data['source']}{' ' + data['name'] if data['name'] else ''}"
        + (f", {data['pictures']} pictures" if data["pictures"] else ""),
        f"- licence of the training data: {training['licence of the data']}",
        *(
            [
                f"- learning rate {optim['learning_rate']:g}, batch "
                f"{training['config'].get('batch_size')}, "
                f"schedule {optim.get('schedule')}"
            ]
            if optim
            else []
        ),
        "- the whole config: in the JSON beside this",
        "",
        "## Scores",
        "",
        *(["| set/task/metric | |", "|---|---|", scores] if scores else ["None known."]),
        "",
        "## Check",
        "",
        "Run on random patches after writing: it differs from the model by at most "
        f"{card['difference from the model']:.1e} of "
        "the largest value.",
        f"SHA-256 `{card['sha256']}`",
        "",
    ]
    return "\n".join(lines)
