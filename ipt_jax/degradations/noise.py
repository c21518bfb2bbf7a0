"""White Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipt_jax.degradations.base import Range, drawn, happens, range_of, share_of


@dataclass(frozen=True)
class Noise:
    """White Gaussian noise: uint8 ``[H, W, 3]`` -> float32 of the same shape in 0..255, not
    rounded.

    R, G and B get independent noise.

    Attributes:
      sigma: standard deviation in grey levels (0..255), or a range from which each crop draws its
        own (blind denoising).
      clipped: share of crops whose noisy values are clipped to 0..255. IPT's published code clips
        (1, the default); the published numbers of CBM3D, DnCNN and FFDNet are on noise that is not
        clipped (0).
      clean: share of crops that get no noise at all, so that the network learns to leave clean
        pictures alone.

    Raises:
      ValueError: when made with a sigma below 0, or a share that is not in 0 to 1.
    """

    sigma: float | Range
    clipped: float = 1.0
    clean: float = 0.0
    scale: ClassVar[int] = 1
    margin: ClassVar[int] = 0
    rounded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        span = range_of(self.sigma, "Noise: sigma, in grey levels (0..255),", 0, float("inf"))
        object.__setattr__(self, "sigma", span)
        for name in ("clipped", "clean"):
            object.__setattr__(self, name, share_of(getattr(self, name), f"Noise: {name}"))

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if happens(self.clean, rng):
            return hq.astype(np.float32)
        sigma = drawn(self.sigma, rng)
        clipped = happens(self.clipped, rng)
        lq = rng.standard_normal(hq.shape, dtype=np.float32)
        lq *= np.float32(sigma)
        lq += hq
        return np.clip(lq, 0, 255, out=lq) if clipped else lq
