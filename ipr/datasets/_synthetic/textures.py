"""Pictures of walls and floors, drawn once per process; validation has other pictures and palettes."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

WALL_MM = 12.0  # of a texel of the finest level
FLOOR_MM = 10.0
WALLS, FLOORS = 40, 24  # pictures in each split
_WALL_SIZE = (288, 512)
_FLOOR_SIZE = (256, 256)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> np.ndarray:
    """[h, w] float32 about -1..1 that wraps around."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    tiled = np.tile(coarse, (3, 3))
    big = cv2.resize(tiled, (3 * shape[1], 3 * shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(big[shape[0] : 2 * shape[0], shape[1] : 2 * shape[1]])


@lru_cache(maxsize=1)
def grain() -> np.ndarray:
    """[256, 256] float32 about -1..1, wrapping: folds of cloth and blotches of skin."""
    rng = np.random.default_rng(7)
    noise = sum(
        _smooth_noise(rng, (256, 256), cells) / weight for cells, weight in ((8, 1.2), (20, 1.5), (48, 2.2))
    )
    return (noise / np.abs(noise).max()).astype(np.float32)


@lru_cache(maxsize=1)
def sensor_noise() -> np.ndarray:
    """[512, 512, 3] float32 of about unit deviation: a tile of 256 twice each way, to slice windows from."""
    rng = np.random.default_rng(11)
    tile = 0.75 * rng.standard_normal((256, 256, 1)) + 0.55 * rng.standard_normal((256, 256, 3))
    return np.tile(tile.astype(np.float32), (2, 2, 1))


def _color(rng: np.random.Generator, held_out: bool, most: float = 0.6) -> np.ndarray:
    hue = ((rng.integers(6) + (0.5 if held_out else 0.0)) / 6 + rng.uniform(-0.045, 0.045)) % 1.0
    hsv = np.array([[[hue * 360, most * rng.random() ** 1.5, rng.uniform(0.2, 0.95)]]], np.float32)
    return (cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] * 255).astype(float)


def _pyramid(image: np.ndarray) -> tuple[np.ndarray, ...]:
    levels = [np.clip(image, 0, 255).astype(np.uint8)]
    while len(levels) < 4:
        levels.append(cv2.pyrDown(levels[-1]))
    return tuple(levels)


@lru_cache(maxsize=256)
def wall(number: int, held_out: bool) -> tuple[np.ndarray, ...]:
    """Levels [h, w, 3] uint8, each half as fine; row 0 is the ceiling's."""
    rng = np.random.default_rng([number, int(held_out), 1])
    height, width = _WALL_SIZE
    base = 0.5 * _color(rng, held_out, 0.35) + 0.5 * rng.uniform(110, 245)
    image = np.tile(base, (height, width, 1)).astype(np.float32)
    image *= 1 + 0.09 * _smooth_noise(rng, _WALL_SIZE, 5)[..., None]
    style = rng.integers(4)
    if style == 1:  # panels or bricks
        step = int(rng.integers(12, 40))
        image[::step] *= 0.8
        for row in range(0, height, step):
            image[row : row + step, (row // step % 2) * step :: 2 * step] *= 0.85
    elif style == 2:  # curtain
        image *= 1 + 0.18 * np.sin(np.arange(width) * 2 * np.pi / rng.uniform(8, 24))[None, :, None]
    elif style == 3:  # two-coloured
        image[int(height * rng.uniform(0.5, 0.7)) :] = _color(rng, held_out, 0.4)
    image = np.ascontiguousarray(image)
    for _ in range(rng.integers(14, 34)):
        x, y = int(rng.integers(width)), int(rng.integers(height // 4, height))
        w, h = int(rng.integers(8, 90)), int(rng.integers(8, 90))
        color = _color(rng, held_out, 0.55).tolist()
        kind = rng.integers(6)
        if kind <= 1:  # a picture with a frame
            cv2.rectangle(image, (x, y), (x + w, y + h), color, -1)
            cv2.rectangle(image, (x, y), (x + w, y + h), _color(rng, held_out).tolist(), 2)
            for _ in range(4):
                at = (x + int(rng.integers(w + 1)), y + int(rng.integers(h + 1)))
                cv2.circle(image, at, int(rng.integers(2, 12)), _color(rng, held_out, 0.65).tolist(), -1)
        elif kind == 2:  # a shelf of books
            for left in range(x, x + w, 5):
                top = y + int(rng.integers(10))
                cv2.rectangle(
                    image, (left, top), (left + 4, y + 30), _color(rng, held_out, 0.55).tolist(), -1
                )
            cv2.line(image, (x - 4, y + 31), (x + w + 4, y + 31), (60.0, 45.0, 35.0), 2)
        elif kind == 3:
            cv2.ellipse(
                image, (x, y), (w // 2, h // 2), float(rng.uniform(0, 180)), 0, 360, color, -1, cv2.LINE_AA
            )
        elif kind == 4:  # a cable, a pipe, an edge
            end = (x + int(rng.integers(-80, 80)), y + int(rng.integers(-140, 140)))
            cv2.line(image, (x, y), end, color, int(rng.integers(1, 7)), cv2.LINE_AA)
        else:  # a door or a cupboard down to the floor
            cv2.rectangle(image, (x, min(y, height - 90)), (x + w, height), color, -1)
            cv2.rectangle(image, (x, min(y, height - 90)), (x + w, height), (40.0, 40.0, 40.0), 1)
    image *= 1 + 0.04 * _smooth_noise(rng, _WALL_SIZE, 40)[..., None]
    image[-9:] *= 0.6
    return _pyramid(image)


@lru_cache(maxsize=256)
def floor(number: int, held_out: bool) -> tuple[np.ndarray, ...]:
    """Levels [h, w, 3] uint8 that wrap around."""
    rng = np.random.default_rng([number, int(held_out), 2])
    height, width = _FLOOR_SIZE
    base = 0.5 * _color(rng, held_out, 0.5) + 0.5 * rng.uniform(80, 210)
    image = np.tile(base, (height, width, 1)).astype(np.float32)
    style = rng.integers(4)
    if style == 0:  # planks
        for row in range(0, height, 16):
            shift = int(rng.integers(width))
            tone = 1 + 0.14 * rng.standard_normal((1, 4)).repeat(width // 4, axis=1)
            image[row : row + 16] *= np.roll(tone, shift, axis=1)[..., None].astype(np.float32)
            image[row] *= 0.75
    elif style == 1:  # tiles
        step = int(rng.choice([32, 64]))
        tone = 1 + 0.08 * rng.standard_normal((height // step, width // step))
        image *= tone.repeat(step, 0).repeat(step, 1)[..., None].astype(np.float32)
        image[::step] *= 0.7
        image[:, ::step] *= 0.7
    elif style == 2:  # carpet with a pattern
        other = _color(rng, held_out)
        rows, columns = np.mgrid[:height, :width] * 2 * np.pi / rng.choice([16, 32, 64])
        image[(np.sin(rows) * np.sin(columns)) > rng.uniform(-0.2, 0.6)] = other
    image *= 1 + 0.12 * _smooth_noise(rng, _FLOOR_SIZE, 6)[..., None]
    image *= 1 + 0.08 * _smooth_noise(rng, _FLOOR_SIZE, 64)[..., None]
    return _pyramid(image)
