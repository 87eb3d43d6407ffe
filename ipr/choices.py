"""Interchangeable parts: ``ipr/<kind>/<name>.py`` holds a dataclass ``Config`` whose ``build()`` makes one.

The file name is the ``name:`` in YAML, the fields of ``Config`` are the only legal keys.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

KINDS = ("datasets", "backbones", "heads", "losses", "metrics")


@dataclass(frozen=True)
class Choice:
    """Marks a config field whose value is the ``Config`` of one part: ``Annotated[Any, Choice("heads")]``."""

    kind: str


def not_one_of(value: object, known: Iterable[str]) -> str:
    """The text of an error: ``value`` is not among ``known``, and which of them may have been meant."""
    known = list(known)
    close = difflib.get_close_matches(str(value), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known) or 'none'}"


def names(kind: str) -> list[str]:
    """The parts of a kind, sorted; files that begin with an underscore are the kind's private code."""
    folder = Path(__file__).parent / _checked(kind)
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def load(kind: str, name: str) -> ModuleType:
    """The module of a part; its ``Config`` holds the options."""
    known = names(kind)
    if name not in known:
        raise ValueError(f"name: {name!r} is not in {kind}, {not_one_of(name, known)}")
    return importlib.import_module(f"ipr.{kind}.{name}")


def name_of(config: object) -> str | None:
    """The ``name`` under which ``load`` finds the part of this ``Config``; None for any other object."""
    package, _, name = type(config).__module__.rpartition(".")
    return name if package in {f"ipr.{kind}" for kind in KINDS} else None


def _checked(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of part, {not_one_of(kind, KINDS)}")
    return kind
