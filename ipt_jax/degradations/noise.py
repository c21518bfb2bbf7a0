"""White Gaussian noise of a fixed or random strength, for denoising.

IPT's published code clips noisy images to 0..255, while the published results of CBM3D, DnCNN and
FFDNet are for noise that is not clipped. A network for both has to see both, so the share of
clipped crops is a parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipt_jax.degradations.base import Range, drawn, happens, range_of, share_of


@dataclass(frozen=True)
class Noise:
    """White Gaussian noise: uint8 ``[H, W, 3]`` -> float32 of the same shape, not rounded.

    R, G and B get independent noise. The result is in 0..255 where it is clipped. For each crop,
    the generator draws whether it is clean, then sigma, then whether it is clipped, then the noise;
    certain outcomes take nothing from the generator.

    Attributes:
      sigma: standard deviation in grey levels (0..255), or a range from which each crop draws its
        own (blind denoising).
      clipped: share of the noisy crops whose values are clipped to 0..255; 1, the default, is what
        IPT's published code does.
      clean: share of crops that get no noise at all, so that the network learns not to change
        clean images.

    Raises:
      ValueError: when made with a sigma below 0, or with a share that is not in 0 to 1.
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
