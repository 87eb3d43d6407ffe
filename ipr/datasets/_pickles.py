"""Pickles of earlier projects, read without running what they ask for: arrays and plain containers only."""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np


def load(path: Path) -> Any:
    """What a pickle holds, of Python 2 or 3 and numpy 1 or 2: arrays, numbers, text, lists, dicts, sets.

    ValueError, naming the file, where it holds anything else, or is no whole pickle.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        # latin1: how the bytes of an array that Python 2 wrote survive
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except _NotPlain as error:
        raise ValueError(
            f"{path}: holds {error}: of pickles, only numpy arrays and plain containers are read, as "
            "others may run any program; save it again as such, or as .npz or JSON"
        ) from None
    except Exception as error:  # a damaged file may fail in any way
        raise ValueError(
            f"{path}: is no pickle, cut short or damaged ({len(data)} bytes): {error!r}; copy it again"
        ) from error


class _NotPlain(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module.replace("numpy.core", "numpy._core"), name]
        except KeyError:
            raise _NotPlain(f"{module}.{name}") from None


_ARRAY = object()  # stands for the class, so that no pickle can call it
_SIMPLE = re.compile(r"([biufc?](1|2|4|8|16)?|[SUO]\d*)")


class _Dtype:
    """A dtype that a pickle describes. numpy's own believes whatever a pickle says, down to the pointers."""

    def __init__(self, name: str, align: bool = False, copy: bool = True) -> None:
        if not _SIMPLE.fullmatch(name):
            raise ValueError(f"an array of {name!r}")
        self.value = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, byte_order, shaped, names, fields, *_ = state
        if not (shaped is names is fields is None):
            raise ValueError("an array of records")
        self.value = self.value.newbyteorder(byte_order)


class _Array(np.ndarray):
    """An array whose dtype is made here."""

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, data = state
        super().__setstate__((version, shape, dtype.value, fortran, data))


def _empty_array(kind: object, shape: object, dtype: object) -> np.ndarray:
    """What numpy makes before it fills an array; of another shape it would take any amount of memory."""
    if kind is not _ARRAY or shape != (0,):
        raise ValueError(f"an array of the shape {shape!r} without its numbers")
    return np.empty(0, np.uint8).view(_Array)


def _from_buffer(buffer: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Arrays of protocol 5."""
    return np.frombuffer(buffer, dtype.value).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: _Dtype, value: bytes) -> Any:
    return np.frombuffer(value, dtype.value, 1)[0]


def _bytes(text: str, encoding: str) -> bytes:
    """Up to protocol 2, bytes of Python 3 are written as text."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): _Dtype,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _bytes,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytearray"): bytearray,
    ("__builtin__", "set"): set,
    ("__builtin__", "frozenset"): frozenset,
    ("__builtin__", "bytearray"): bytearray,
}
