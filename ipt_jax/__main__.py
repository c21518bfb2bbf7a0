"""`python -m ipt_jax COMMAND`, the same as `ipt COMMAND`."""

import sys

from ipt_jax.cli.app import main

if __name__ == "__main__":  # grain's workers import this module again
    sys.exit(main())
