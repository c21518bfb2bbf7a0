"""Random-access sources of images: what the pipeline draws its crops from.

A source is an immutable, picklable sequence of images, encoded or (where they are few) decoded. No
open file is ever pickled: every process opens its own files when it first reads.
"""

from ipt_jax.data.sources.embedded import Embedded, embedded
from ipt_jax.data.sources.folder import Folder
from ipt_jax.data.sources.packed import Packed
from ipt_jax.data.sources.pairs import Pairs
from ipt_jax.data.sources.source import Source, open_source
from ipt_jax.data.sources.tfds import Tfds

__all__ = ["Embedded", "Folder", "Packed", "Pairs", "Source", "Tfds", "embedded", "open_source"]
