"""Strict YAML as frozen dataclasses: what ``config`` is read by, whatever its fields are.

Every value remembers the line or the override that it came from, for the message that refuses it.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from ipr import choices


class ConfigError(ValueError):
    """A configuration that cannot be used as it stands."""


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """Raise the ValueError ``name: ...`` of a field out of range; the reader makes ``name`` a dotted path."""
    if not holds:
        raise ValueError(f"{name}: {value!r} given, must be {wanted}")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain dicts, lists and scalars, every field spelled out; choices carry their ``name``."""
    fields = {item.name: _to_plain(getattr(config, item.name)) for item in dataclasses.fields(config)}
    return fields if (name := choices.name_of(config)) is None else {"name": name, **fields}


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return [_to_plain(item) for item in value] if isinstance(value, tuple) else value


_Path = tuple[str, ...]


class Origins(dict[_Path, str]):
    """Where values came from: "file:line", or the override."""

    def error(self, path: _Path, message: str) -> ConfigError:
        place = next((self[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self), "")
        return ConfigError(": ".join(part for part in (place, ".".join(path), message) if part))


def build(hint: Any, value: Any, path: _Path, origins: Origins) -> Any:
    """``value`` of plain types as the type ``hint``, or a ConfigError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _build_choice(arguments[1].kind, value, path, origins)
    if dataclasses.is_dataclass(hint):
        return _build_section(hint, value, path, origins)
    if origin is Literal:
        if any(value == option and type(value) is type(option) for option in arguments):
            return value
        raise origins.error(path, f"{value!r} is no option, {choices.not_one_of(value, map(str, arguments))}")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise origins.error(path, f"expected a list, got {_shown(value)}")
        hints = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(value) != len(hints):
            raise origins.error(path, f"expected a list of {len(hints)} values, got {len(value)}: {value!r}")
        return tuple(build(hints[i], item, (*path, str(i)), origins) for i, item in enumerate(value))
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:  # bool is a subclass of int, and True is no number of workers
        quote = ", write it in quotes" if hint is str and type(value) in (int, float, bool) else ""
        raise origins.error(path, f"expected {_TYPES[hint]}, got {_shown(value)}{quote}")
    if hint is float and not math.isfinite(value):
        raise origins.error(path, f"expected a finite number, got {value!r}")
    return value


_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _shown(value: Any) -> str:
    kind = {dict: "a mapping", list: "a list", **_TYPES}.get(type(value), type(value).__name__)
    return "nothing" if value is None else f"{kind} ({value!r})"


def _build_choice(kind: str, value: Any, path: _Path, origins: Origins) -> Any:
    if not isinstance(value, dict) or "name" not in value:
        example = f"{{name: {choices.names(kind)[0]}, ...}}"
        raise origins.error(path, f"expected a choice of {kind} such as {example}, got {_shown(value)}")
    options = dict(value)
    name = build(str, options.pop("name"), (*path, "name"), origins)
    try:
        module = choices.load(kind, name)
    except ValueError as error:
        raise origins.error((*path, "name"), str(error).removeprefix("name: ")) from None
    return _build_section(module.Config, options, path, origins)


def _build_section(cls: Any, value: Any, path: _Path, origins: Origins) -> Any:
    if not isinstance(value, dict):
        raise origins.error(path, f"expected a mapping, got {_shown(value)}")
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {item.name: item for item in dataclasses.fields(cls) if item.init}
    for key in value:
        if key not in fields:
            raise origins.error((*path, str(key)), f"unknown key, {choices.not_one_of(key, fields)}")
    for key, item in fields.items():
        if key not in value and item.default is item.default_factory is dataclasses.MISSING:
            raise origins.error((*path, key), "missing, and it has no default")
    arguments = {key: build(hints[key], item, (*path, key), origins) for key, item in value.items()}
    try:
        return cls(**arguments)
    except ValueError as error:  # a range check in __post_init__; "field: ..." belongs to that field
        key, colon, rest = str(error).partition(": ")
        if colon and key in fields:
            raise origins.error((*path, key), rest) from None
        raise origins.error(path, str(error)) from None


class _Yaml(yaml.SafeLoader):
    """Scalars as in YAML 1.2: ``1e-3`` is a number; ``no``, ``1:30`` and ``010`` are text."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = {}


for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", list("tf")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def read(path: str | os.PathLike[str], origins: Origins) -> Any:
    label = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"no UTF-8 text ({error.reason})"
        raise ConfigError(f"{label}: cannot read the configuration: {reason}") from None
    tree = _parse(text, lambda line: f"{label}:{line}", (), origins)
    return {} if tree is None else tree  # a file of comments alone is the default run


def _parse(text: str, place: Callable[[int], str], path: _Path, origins: Origins) -> Any:
    """The plain values of a YAML text; the ``place`` of each value's line is entered into ``origins``."""
    seen: set[int] = set()

    def plain(node: yaml.Node, path: _Path) -> Any:
        origins[path] = place(node.start_mark.line + 1)
        if id(node) in seen:
            raise origins.error(path, "write the value out, aliases (*name) are not read")
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            return [plain(item, (*path, str(i))) for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return loader.construct_object(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in result:
                origins[*path, key] = place(key_node.start_mark.line + 1)
                raise origins.error((*path, key), "the key is there a second time")
            result[key] = plain(value_node, (*path, key))
        return result

    try:
        loader = _Yaml(text)
        node = loader.get_single_node()
        return None if node is None else plain(node, path)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, KeyError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{place(mark.line + 1 if mark else 1)}: no valid YAML: {reason}") from None


def assign(tree: Any, override: str, origins: Origins) -> None:
    """Set one value of the tree by ``dotted.key=value``."""
    label = f"override {override!r}"
    key, _, text = override.partition("=")
    path = tuple(key.strip().split("."))
    if "=" not in override or not all(path):
        raise ConfigError(f"{label}: expected dotted.key=value")
    fresh = Origins()
    value = _parse(text, lambda _line: label, path, fresh) if text.strip() else ""
    node: Any = [tree]
    slot: Any = 0
    for depth, part in enumerate(path):
        node = node[slot]
        if not isinstance(node, list | dict):
            raise ConfigError(f"{label}: {'.'.join(path[:depth])} is {_shown(node)} and has no {part!r}")
        known = node if isinstance(node, dict) else [str(i) for i in range(len(node))]
        if part not in known and (isinstance(node, list) or depth < len(path) - 1):
            raise ConfigError(f"{label}: unknown key {part!r}, {choices.not_one_of(part, known)}")
        slot = int(part) if isinstance(node, list) else part
    if slot == "name" and node.get("name", value) != value:
        node.clear()  # another part has other options
        path = path[:-1]
    node[slot] = value
    for stale in [old for old in origins if old[: len(path)] == path]:
        del origins[stale]
    origins.update({path: label} | fresh)
