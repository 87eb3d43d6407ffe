"""Tolerances (one table for the whole suite) and the process-wide settings of a test run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch

try:
    import cv2
except ImportError:  # the operators' tests need none
    cv2 = None


class Tolerance(NamedTuple):
    """Largest absolute difference allowed; those against the original system come from its golden files."""

    coords_norm: dict[torch.dtype, float]
    coords_cells: float
    gradient: dict[torch.dtype, float]
    network_norm: dict[torch.dtype, float]
    crop_px: float
    grey_level: float
    label: float
    metric: float


TOLERANCE = Tolerance(
    coords_norm={torch.float32: 1e-5, torch.float64: 1e-10},
    coords_cells=5e-5,
    gradient={torch.float32: 1e-6, torch.float64: 1e-7},
    network_norm={torch.float32: 5e-4, torch.float64: 1e-6},
    crop_px=2e-3,
    grey_level=1.0,
    label=2e-5,
    metric=1e-6,
)


@pytest.fixture(scope="session")
def tolerance() -> Tolerance:
    return TOLERANCE


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tables are not stored in the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    """One thread: tiny tensors gain nothing from more, and lose a lot on a busy machine."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if cv2 is not None:
        cv2.setNumThreads(1)
