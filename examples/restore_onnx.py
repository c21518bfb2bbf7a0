"""Restores an image with an exported ONNX file, without ipt_jax.

numpy cuts and blends the tiles, and onnxruntime runs the network:

    ipt export --weights runs/demo --format onnx --task sr2 --out sr2.onnx
    python examples/restore_onnx.py sr2.onnx photo.png restored.png

This script needs numpy, onnxruntime, OpenCV and Pillow. Its pixels are those of `ipt restore`: grey
stays grey, alpha and 16 bits are kept, and the orientation in EXIF is applied. Of the metadata it
keeps the colour profile. It refuses what it cannot do: floating point and 32-bit pixels, and
colours other than grey and RGB, which `ipt restore` converts.
"""

import argparse
import sys

import cv2
import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def starts(size: int, tile: int, overlap: int) -> list[int]:
    """Returns evenly spread starts of the fewest tiles that cover `size` pixels.

    Neighbouring tiles share at least `overlap` pixels.
    """
    if size <= tile:
        return [0]
    count = -(-(size - tile) // (tile - overlap)) + 1
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def ramps(at: list[int], tile: int) -> np.ndarray:
    """Returns the weights of each tile along an axis, float32 `[tiles, tile]`.

    A weight is 1 in the middle of a tile and falls as sin^2 over the pixels that neighbours share.
    """
    centres = (np.arange(tile) + 0.5) / tile
    weights = np.ones((len(at), tile))
    for i, start in enumerate(at):
        before = (at[i - 1] + tile - start) / tile if i > 0 else 0.0
        after = (start + tile - at[i + 1]) / tile if i + 1 < len(at) else 0.0
        for share, distance in ((before, centres), (after, 1 - centres)):
            if share > 0:
                weights[i] *= np.sin(0.5 * np.pi * np.clip(distance / share, 0, 1)) ** 2
    return weights.astype(np.float32)


def restore(
    session: onnxruntime.InferenceSession, image: np.ndarray, overlap: int = 12, batch: int = 16
) -> np.ndarray:
    """Restores an image, `[H, W, 3]` in 0..255 -> float32 `[H * scale, W * scale, 3]`.

    Args:
      session: the network.
      image: the image.
      overlap: minimum number of pixels that neighbouring tiles share.
      batch: tiles per call.
    """
    tile, scaled = tile_sides(session)
    scale = scaled // tile
    height, width = image.shape[:2]
    padded = np.pad(
        image, ((0, max(0, tile - height)), (0, max(0, tile - width)), (0, 0)), mode="symmetric"
    )
    rows, columns = (starts(size, tile, overlap) for size in padded.shape[:2])
    down, across = (ramps([x * scale for x in at], scaled) for at in (rows, columns))
    total = np.zeros((padded.shape[0] * scale, padded.shape[1] * scale, 3), np.float32)
    weight = np.zeros((*total.shape[:2], 1), np.float32)
    places = [(i, j) for i in range(len(rows)) for j in range(len(columns))]
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        tiles = np.stack([padded[rows[i] :, columns[j] :][:tile, :tile] for i, j in some])
        for (i, j), out in zip(some, session.run(None, {"patches": tiles.astype(np.float32)})[0]):
            y, x, w = rows[i] * scale, columns[j] * scale, np.outer(down[i], across[j])[..., None]
            total[y : y + scaled, x : x + scaled] += out * w
            weight[y : y + scaled, x : x + scaled] += w
    return (total / weight)[: height * scale, : width * scale]


def tile_sides(session: onnxruntime.InferenceSession) -> tuple[int, int]:
    """Returns the sides of a tile before and after the network, in pixels."""
    return session.get_inputs()[0].shape[1], session.get_outputs()[0].shape[1]


def read(path: str) -> tuple[np.ndarray, bytes | None]:
    """Reads an image, upright: `[H, W, C]`, uint8 or uint16, and its colour profile.

    C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).

    Raises:
      ValueError: the image has pixels of another kind.
    """
    with Image.open(path) as image:
        profile = image.info.get("icc_profile")
        bits = image.tag_v2.get(258, (8,))[0] if image.format == "TIFF" else 8
        if image.mode in ("F", "I", "CMYK", "YCbCr", "LAB", "HSV") or bits == 12:
            raise ValueError(f"{path}: pixels of mode {image.mode}; ipt restore reads them")
        # Pillow keeps eight of the 16 bits of colours; the raw mode tells.
        raw = str([one.args for one in image.tile])
        if ";16" in raw and image.mode != "I;16":
            turned = image.getexif().get(0x0112, 1) if image.format != "TIFF" else 1
            return read_deep(path, "LA;16" in raw, turned), profile
        image = ImageOps.exif_transpose(image)
        if image.mode == "I;16":
            return np.asarray(image).astype(np.uint16)[..., None], profile
        grey = image.mode in ("1", "L", "LA", "La")
        alpha = "A" if image.has_transparency_data else ""
        pixels = np.asarray(image.convert(("L" if grey else "RGB") + alpha))
        return pixels.reshape(*pixels.shape[:2], -1), profile


def read_deep(path: str, grey: bool, orientation: int) -> np.ndarray:
    """Reads 16-bit colours, or 16-bit grey with alpha, uint16 `[H, W, 2..4]`."""
    with open(path, "rb") as file:
        data = np.frombuffer(file.read(), np.uint8)
    found = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16 or found.ndim != 3:
        raise ValueError(f"{path}: a 16-bit image of a kind that this script cannot read")
    # OpenCV gives grey with alpha as blue, green, red and alpha, too.
    found = found[..., [0, 3] if grey else [2, 1, 0, 3][: found.shape[2]]]
    if orientation >= 5:
        found = found.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        found = found[::-1]
    if orientation in (2, 3, 6, 7):
        found = found[:, ::-1]
    return found


def fill_transparent(image: np.ndarray) -> np.ndarray:
    """Gives fully transparent pixels the colour of the nearest pixel that is not transparent.

    Files store any colour under transparency. The network would see an edge there, and draw a
    fringe along it.
    """
    hidden = (image[..., -1] == 0).astype(np.uint8)
    if image.shape[2] in (1, 3) or not hidden.any() or hidden.all():
        return image
    _, labels = cv2.distanceTransformWithLabels(
        hidden, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    visible = np.flatnonzero(hidden == 0)
    nearest = np.zeros(labels.max() + 1, np.intp)
    nearest[labels.ravel()[visible]] = visible
    filled = image.copy()
    colours = image[..., :-1].reshape(-1, image.shape[2] - 1)
    filled[hidden > 0, :-1] = colours[nearest[labels[hidden > 0]]]
    return filled


def enlarge(alpha: np.ndarray, scale: int) -> np.ndarray:
    """Enlarges alpha `[H, W]` by bicubic interpolation with a mirrored border; the dtype stays."""
    if scale == 1:
        return alpha
    edged = np.pad(alpha.astype(np.float32), 3, mode="symmetric")
    size = (edged.shape[1] * scale, edged.shape[0] * scale)
    big = np.asarray(Image.fromarray(edged).resize(size, Image.Resampling.BICUBIC))
    big = big[3 * scale : -3 * scale, 3 * scale : -3 * scale]
    return np.clip(np.floor(big + 0.5), 0, np.iinfo(alpha.dtype).max).astype(alpha.dtype)


def restore_channels(
    session: onnxruntime.InferenceSession, image: np.ndarray, overlap: int
) -> np.ndarray:
    """Restores an image of any of the kinds that `read` returns; the result is of the same kind."""
    tile, scaled = tile_sides(session)
    top = np.iinfo(image.dtype).max
    count = image.shape[2]
    shown = fill_transparent(image)
    rgb = np.repeat(shown[..., :1], 3, axis=2) if count < 3 else shown[..., :3]
    rgb = rgb if top == 255 else rgb.astype(np.float32) * np.float32(255 / top)
    out = restore(session, rgb, overlap)
    if count < 3:
        out = out.mean(axis=2, keepdims=True)
    out = out if top == 255 else out * np.float32(top / 255)
    out = np.clip(np.floor(out + 0.5), 0, top).astype(image.dtype)
    if count in (2, 4):
        out = np.concatenate([out, enlarge(image[..., -1], scaled // tile)[..., None]], axis=2)
    return out


def write(path: str, pixels: np.ndarray, profile: bytes | None) -> None:
    """Writes an image of any of the kinds that `read` returns.

    Raises:
      ValueError: the format cannot hold it.
    """
    count = pixels.shape[2]
    if pixels.dtype == np.uint8 or count == 1:
        image = Image.fromarray(pixels[..., 0] if count == 1 else pixels)
        try:
            image.save(path, icc_profile=profile)
        except OSError as error:
            raise ValueError(f"{path}: {error}; name a .png file") from None
        return
    if not path.lower().endswith(".png"):
        raise ValueError(f"{path}: 16-bit colours can be written to a .png file only")
    # OpenCV has no grey with alpha, and writes no profile.
    order = {2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[count]
    if not cv2.imwrite(path, pixels[..., order]):
        raise ValueError(f"{path}: the file cannot be written")
    if profile:
        print(f"{path}: the colour profile is left out", file=sys.stderr)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument("input", help="the image to restore")
    parser.add_argument("output", help="the file to write")
    parser.add_argument(
        "--overlap",
        type=int,
        default=12,
        help="minimum number of pixels that neighbouring tiles share",
    )
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(
        options.model, providers=onnxruntime.get_available_providers()
    )
    try:
        image, profile = read(options.input)
        write(options.output, restore_channels(session, image, options.overlap), profile)
    except (ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
