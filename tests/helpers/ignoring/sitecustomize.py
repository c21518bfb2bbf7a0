"""Takes the effect from one flag or config key, in this process and in those that it starts.

Python imports this module at its start where its folder is on PYTHONPATH. The environment variable
IPT_IGNORED names what is ignored: "ipt restore --ensemble", or "optim.b1". Tests that notice the
difference guard the flag or key; see tests/cli/test_every_setting.py.
"""

from __future__ import annotations

import os

IGNORED = os.environ.get("IPT_IGNORED", "")


def ignore_flag(command: str, flag: str) -> None:
    """Lets a command parse a flag, and then take its default."""
    from ipt_jax.cli import app

    parse = app.Parser.parse_known_args

    def parse_without(self, *arguments, **named):
        options, unknown = parse(self, *arguments, **named)
        action = self._option_string_actions.get(flag)
        if self.prog == command and action is not None:
            setattr(options, action.dest, action.default)
        return options, unknown

    app.Parser.parse_known_args = parse_without


def ignore_key(key: str) -> None:
    """Lets a config accept a value of a key, and keep the default."""
    from ipt_jax.config import loading

    set_key = loading._set

    def set_other(config, name, value):
        if name != key:
            set_key(config, name, value)

    loading._set = set_other


if IGNORED.startswith("ipt "):
    ignore_flag(*IGNORED.rsplit(" ", 1))
elif IGNORED:
    ignore_key(IGNORED)
