"""The distributions: what they hold, and that they work in an empty folder."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tarfile

import cv2
import places
import pytest
import textures
import yaml

from ipt_jax.versions import __version__

# The tests of the source distribution that are run from it.
SOME = ("tests/test_metrics.py", "tests/test_tasks.py", "tests/config", "tests/model/test_flops.py")


def run(*words: object, cwd: pathlib.Path, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **changes}
    environment.pop("PYTHONPATH", None)
    given = [str(word) for word in words]
    return subprocess.run(given, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_citation_file_fits_the_package():
    cited = yaml.safe_load((places.ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0" and cited["version"] == __version__
    assert f'license="{cited["license"]}"' in (places.ROOT / "setup.py").read_text()


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> pathlib.Path:
    """A folder with the source distribution and the wheel, which is built from it."""
    for name in ("build", "twine"):
        pytest.importorskip(name, reason="needs the extra release")
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--outdir", folder, ".", cwd=places.ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory) -> pathlib.Path:
    """The Python of a fresh environment with the wheel. Other packages are those of this one."""
    folder = tmp_path_factory.mktemp("user")
    assert run(sys.executable, "-m", "venv", folder, cwd=folder).returncode == 0
    python = folder / "bin" / "python"
    wheel = next(dist.glob("*.whl"))
    done = run(python, "-m", "pip", "install", "-qq", "--no-deps", wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    site = next(folder.glob("lib/python*/site-packages"))
    # A path file's own path files are not read, so a clone that is installed here stays unseen.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    return python


@pytest.mark.slow
def test_the_distributions_are_valid_and_their_links_absolute(dist):
    files = sorted(dist.iterdir())
    assert len(files) == 2
    done = run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=dist)
    assert done.returncode == 0, done.stdout
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        info = next(name for name in archive.getnames() if re.fullmatch("[^/]+/PKG-INFO", name))
        member = archive.extractfile(info)
        assert member is not None
        text = member.read().decode()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 20 and all(re.match("https?://", link) for link in links), links


@pytest.mark.slow
def test_the_source_distribution_runs_its_tests(dist, tmp_path):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    for name in ("Makefile", "CHANGELOG.md", "docs/index.md", "launch/tpu.sh", "mkdocs.yml"):
        assert (root / name).exists(), name
    words = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SOME)
    done = run(*words, cwd=root)
    assert done.returncode == 0, done.stdout[-3000:]
    shown = run(sys.executable, "-c", "import ipt_jax; print(ipt_jax.__file__)", cwd=root)
    assert shown.stdout.startswith(str(root))


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_folder(installed, tmp_path):
    ipt = installed.with_name("ipt")
    assert run(ipt, "--version", cwd=tmp_path).stdout.strip() == f"ipt {__version__}"
    assert "ipt_small" in run(ipt, "weights", cwd=tmp_path).stdout
    cv2.imwrite(str(tmp_path / "photo.png"), textures.picture(0, 40, 50))
    done = run(ipt, "restore", "photo.png", "--task", "sr2", cwd=tmp_path, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    restored = cv2.imread(str(tmp_path / "restored" / "photo.png"))
    assert restored is not None and restored.shape == (80, 100, 3)


@pytest.mark.slow
def test_types_reach_the_users_of_the_wheel(installed, tmp_path):
    (tmp_path / "right.py").write_text('import ipt_jax\n\nmodel = ipt_jax.load("ipt_small")\n')
    (tmp_path / "wrong.py").write_text("import ipt_jax\n\nmodel = ipt_jax.load(3)\n")
    words = (sys.executable, "-m", "mypy", "--python-executable", installed)
    words = (*words, "--ignore-missing-imports")
    right = run(*words, "right.py", cwd=tmp_path)
    assert right.returncode == 0, right.stdout
    wrong = run(*words, "wrong.py", cwd=tmp_path)
    assert 'wrong.py:3: error: Argument 1 to "load" has incompatible type "int"' in wrong.stdout
