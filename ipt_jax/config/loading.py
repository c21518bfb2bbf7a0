"""Configs: every key with its default, loading a config file, overrides, and checks that name what
is wrong.

A config file is an ml_collections one: `get_config()` returns a `ConfigDict` with the keys that it
changes; `default()` below holds every key there is.
"""

from __future__ import annotations

import ast
import importlib.util
import logging
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ipt_jax.config.checks import check_config
from ipt_jax.config.defaults import default
from ipt_jax.errors import ConfigError
from ipt_jax.messages import nearest
from ipt_jax.trees import flatten

logger = logging.getLogger("ipt_jax")


def find(path: str) -> Path:
    """A config file: the path as given, or among those that the package ships (`configs/demo.py`).

    Raises:
      ConfigError: there is no such file; the message lists the shipped ones.
    """
    package = Path(str(resources.files("ipt_jax")))
    # Beside the package in a clone, inside it in an installed wheel.
    places = (package / "configs", package.parent / "configs")
    shipped = [folder for folder in places if folder.is_dir()]
    for candidate in [Path(path), *(folder / Path(path).name for folder in shipped)]:
        if candidate.is_file():
            return candidate
    known = sorted(
        {
            f"configs/{f.name}"
            for folder in shipped
            for f in folder.glob("*.py")
            if f.name != "__init__.py"
        }
    )
    raise ConfigError(f"no config file {path!r}{nearest(path, known)}; shipped: {', '.join(known)}")


def load(
    path: str,
    overrides: Iterable[str] = (),
    *,
    model: Mapping[str, Any] | None = None,
    checked: bool = True,
) -> ConfigDict:
    """The whole, checked config of a file and `key=value` overrides; `FILE:ARGUMENT` hands its
    get_config an argument.

    Args:
      path: the file.
      overrides: `key=value`s.
      model: values of `model` keys that take the place of the defaults.
      checked: False leaves `check` out.

    Raises:
      ConfigError: no such file, not a config, an unknown key or a value that does not fit.
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
    # A config is somebody's code: whatever it raises is theirs to read
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
    """The defaults with `changes` and then `key=value` overrides, checked. The other arguments are
    those of `load`.

    Raises:
      ConfigError: an unknown key or a value that does not fit.
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
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _set(config: ConfigDict, key: str, value: Any) -> None:
    known = flatten(config)
    if key not in known:
        inside = [k for k in known if k.startswith(f"{key}.")]
        what = (
            f"{key!r} is a group of keys ({', '.join(inside)})"
            if inside
            else f"unknown config key {key!r}"
        )
        raise ConfigError(what + nearest(key, known))
    was = known[key]
    if isinstance(was, tuple):
        value = (
            tuple(value.split(","))
            if isinstance(value, str)
            else (value,)
            if isinstance(value, Mapping)
            else value
        )
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key} must be a list, not {value!r}")
        value = tuple(value)
    elif isinstance(was, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    elif isinstance(was, str) and not isinstance(value, str):
        value = str(value)
    if type(value) is not type(was):
        raise ConfigError(
            f"{key} must be a {type(was).__name__} (its default is {was!r}), not {value!r}"
        )
    *path, last = key.split(".")
    for part in path:
        config = config[part]
    config[last] = value
