"""Reading a config file and `key=value` overrides into a complete, checked config.

A config file defines `get_config()`, which returns an ml_collections `ConfigDict` with the keys
that it changes. All keys and their defaults are in `ipt_jax.config.keys`.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ipt_jax.config.checks import check_config
from ipt_jax.config.defaults import default
from ipt_jax.config.keys import KEYS
from ipt_jax.errors import ConfigError
from ipt_jax.messages import nearest
from ipt_jax.trees import flatten


def find(path: str) -> Path:
    """Finds a config file at a path, or by its name among the shipped ones (`configs/demo.py`).

    Raises:
      ConfigError: there is no such file; the message lists the shipped ones.
    """
    package = Path(str(resources.files("ipt_jax")))
    # An installed wheel has the files inside the package, a clone beside it.
    folders = [f for f in (package / "configs", package.parent / "configs") if f.is_dir()]
    for candidate in [Path(path), *(folder / Path(path).name for folder in folders)]:
        if candidate.is_file():
            return candidate
    files = {file.name for folder in folders for file in folder.glob("*.py")}
    shipped = sorted(f"configs/{name}" for name in files - {"__init__.py"})
    raise ConfigError(
        f"no config file {path!r}{nearest(path, shipped)}; shipped: {', '.join(shipped)}"
    )


def load(
    path: str,
    overrides: Iterable[str] = (),
    *,
    model: Mapping[str, Any] | None = None,
    checked: bool = True,
) -> ConfigDict:
    """Loads a config file and completes it with the defaults and with overrides.

    Args:
      path: the file; `FILE:ARGUMENT` passes an argument to its `get_config`.
      overrides: texts "key=value".
      model: values of `model` keys that replace the defaults.
      checked: whether to run `check_config`.

    Raises:
      ConfigError: there is no such file, it gives no config, a key is unknown, or a value is not
        allowed.
    """
    name, colon, argument = path.partition(".py:")
    file = find(name + (".py" if colon else ""))
    spec = importlib.util.spec_from_file_location(f"ipt_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is not a Python file with a get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        changes = module.get_config(*([argument] if colon else []))
    # A config file runs user code: show any exception that it raises.
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{file} does not give a config: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(changes, ConfigDict):
        raise ConfigError(
            f"{file}: get_config() returned a {type(changes).__name__}, not an ml_collections "
            "ConfigDict"
        )
    return complete(changes.to_dict(), overrides, model=model, checked=checked)


def complete(
    changes: Mapping[str, Any],
    overrides: Iterable[str] = (),
    *,
    model: Mapping[str, Any] | None = None,
    checked: bool = True,
) -> ConfigDict:
    """Returns the defaults with changes applied: `model`, then `changes`, then `overrides`.

    Args:
      changes: nested dicts of the keys to change.
      overrides: texts "key=value".
      model: values of `model` keys that replace the defaults.
      checked: whether to run `check_config`.

    Raises:
      ConfigError: a key is unknown, or a value is not allowed.
    """
    config = default()
    for key, value in (model or {}).items():
        _set(config, f"model.{key}", value)
    for key, value in flatten(changes).items():
        _set(config, key, value)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--config.{override} has no value: write --config.{key}=VALUE")
        _set(config, key, _parse(text))
    if checked:
        check_config(config)
    return config


def _parse(text: str) -> Any:
    """Returns a Python literal's value, a truth value for true and false, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _set(config: ConfigDict, name: str, value: Any) -> None:
    """Sets one dotted key. Raises ConfigError for an unknown key or a value of another type."""
    if name not in KEYS:
        inside = [key for key in KEYS if key.startswith(f"{name}.")]
        if inside:
            raise ConfigError(f"{name!r} is a group of keys: set one of {', '.join(inside)}")
        raise ConfigError(f"unknown config key {name!r}{nearest(name, KEYS)}")
    *groups, last = name.split(".")
    for group in groups:
        config = config[group]
    config[last] = KEYS[name].convert(value)
