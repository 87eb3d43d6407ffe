"""Which rows of several training sets make an epoch: pure functions of seed, epoch and the sets' sizes.

A row is its number in all sets end to end; its second appearance in one epoch is that + the number of rows,
its third + twice that, so that each appearance is augmented in its own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

# The last counter word sets these streams of random numbers apart from those of the rows' warps.
_ORDER, _PASSES, _REPLACEMENTS = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """What an epoch takes of each set of ``data.train``.

    ``rows``: every row of every set once. ``shares``: rows in the proportion of ``weights``; a set is gone
    through in random order, epoch after epoch, and begun again in another order only when its last row has
    been used. ``eccv2018``: as many of each set as the first one has, and in every epoch the same ones, as
    the ECCV 2018 code did without meaning to: of Human3.6M it saw less than a fifth.
    """

    kind: Literal["rows", "shares", "eccv2018"] = "rows"
    weights: tuple[float, ...] = ()  # of the sets, for shares; any sum
    people: int = 0  # per epoch, for shares; 0: the number of all rows
    even: bool = False  # every batch has the epoch's proportions, to a person; otherwise only on average

    def __post_init__(self) -> None:
        _require(all(weight > 0 for weight in self.weights), "weights", self.weights, "positive")
        _require(self.people >= 0, "people", self.people, "at least 0")
        if self.kind == "shares":
            _require(bool(self.weights), "weights", self.weights, "one for each set with kind: shares")
        else:
            _require(not self.weights, "weights", self.weights, f"left out with kind: {self.kind}")
            _require(self.people == 0, "people", self.people, f"left out with kind: {self.kind}")

    def check(self, sets: int) -> None:
        """Raise the ValueError of a configuration that does not fit the number of sets."""
        if self.weights and len(self.weights) != sets:
            raise ValueError(f"mix: {len(self.weights)} weights given for {sets} sets, must be one for each")


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:  # as config.require, which lies above
        raise ValueError(f"{name}: {value!r} given, must be {wanted}")


def counts(sizes: Sequence[int], mix: MixConfig) -> list[int]:
    """Rows that an epoch takes of each set, the same in every epoch."""
    if mix.kind == "rows":
        return list(sizes)
    if mix.kind == "eccv2018":
        return [sizes[0]] * len(sizes)
    weights = np.array(mix.weights)
    exact = (mix.people or sum(sizes)) * weights / weights.sum()
    found = np.floor(exact).astype(int)
    left = (mix.people or sum(sizes)) - int(found.sum())
    found[np.argsort(found - exact, kind="stable")[:left]] += 1  # the largest remainders
    return [int(count) for count in found]


def epoch_rows(sizes: Sequence[int], mix: MixConfig, seed: int, epoch: int) -> np.ndarray:
    """The rows of an epoch in the order of training, int64."""
    order = _generator(seed, epoch, 0, _ORDER)
    parts, first = [], 0
    for index, (size, count) in enumerate(zip(sizes, counts(sizes, mix), strict=True)):
        if mix.kind == "rows":
            drawn = np.arange(size)
        else:
            start = 0 if mix.kind == "eccv2018" else epoch * count
            drawn = _stream(size, start, count, seed, index)
        parts.append(first + drawn + sum(sizes) * _repetition(drawn))
        first += size
    rows = np.concatenate(parts)
    if not mix.even:
        order.shuffle(rows)
        return rows
    for part in parts:
        order.shuffle(part)
    # Each set's rows at equal distances: any stretch of the epoch, so each batch and each process's part of
    # it, holds the sets in their proportions.
    places = np.concatenate([(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in parts])
    return np.concatenate(parts)[np.argsort(places, kind="stable")]


def coverage(sizes: Sequence[int], mix: MixConfig, epochs: int) -> list[float]:
    """Of each set, the part of its rows that the first ``epochs`` epochs of a run have used."""
    passed = min(epochs, 1) if mix.kind == "eccv2018" else epochs
    return [min(1.0, passed * count / size) for size, count in zip(sizes, counts(sizes, mix), strict=True)]


def replacements(size: int, local: int, tries: int, seed: int, epoch: int, row: int) -> np.ndarray:
    """Rows of a table of ``size`` rows to try, in order, where its row ``local`` cannot be loaded.

    ``row``: its number in the epoch. At most ``tries``; none where the table has no other row.
    """
    others = size - 1
    steps = _generator(seed, epoch, row, _REPLACEMENTS).integers(max(others, 1), size=tries if others else 0)
    return (local + 1 + steps) % size


def _stream(size: int, start: int, count: int, seed: int, index: int) -> np.ndarray:
    """``count`` numbers from place ``start`` on of an endless row of permutations of ``size`` numbers."""
    if count == 0:
        return np.zeros(0, np.int64)
    first, last = start // size, (start + count - 1) // size
    passes = [_generator(seed, number, index, _PASSES).permutation(size) for number in range(first, last + 1)]
    return np.concatenate(passes)[start - first * size :][:count]


def _repetition(rows: np.ndarray) -> np.ndarray:
    """How often each of the numbers stands before it: 0 for its first appearance."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    earlier = np.empty_like(rows)
    earlier[order] = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
    return earlier


def _generator(seed: int, number: int, index: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, index, stream]))
