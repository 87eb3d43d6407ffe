"""Integral human pose regression: 3-D human poses from single images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ipr import _distribution

if TYPE_CHECKING:
    from ipr.model import load_network as load_network

__version__ = "0.1.0"

_distribution.refuse_foreign()

cmake_prefix_path = str(Path(__file__).parent)  # for CMake's find_package(ipr)


def __getattr__(name: str) -> object:
    """Imports torch and the operators only when asked for them: ``ipr.__version__`` stays cheap."""
    if name == "load_network":
        from ipr.model import load_network

        return load_network
    raise AttributeError(f"module 'ipr' has no attribute {name!r}")
