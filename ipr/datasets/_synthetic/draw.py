"""Counter-based random numbers: every value is a hash of (seed, purpose, index, column)."""

from __future__ import annotations

import zlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014), elementwise on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Draw:
    """Streams of the given indices [N]; each call takes their next columns and returns [N, *shape]."""

    def __init__(self, seed: int, purpose: str, index: np.ndarray) -> None:
        key = np.array([np.uint64(seed % 2**64), np.uint64(zlib.crc32(purpose.encode()))])
        key = _mix(_mix(key[:1] + _GOLDEN) + key[1:])
        self._state = _mix(_mix(np.asarray(index).astype(np.uint64) * _GOLDEN + key))
        self._column = 0

    def _unit(self, shape: tuple[int, ...]) -> np.ndarray:
        columns = int(np.prod(shape, dtype=int))
        counter = np.arange(self._column + 1, self._column + columns + 1, dtype=np.uint64) * _GOLDEN
        self._column += columns
        bits = _mix(self._state[:, None] + counter)
        return ((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(-1, *shape)

    def uniform(self, low: float = 0.0, high: float = 1.0, *shape: int) -> np.ndarray:
        return low + (high - low) * self._unit(shape)

    def normal(self, mean: float = 0.0, deviation: float = 1.0, *shape: int) -> np.ndarray:
        """Box and Muller's transform, cut at 2.5 deviations."""
        radius = np.sqrt(-2.0 * np.log1p(-self._unit(shape)))
        unit = radius * np.cos(2.0 * np.pi * self._unit(shape))
        return mean + deviation * np.clip(unit, -2.5, 2.5)

    def integer(self, count: int, *shape: int) -> np.ndarray:
        return (self._unit(shape) * count).astype(np.int64)

    def chance(self, probability: float, *shape: int) -> np.ndarray:
        return self._unit(shape) < probability
