"""Conversion between users' images (grey, alpha, 8 and 16 bits) and the network's RGB in 0..255."""

from __future__ import annotations

import cv2
import numpy as np

from ipt_jax.images.resize import bicubic_up

# dtype -> its largest value; floats are in 0..255.
TOPS = {"uint8": 255, "uint16": 65535}


def check_image(image: np.ndarray) -> None:
    """Raises ValueError unless it is `[H, W]` or `[H, W, 1..4]` of uint8, uint16 or float."""
    channels = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if (
        channels not in (1, 2, 3, 4)
        or 0 in image.shape
        or (str(image.dtype) not in TOPS and image.dtype.kind != "f")
    ):
        raise ValueError(
            "an image must be [H, W], [H, W, 1], [H, W, 2] (grey, alpha), [H, W, 3] or [H, W, 4] "
            f"of uint8, uint16 or float, not {list(image.shape)} of {image.dtype}"
        )


def colour(image: np.ndarray) -> np.ndarray:
    """Returns an image's RGB in 0..255, `[H, W, 3]`; uint8 stays, other dtypes become float32.

    Grey is repeated three times, and alpha is dropped.
    """
    pixels = image if image.ndim == 3 else image[..., None]
    pixels = np.repeat(pixels[..., :1], 3, axis=2) if pixels.shape[2] < 3 else pixels[..., :3]
    if pixels.dtype == np.uint8:
        return pixels
    pixels = pixels.astype(np.float32)
    top = TOPS.get(str(image.dtype), 255)
    return pixels if top == 255 else pixels * np.float32(255 / top)


def like(out: np.ndarray, image: np.ndarray, alpha: np.ndarray | None = None) -> np.ndarray:
    """Converts a restored image to the channels and dtype of its input.

    Args:
      out: float RGB `[h, w, 3]` in 0..255.
      image: the input, whose channels and dtype the result has.
      alpha: `[h, w]`, the alpha channel of the result, if the input has one.
    """
    if image.ndim == 2 or image.shape[2] < 3:
        out = out.mean(axis=2, keepdims=True)
    top = TOPS.get(str(image.dtype), 0)
    if top:
        out = out * np.float32(top / 255) if top != 255 else out
        out = np.clip(np.floor(out + 0.5), 0, top).astype(image.dtype)
    if alpha is not None:
        out = np.concatenate([out, alpha.astype(out.dtype)[..., None]], axis=2)
    return out[..., 0] if image.ndim == 2 else out


def alpha_of(image: np.ndarray) -> np.ndarray | None:
    """Returns an image's alpha `[H, W]`, or None if it has none."""
    return image[..., -1] if image.ndim == 3 and image.shape[2] in (2, 4) else None


def fill_transparent(image: np.ndarray, reach: int) -> np.ndarray:
    """Gives fully transparent pixels the colour of the nearest pixel that is not transparent.

    Files store any colour under transparency, mostly black. A network would see an edge there,
    which is none, and draw a fringe along it.

    Args:
      image: `[H, W, C]`; it is returned as it is unless C is 2 or 4 and some alpha is 0.
      reach: pixels that are further from all visible rows than this may keep their colour.
    """
    alpha = alpha_of(image)
    if alpha is None or (alpha > 0).all() or not (alpha > 0).any():
        return image
    filled = np.array(image)
    block = 4 * reach
    for first in range(0, len(image), block):
        # A block at a time bounds the memory: each pixel takes eight bytes here.
        top, last = max(0, first - reach), min(len(image), first + block)
        part = image[top : last + reach]
        hidden = (part[..., -1] <= 0).astype(np.uint8)
        if not hidden[first - top : last - top].any() or hidden.all():
            continue
        _, labels = cv2.distanceTransformWithLabels(
            hidden, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        # Each visible pixel has a label of its own, and hidden pixels that of the nearest one.
        visible = np.flatnonzero(hidden == 0)
        nearest = np.zeros(labels.max() + 1, np.intp)
        nearest[labels.ravel()[visible]] = visible
        rows = slice(first - top, last - top)
        colours = part[..., :-1].reshape(-1, part.shape[2] - 1)
        inside = hidden[rows] > 0
        filled[first:last, :, :-1][inside] = colours[nearest[labels[rows][inside]]]
    return filled


def blended(rows: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Blends alpha with a colour: uint8 `[H, W, 2]` or `[H, W, 4]` -> `[H, W, 1]` or `[H, W, 3]`.

    Grey stays grey where the background is grey.
    """
    alpha = rows[..., -1:].astype(np.uint32)
    behind = np.array(background, np.uint32)
    if rows.shape[2] == 2 and len(set(background)) == 1:
        behind = behind[:1]
    mixed = rows[..., :-1].astype(np.uint32) * alpha + behind * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def enlarged(alpha: np.ndarray, scale: int) -> np.ndarray:
    """Enlarges alpha `[H, W]` to `[H * scale, W * scale]` by bicubic interpolation.

    The dtype stays, and values are clipped to its range (floats: to the range of `alpha`).
    """
    if scale == 1:
        return alpha
    if alpha.dtype == np.uint8:
        return bicubic_up(alpha, scale)
    big = _cubic(_cubic(alpha.astype(np.float32), scale).T, scale).T
    top = TOPS.get(str(alpha.dtype), 0)
    low, high = (0, top) if top else (alpha.min(), alpha.max())
    big = np.clip(big, low, high)
    return np.floor(big + 0.5).astype(alpha.dtype) if top else big.astype(np.float32)


def enlarged_rows(alpha: np.ndarray, scale: int, first: int, last: int) -> np.ndarray:
    """Returns rows first..last - 1 of `enlarged(alpha, scale)` from the rows of alpha they need."""
    top = max(0, first // scale - 3)
    part = enlarged(alpha[top : -(-last // scale) + 3], scale)
    return part[first - top * scale : last - top * scale]


def _cubic(x: np.ndarray, scale: int) -> np.ndarray:
    """Enlarges the height of a float `[H, W]` to `[H * scale, W]` as `resize.bicubic_up` does.

    The kernel is Keys' cubic with a = -1/2, and the border is symmetric.
    """
    edged = np.pad(x, ((2, 2), (0, 0)), mode="symmetric")
    out = np.empty((len(x) * scale, x.shape[1]), np.float32)
    for phase in range(scale):
        # Position of the output pixel relative to the centre of its input pixel.
        at = (phase + 0.5) / scale - 0.5
        left = int(np.floor(at))
        for tap in range(left - 1, left + 3):
            d = abs(at - tap)
            weight = 1.5 * d**3 - 2.5 * d**2 + 1 if d <= 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
            part = np.float32(weight) * edged[2 + tap : 2 + tap + len(x)]
            if tap == left - 1:
                out[phase::scale] = part
            else:
                out[phase::scale] += part
    return out
