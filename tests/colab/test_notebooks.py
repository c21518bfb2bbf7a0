"""The notebooks run from top to bottom with short settings, and their files have no stray text."""

from __future__ import annotations

import json
import pathlib
import re

import places
import pytest

from ipt_jax.versions import ADDRESS

FOLDER = places.ROOT / "colab"
NAMES = ("quickstart", "finetune", "tpu")
# A tiny model, and two tasks, because compiling takes most of the time.
TINY = [
    "model.features=4",
    "model.patch=4",
    "model.heads=2",
    "model.hidden=32",
    "model.tile=16",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "evaluate.overlap=4",
    "devices=1",
]
TWO = ["tasks=sr2,denoise50", "batch_size=4"]


def notebook(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.ipynb").read_text())


def code(cells: dict) -> list[str]:
    return ["".join(cell["source"]) for cell in cells["cells"] if cell["cell_type"] == "code"]


def run(name: str, folder: pathlib.Path, seconds: int, **settings: object) -> list[str]:
    """Runs a notebook with changed settings; returns the outputs of its cells."""
    nbclient = pytest.importorskip("nbclient", reason="needs the extra notebook")
    pytest.importorskip("ipykernel", reason="needs the extra notebook")
    import nbformat

    loaded = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    (cell,) = [cell for cell in loaded.cells if "parameters" in cell.metadata.get("tags", ())]
    cell.source += "".join(f"\n{key} = {value!r}" for key, value in settings.items())
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(
        loaded, timeout=seconds, kernel_name="python3", resources=resources
    ).execute()
    outputs = [
        output for cell in loaded.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    return [output.get("text", "") for output in outputs] + [
        str(output.get("data", "")) for output in outputs
    ]


@pytest.mark.timeout(600)
def test_quickstart(tmp_path):
    outputs = run("quickstart", tmp_path, 300, STEPS=2, CHANGES=[*TINY, *TWO, "evaluate.size=64"])
    assert any("denoise50" in text and "dB ->" in text for text in outputs)
    assert sum("image/png" in text for text in outputs) >= 5
    assert (tmp_path / "runs" / "quickstart" / "checkpoints").is_dir()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tpu(tmp_path):
    # The batch is the one with which the notebook is saved.
    outputs = run("tpu", tmp_path, 600, CALLS=1, CHANGES=TINY[:-1])
    assert any("samples_per_s" in text for text in outputs) and any(
        "platform" in text for text in outputs
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_finetune(tmp_path):
    outputs = run(
        "finetune",
        tmp_path,
        600,
        STEPS=2,
        CHANGES=["batch_size=4", "evaluate.overlap=4", "devices=1"],
        WEIGHTS_CHANGES=[*TINY, *TWO],
    )
    assert any("dB ->" in text for text in outputs)
    assert sum("image/png" in text for text in outputs) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_in_the_file(name):
    loaded = notebook(name)
    text = json.dumps([cell for cell in loaded["cells"] if cell["cell_type"] == "code"])
    assert not re.search(r"/(tmp|home|root|work|Users)/", text), "a path of a machine"
    assert "absl" not in text and "tensorflow" not in text.lower() and "workers=" not in text
    first = code(loaded)[0]
    assert f'ADDRESS = "{ADDRESS}"' in first and first.rstrip().endswith("check_accelerator())")
    # What Colab has preinstalled stays: its own kernel, and jax in the version of its plug-in.
    assert "ipykernel" not in first and "notebook" not in first and '"-c", "constraints' in first
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in loaded["cells"]) == 1
    shown = [
        output
        for cell in loaded["cells"]
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    ]
    assert len(shown) >= 3 and not [output for output in shown if output["output_type"] == "error"]
