"""Thirty pictures of every format and oddity, and what must come of each when it is restored by a
network that copies.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib

import cv2
import numpy as np
from PIL import Image, ImageCms

from ipt_jax.images.metadata import Metadata
from ipt_jax.images.png import PngWriter
from ipt_jax.images.png_chunks import pack_metadata
from ipt_jax.images.tiff import TiffWriter

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@dataclasses.dataclass(frozen=True)
class Case:
    """Attributes: name: below the folder. pixels: what it shows, upright, `[H, W, C]`. lossy,
    profile, exif: what to expect.
    """

    name: str
    pixels: np.ndarray
    lossy: bool = False
    profile: bool = False
    exif: bool = False


def smooth(height: int, width: int, channels: int, top: int = 255, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, top, (4, 5, channels)).astype(np.float32)
    big = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(
        height, width, channels
    )
    return big.round().astype(np.uint8 if top == 255 else np.uint16)


def exif(orientation: int = 1) -> Image.Exif:
    block = Image.Exif()
    block[0x010F], block[0x0112] = "A maker", orientation
    inner = block.get_ifd(0x8769)
    inner[0xA002], inner[0xA003], inner[0x9003] = 70, 50, "2020:01:02 03:04:05"
    block.get_ifd(0x8825)[1] = "N"
    return block


def written_deep(pixels: np.ndarray, kind: str) -> bytes:
    """A 16-bit file, by this project's writers."""
    file = io.BytesIO()
    held = Metadata(profile=PROFILE)
    if kind == "png":
        writer = PngWriter(file, *pixels.shape, 16, pack_metadata(held, b"", None))
    else:
        writer = TiffWriter(file, *pixels.shape, 16, held)
    writer.write(pixels)
    writer.close()
    return file.getvalue()


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As it is stored when this orientation makes it upright."""
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = Image.fromarray(pixels)
    return np.asarray(image.transpose(inverse[orientation]) if orientation > 1 else image)


def make(folder: pathlib.Path) -> list[Case]:
    cases: list[Case] = []

    def add(
        name: str,
        pixels: np.ndarray,
        data: bytes | None = None,
        save: dict | None = None,
        image=None,
        **expect,
    ) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            path.write_bytes(data)
        else:
            image = image or Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            image.save(path, **(save or {}))
        cases.append(Case(name, pixels, **expect))

    for channels, mode in ((1, "grey"), (2, "grey_alpha"), (3, "rgb"), (4, "rgba")):
        pixels = smooth(37, 53, channels, seed=channels)
        add(f"png/{mode}.png", pixels, save=dict(icc_profile=PROFILE), profile=True)
        add(f"tiff/{mode}.tif", pixels, save=dict(icc_profile=PROFILE), profile=True)
        deep = smooth(31, 33, channels, 65535, seed=channels + 9)
        add(f"png/{mode}16.png", deep, written_deep(deep, "png"), profile=True)
    for channels, mode in ((1, "grey"), (3, "rgb"), (4, "rgba")):
        deep = smooth(20, 41, channels, 65535, seed=channels + 19)
        add(f"tiff/deep/{mode}16.TIFF", deep, written_deep(deep, "tiff"), profile=True)
    rgb = smooth(50, 70, 3, seed=30)
    add("jpeg/plain.jpg", rgb, save=dict(quality=98, subsampling=0), lossy=True)
    add(
        "jpeg/grey.jpeg",
        smooth(40, 40, 1, seed=31),
        save=dict(quality=98, subsampling=0),
        lossy=True,
    )
    add(
        "jpeg/all.jpg",
        rgb,
        save=dict(quality=98, subsampling=0, exif=exif(), icc_profile=PROFILE),
        lossy=True,
        profile=True,
        exif=True,
    )
    for orientation in (3, 6, 7):
        stored = Image.fromarray(turned(rgb, orientation))
        add(
            f"jpeg/turned{orientation}.jpg",
            rgb,
            save=dict(quality=98, subsampling=0, exif=exif(orientation)),
            image=stored,
            lossy=True,
            exif=True,
        )
    stored = Image.fromarray(turned(rgb, 8))
    add("png/turned8.png", rgb, save=dict(exif=exif(8)), image=stored, exif=True)
    add(
        "webp/lossless.webp",
        rgb,
        save=dict(lossless=True, exif=exif(), icc_profile=PROFILE),
        profile=True,
        exif=True,
    )
    add("webp/alpha.webp", smooth(30, 30, 4, seed=32), save=dict(lossless=True, exact=True))
    add("bmp/rgb.bmp", smooth(18, 22, 3, seed=33))
    add("bmp/grey.bmp", smooth(18, 22, 1, seed=34))
    palette = Image.fromarray(rgb).quantize(16)
    add("png/palette.png", np.asarray(palette.convert("RGB")), image=palette)
    add("one.png", smooth(1, 1, 3, seed=35))
    add("long.png", smooth(2, 3000, 3, seed=36))
    frames = [Image.fromarray(smooth(20, 24, 3, seed=40 + i)).quantize(8) for i in range(3)]
    add(
        "moving.gif",
        np.asarray(frames[0].convert("RGB")),
        image=frames[0],
        save=dict(save_all=True, append_images=frames[1:]),
    )
    return cases
