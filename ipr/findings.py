"""What a check of a table says. An error spoils a training or an evaluation; a warning may be right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np

from ipr.types import Camera, PoseTable

EXAMPLES = 5


class Finding(NamedTuple):
    level: str  # "error" | "warning"
    what: str
    fix: str
    rows: int  # that have it
    of: int  # that were looked at; 0 where it is not about rows
    first: tuple[int, ...] = ()  # rows of the table
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        counted = f"{self.rows} of {self.of}: " if self.of else ""
        lines = [f"{self.level.upper()}: {counted}{self.what}", f"  fix: {self.fix}"]
        more = self.rows - len(self.examples)
        lines += [f"  {text}" for text in self.examples]
        return "\n".join([*lines, *([f"  and {more} more"] if self.examples and more > 0 else [])])


class Part(NamedTuple):
    """Some rows of a table."""

    table: PoseTable  # the arrays of these rows; its image has all rows
    rows: np.ndarray  # [n] their numbers in the whole table

    def finding(
        self, level: str, bad: np.ndarray, what: str, fix: str, details: Any = None
    ) -> Iterator[Finding]:
        """One finding of the rows where ``bad`` [n] is true, none without any; ``details`` of each row."""
        at = np.flatnonzero(bad)
        if len(at) == 0:
            return
        first = self.rows[at[:EXAMPLES]]
        said = ["" if details is None else f": {details[i]}" for i in at[:EXAMPLES]]
        examples = [
            f"row {row}, {self.table.image.name(int(row))}{text}"
            for row, text in zip(first, said, strict=True)
        ]
        yield Finding(level, what, fix, len(at), len(bad), tuple(first.tolist()), tuple(examples))


def part(table: PoseTable, rows: np.ndarray) -> Part:
    def take(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value[rows]
        if isinstance(value, Camera):
            return Camera(*map(take, value))
        if isinstance(value, dict):
            return {name: take(array) for name, array in value.items()}
        return value

    taken = {field.name: take(getattr(table, field.name)) for field in fields(table)}
    return Part(replace(table, **taken), rows)


def evenly(count: int, most: int) -> np.ndarray:
    """At most ``most`` of ``count`` rows, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
