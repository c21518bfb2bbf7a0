"""Takes the effect from one setting, in this process and in those that it starts.

Python imports this module at its start where its folder is on PYTHONPATH. The environment variable
IPT_IGNORED names what is ignored, by a name of tests/helpers/settings_of.py:

- "ipt restore --ensemble": the command parses the flag, and then takes its default;
- "launch/tpu.sh --zone": the script is started without the flag;
- "optim.b1": a config accepts a value of the key, and has the default after its checks.

Where there is no default, or none that a test could use, the setting keeps the value that it was
given first in this process.

Tests that notice the difference guard the setting; see tests/test_every_setting.py.
"""

from __future__ import annotations

import os
import pathlib
import re

IGNORED = os.environ.get("IPT_IGNORED", "")
# Settings whose default fits no small model, run or file.
WITHOUT_DEFAULT = (
    "ipt restore --task",
    "tasks",
    "devices",
    "data.dir",
    "data.name",
    "model.patch",
    "model.heads",
    "optim.decay_steps",
)


def ignore_argument(command: str, name: str) -> None:
    """Lets a command parse a flag or an argument without taking it over."""
    import argparse

    from ipt_jax.cli import app

    class Nothing(argparse.Action):
        """Stands for an action such as --help, which acts while it is parsed."""

        def __call__(self, *arguments, **named):
            pass

    parse = app.Parser.parse_known_args
    first: dict[str, object] = {}

    def parse_without(self, args=None, namespace=None):
        action = next((a for a in self._actions if name in (*a.option_strings, a.metavar)), None)
        if self.prog != command or action is None:
            return parse(self, args, namespace)
        if action.default == argparse.SUPPRESS:
            action.__class__ = Nothing
        options, unknown = parse(self, args, namespace)
        if action.required or f"{command} {name}" in WITHOUT_DEFAULT:
            setattr(options, action.dest, first.setdefault(name, getattr(options, action.dest)))
        elif action.default != argparse.SUPPRESS:
            setattr(options, action.dest, action.default)
        return options, unknown

    app.Parser.parse_known_args = parse_without


def ignore_key(key: str) -> None:
    """Lets a config accept and check a value of a key, and then have the default."""
    from ipt_jax.config import defaults, loading

    check = loading.check_config
    first: list[object] = []

    def check_and_forget(config):
        check(config)
        if key in WITHOUT_DEFAULT:
            first.append(_value(config, key))
        else:
            first[:] = [_value(defaults.default(), key)]
        loading._set(config, key, first[0])

    loading.check_config = check_and_forget


def _value(config, key: str):
    for part in key.split("."):
        config = config[part]
    return config


def ignore_flag_of_script(script: str, flag: str) -> None:
    """Starts a script in launch/ without a flag, or with the value that it was given first."""
    import subprocess

    text = (pathlib.Path(__file__).parents[3] / script).read_text()
    # The arm of the `case` that reads the flag, and what it does.
    arm = re.search(rf"^    (?:-.* )?{flag}(?: \|.*)?\)(.*(?:\n      .*)*)", text, re.MULTILINE)
    required = re.search(rf"\bneed \w+ {flag}\b", text) is not None
    start = subprocess.Popen.__init__
    first: list[str] = []

    def start_without(self, args, *more, **named):
        words = list(args) if isinstance(args, (list, tuple)) else []
        if any(str(word).endswith(script) for word in words) and flag in words:
            at, end = words.index(flag), words.index("--") if "--" in words else len(words)
            if at < end and '"$@"' in arm[1] and at + 1 < end:
                given = [flag, words[at + 1]]
                first[:] = first or given
                words[at : at + 2] = first if required else []
            elif at < end and '"$@"' not in arm[1]:
                del words[at]
            args = words
        start(self, args, *more, **named)

    subprocess.Popen.__init__ = start_without


if IGNORED.startswith("ipt "):
    ignore_argument(*IGNORED.rsplit(" ", 1))
elif IGNORED.startswith("launch/"):
    ignore_flag_of_script(*IGNORED.split(" "))
elif IGNORED:
    ignore_key(IGNORED)
