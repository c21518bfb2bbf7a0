"""`python -m ipt_jax COMMAND`, the same as `ipt COMMAND`."""

import sys

from ipt_jax.cli.app import main

# Data workers import this module again, under another name.
if __name__ == "__main__":
    sys.exit(main())
