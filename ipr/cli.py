"""What every ``python -m ipr.<name>`` shares: how its words are read, and how it ends."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch

from ipr import distributed
from ipr.checkpoint import CheckpointMissing
from ipr.config import ConfigError


class UsageError(ValueError):
    """The command cannot be carried out as it was given."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help shows the usage)")


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(file names, ``dotted.key=value`` overrides) of a command's words."""
    overrides = [word for word in words if re.match(r"[^=/\\]+=", word)]  # a path with = in it has a folder
    return [word for word in words if word not in overrides], overrides


def take_flag(overrides: Sequence[str], name: str) -> tuple[bool, list[str]]:
    """The last ``name=true`` or ``name=false`` of the words (False where there is none), and the others."""
    said = [word for word in overrides if word.startswith(f"{name}=")]
    if wrong := [word for word in said if word not in (f"{name}=true", f"{name}=false")]:
        raise UsageError(f"{wrong[0]}: {name} is true or false")
    return said[-1:] == [f"{name}=true"], [word for word in overrides if word not in said]


def take_word(overrides: Sequence[str], name: str, known: Sequence[str]) -> tuple[str, list[str]]:
    """The last ``name=value`` of the words (the first known value where there is none), and the others."""
    said = [word for word in overrides if word.startswith(f"{name}=")]
    if wrong := [word for word in said if word.partition("=")[2] not in known]:
        raise UsageError(f"{wrong[0]}: {name} is {' or '.join(known)}")
    value = said[-1].partition("=")[2] if said else known[0]
    return value, [word for word in overrides if word not in said]


def new_file(text: str) -> Path:
    """Of an argument: a file to be written at the end, whose directory must be there from the start."""
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {path}: it is a directory, or is in none")
    return path


def run(program: Callable[[], None]) -> int:
    """0: done. 1: the data or the run failed a check. 2: wrong usage or configuration. 130: interrupted.

    ValueError and OSError carry messages made for users and become one line on stderr; ``python -X dev -m
    ipr.<name>`` shows where they came from. torchrun ends the other processes of a run and itself returns 1.
    """
    try:
        program()
    except KeyboardInterrupt as interrupt:
        if distributed.whose_error(same_for_all=True) is not None:
            print(f"\ninterrupted{f': {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing left to fail at exit
        return 1
    except (ValueError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        if sys.flags.dev_mode:
            raise
        usage = isinstance(error, ConfigError | UsageError | CheckpointMissing)
        whose = distributed.whose_error(same_for_all=usage)
        if whose is not None and not isinstance(error, distributed.SaidByMain):
            print(f"error{whose}: {_message(error)}", file=sys.stderr)
        return 2 if usage else 1
    return 0


def _message(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].startswith("Caught "):  # a loader's worker failed: its message ends the traceback
        return lines[-1].partition(": ")[2] or lines[-1]
    return " ".join(line.strip() for line in lines)
