"""ICC colour profiles: their colour space, and the making of RGB profiles (ICC.1:2010, version 2).

A profile is made where the colours of a file are described in a way that the result cannot hold: a
profile for grey in a file that is stored as RGB, or gamma and chromaticities of a PNG.
"""

from __future__ import annotations

import struct

import numpy as np

# White of the profile connection space, XYZ.
D50 = (0.9642, 1.0, 0.8249)
# x and y of white, red, green and blue.
SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
# Cone responses after Bradford.
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def colour_space(profile: bytes) -> str:
    """Returns the colour space of a profile's pixels, such as "RGB" or "GRAY"."""
    return profile[16:20].decode("ascii", "replace").strip()


def rgb_from_grey(profile: bytes) -> bytes | None:
    """Returns an RGB profile that shows R = G = B as a profile for grey shows grey.

    Returns None if the profile has no tone curve that can be carried over.
    """
    curve = _tag(profile, b"kTRC")
    return None if curve is None else make_rgb_profile(SRGB_CHROMATICITIES, curve)


def rgb_from_gamma(gamma: float, chromaticities: tuple[float, ...] = SRGB_CHROMATICITIES) -> bytes:
    """Returns an RGB profile for linear light = value ** gamma and these primaries."""
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(min(gamma, 255) * 256))
    return make_rgb_profile(chromaticities, curve)


def make_rgb_profile(chromaticities: tuple[float, ...], curve: bytes) -> bytes:
    """Returns a version 2 matrix profile.

    Args:
      chromaticities: x and y of white, red, green and blue.
      curve: the data of a tag of type `curv` or `para`, which holds for all three colours.
    """
    text = b"RGB profile by ipt_jax"
    colours = _primaries(chromaticities)
    tags = {
        b"desc": b"desc" + struct.pack(">II", 0, len(text) + 1) + text + b"\0" + b"\0" * 78,
        b"cprt": b"text" + b"\0" * 4 + b"CC0\0",
        b"wtpt": _xyz(D50),
        b"rXYZ": _xyz(colours[:, 0]),
        b"gXYZ": _xyz(colours[:, 1]),
        b"bXYZ": _xyz(colours[:, 2]),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12x4s28x3I48x",
        *(start + len(body), b"\0\0\0\0", 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp"),
        *(round(value * 65536) for value in D50),
    )
    return header + table + body


def _tag(profile: bytes, name: bytes) -> bytes | None:
    """Returns the data of a tag, or None if the profile has no such tag."""
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        for i in range(min(count, 100)):
            found, at, size = struct.unpack_from(">4sII", profile, 132 + 12 * i)
            if found == name and len(profile) >= at + size:
                return profile[at : at + size]
    except struct.error:
        pass
    return None


def _xyz(values: object) -> bytes:
    fixed = np.rint(np.asarray(values, float) * 65536).astype(">i4")
    return b"XYZ \0\0\0\0" + fixed.tobytes()


def _primaries(chromaticities: tuple[float, ...]) -> np.ndarray:
    """Returns XYZ of red, green and blue, `[3, 3]` (a column per colour), adapted to D50."""
    x, y = np.array(chromaticities[0::2]), np.array(chromaticities[1::2])
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    white, colours = xyz[:, 0], xyz[:, 1:]
    colours = colours * np.linalg.solve(colours, white)
    gains = (_BRADFORD @ D50) / (_BRADFORD @ white)
    return np.asarray(np.linalg.inv(_BRADFORD) @ (gains[:, None] * (_BRADFORD @ colours)))
