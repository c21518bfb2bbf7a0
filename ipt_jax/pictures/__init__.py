"""Picture files with all that is theirs: grey, alpha, 16 bit, colour profile, EXIF. Training's decoder is data/decode.py."""

from ipt_jax.pictures.read import Picture, measure, read
from ipt_jax.pictures.write import FORMATS, Form, format_of, writing

__all__ = ["FORMATS", "Form", "Picture", "format_of", "measure", "read", "writing"]
