"""The public address of the degradations.

They are defined in `ipt_jax.degradations` and `ipt_jax.images.resize`. Importing this module loads
neither grain nor TFDS.
"""

from ipt_jax.degradations.bicubic import Bicubic
from ipt_jax.degradations.blur import GaussianBlur, KernelBlur, MotionBlur
from ipt_jax.degradations.chain import Chain, OneOf
from ipt_jax.degradations.jpeg import Jpeg
from ipt_jax.degradations.noise import Noise
from ipt_jax.degradations.paired import Paired
from ipt_jax.degradations.rain import Rain, RainFolder, rain_layer
from ipt_jax.images.resize import bicubic, bicubic_up

__all__ = [
    "Bicubic",
    "Chain",
    "GaussianBlur",
    "Jpeg",
    "KernelBlur",
    "MotionBlur",
    "Noise",
    "OneOf",
    "Paired",
    "Rain",
    "RainFolder",
    "bicubic",
    "bicubic_up",
    "rain_layer",
]
