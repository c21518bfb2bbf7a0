"""Random-access sources of training images.

A source is an immutable, picklable sequence of images: encoded, or decoded if there are only a few.
Open files are never pickled; each process opens its own when it first reads. Importing this
package loads neither grain nor TFDS.
"""

from ipt_jax.data.sources.embedded import Embedded
from ipt_jax.data.sources.folder import Folder
from ipt_jax.data.sources.packed import Packed
from ipt_jax.data.sources.pairs import Pairs
from ipt_jax.data.sources.source import Source, open_source
from ipt_jax.data.sources.tfds import Tfds

__all__ = ["Embedded", "Folder", "Packed", "Pairs", "Source", "Tfds", "open_source"]
