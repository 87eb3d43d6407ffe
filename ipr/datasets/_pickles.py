"""Pickles of earlier projects, read without running what they name.

A pickle is a program: ``pickle.load`` calls whatever functions it names. Here those may only be numpy's own
that put an array together; all else, which a list or a dict of numbers and arrays does not need, is refused.
"""

from __future__ import annotations

import io
import os
import pickle
from typing import Any

import numpy as np


class _Refused(pickle.UnpicklingError):
    pass


def _decoded(text: str, encoding: str) -> bytes:
    """How protocol 2 and older write bytes: as text, to be encoded again."""
    if encoding != "latin1":
        raise _Refused(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")


_ARRAY = np.zeros(1)
_RECONSTRUCT, _FROM_BUFFER = _ARRAY.__reduce__()[0], _ARRAY.__reduce_ex__(5)[0]
_SCALAR = _ARRAY[0].__reduce__()[0]
# numpy.core became numpy._core with numpy 2.
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _decoded,
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FROM_BUFFER for core in ("core", "_core")},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise _Refused(f"{module}.{name}")
        return _ADMITTED[module, name]


def load(path: str | os.PathLike[str]) -> Any:
    """The lists, dicts, numbers and arrays of a pickle, those of Python 2 too.

    ValueError, naming the file, where it cannot be read, is cut short or damaged, or names anything else.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ValueError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}") from error
    try:
        return _Reader(io.BytesIO(data), encoding="latin1").load()
    except _Refused as error:
        raise ValueError(
            f"{os.fspath(path)}: this pickle would run {error}; only numpy arrays and plain containers "
            "are read from pickles"
        ) from None
    except Exception as error:  # damage may show in any way
        raise ValueError(
            f"{os.fspath(path)}: is no pickle, or cut short or damaged ({len(data)} bytes): "
            f"{error or type(error).__name__}"
        ) from None
