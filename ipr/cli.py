"""What every ``python -m ipr.<name>`` shares: how its words are read, and how it ends."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from ipr.checkpoint import CheckpointMissing
from ipr.config import ConfigError


class UsageError(ValueError):
    """The command cannot be carried out as it was given."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help shows the usage)")


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(file names, ``dotted.key=value`` overrides) of a command's words."""
    overrides = [word for word in words if re.match(r"[A-Za-z_][\w.]*=", word)]
    return [word for word in words if word not in overrides], overrides


def run(program: Callable[[], None]) -> int:
    """0: done. 1: the data or the run failed a check. 2: wrong usage or configuration. 130: interrupted.

    ValueError and OSError carry messages made for users and become one line on stderr; ``python -X dev -m
    ipr.<name>`` shows where they came from.
    """
    try:
        program()
    except KeyboardInterrupt as interrupt:
        print(f"\ninterrupted{f': {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing left to fail at exit
        return 1
    except (ValueError, OSError) as error:
        if sys.flags.dev_mode:
            raise
        print(f"error: {_message(error)}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError | UsageError | CheckpointMissing) else 1
    return 0


def _message(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].startswith("Caught "):  # a loader's worker failed: its message ends the traceback
        return lines[-1].partition(": ")[2] or lines[-1]
    return " ".join(line.strip() for line in lines)
