#!/usr/bin/env bash
# Packs what benchmarks/accelerator.sh needs on a GPU machine that reaches no package registry.
#
#   benchmarks/accelerator_pack.sh PHOTOS [WEIGHTS_OR_STATE]
#
# The folder accelerator/, which git ignores, then holds
#   wheels/      the pure or manylinux wheels for Python 3.12 that such a machine lacks
#   crops.tar    lossless WebP crops of the photographs (the largest that fit CROPS_MB)
#   weights/     a weights folder to start from (default: the shipped ipt_small)
# together at most 40 MiB. PYTHON names an interpreter with this package and pip (.venv/bin/python).
set -euo pipefail
cd "$(dirname "$0")/.."

photos="${1:?usage: benchmarks/accelerator_pack.sh PHOTOS [WEIGHTS]}"
weights="${2:-ipt_jax/weights_data/ipt_small}"
python="${PYTHON:-.venv/bin/python}"
crops_mb="${CROPS_MB:-27}"
out=accelerator
rm -rf "$out"
mkdir -p "$out/wheels" "$out/weights"

# Not on the machine: what reads data sets and configs, and what these packages need.
missing=(grain array-record tensorflow-datasets ml-collections tensorboardX dm-tree immutabledict
  promise simple-parsing docstring-parser tensorflow-metadata termcolor toml googleapis-common-protos
  importlib-resources dill)
platforms=()
for glibc in 2_17 2_24 2_27 2_28 2_31 2_34; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
for package in "${missing[@]}"; do
  "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp "${platforms[@]}" --platform manylinux2014_x86_64 -d "$out/wheels" "$package" ||
    "$python" -m pip wheel -q --no-deps -w "$out/wheels" "$package"
done

"$python" - "$photos" "$out/crops.tar" "$crops_mb" <<'PYTHON'
"""Cuts the middle out of each photograph, as large as the budget allows, and packs the crops."""
import io, os, pathlib, sys, tarfile

from PIL import Image

photos, out, budget = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]) * 2**20
suffixes = {".png", ".webp", ".jpg", ".jpeg"}
# Links to folders are followed, as in a training run.
walk = os.walk(photos, followlinks=True)
files = sorted(pathlib.Path(folder, name) for folder, _, names in walk for name in names)
files = [file for file in files if file.suffix.lower() in suffixes]
if not files:
    sys.exit(f"{photos}: no photographs")


def crop(file, side):
    image = Image.open(file).convert("RGB")
    left, top = (max(0, (size - side) // 2) for size in image.size)
    image = image.crop((left, top, min(image.width, left + side), min(image.height, top + side)))
    data = io.BytesIO()
    image.save(data, "WEBP", lossless=True, quality=50, method=4)
    return data.getvalue()


# The size of a lossless crop grows with its area: a sample of the files gives bytes a pixel.
sample = files[:: max(1, len(files) // 12)]
rate = sum(len(crop(f, 256)) for f in sample) / len(sample) / 256**2
side = min(1024, int((0.94 * budget / len(files) / rate) ** 0.5) // 16 * 16)
with tarfile.open(out, "w") as tar:
    for number, file in enumerate(files):
        data = crop(file, side)
        info = tarfile.TarInfo(f"crops/{number:04d}.webp")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
print(f"{len(files)} crops of {side}x{side} pixels")
PYTHON

cp -r "$weights"/. "$out/weights/"
du -sm "$out" | awk '{ print $1 " MiB in accelerator/"; exit $1 > 40 }'
