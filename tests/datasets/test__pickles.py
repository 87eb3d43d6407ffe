"""Pickles: arrays and plain containers come back equal, all else is refused without being run."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ipr.datasets import _pickles

PLAIN = {
    ("S1", "54138969"): [1, 2.5, "text", b"\x00\xff", None, True, {3}, frozenset({4}), bytearray(b"5")],
    "arrays": [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        np.array([True, False]),
        np.array(["a", "bcd"]),
        np.array([b"a", b"bcd"]),
        np.array([[1, "x"], [None, [2.0]]], object),
        np.zeros((0, 4), np.float32),
        np.array(7.0),
    ],
    "scalars": OrderedDict(a=np.float64(1.5), b=np.int64(-3), c=np.bool_(True)),
}


def equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, np.ndarray):
        kind = wanted.dtype.newbyteorder("=")  # numpy itself may swap bytes
        same = np.asarray(found).dtype.newbyteorder("=") == kind and found.shape == wanted.shape
        return same and np.array_equal(np.asarray(found), wanted)
    if isinstance(wanted, dict):
        return list(found) == list(wanted) and all(equal(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(equal, found, wanted))
    return bool(found == wanted) and type(found) is type(wanted)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_content_comes_back(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps(PLAIN, protocol))
    assert equal(_pickles.load(path), PLAIN)
    old_names = path.read_bytes().replace(b"numpy._core.", b"numpy.core.")  # as numpy 1 writes
    if protocol < 4:  # no lengths of names in it
        path.write_bytes(old_names)
        assert equal(_pickles.load(path), PLAIN)


def test_python_2_wrote_arrays_as_text(tmp_path: Path) -> None:
    path = tmp_path / "old.pkl"
    path.write_bytes(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n"
        b"(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
        b"S'\\x00\\x00\\x00\\x00\\x00\\x00\\xf8?\\x00\\x00\\x00\\x00\\x00\\x00\\x04\\xc0'\ntb."
    )
    assert _pickles.load(path).tolist() == [1.5, -2.5]


class _Runs:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_something_is_refused(tmp_path: Path, protocol: int) -> None:
    path, target = tmp_path / "bad.pkl", tmp_path / "made"
    path.write_bytes(pickle.dumps([1, _Runs(target)], protocol))
    with pytest.raises(ValueError, match=rf"{path}: holds (posix|nt)\.mkdir: of pickles, only numpy arrays"):
        _pickles.load(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "text",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nndarray\n((I1000000000000\nttR.",  # a terabyte
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntS'b'\ntR.",
        b"cnumpy\ndtype\n(S'f8,f8'\nI0\nI1\ntR.",
        b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
        # pointers from a file: an object array whose dtype claims to be plain numbers
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\ntcnumpy\ndtype\n"
        b"(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI8\nI8\nI0\ntbI00\nS'AAAAAAAA'\ntb.",
        b"not a pickle",
        b"",
    ],
)
def test_what_is_no_plain_pickle_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=rf"{path}: (holds|is no pickle, cut short or damaged)"):
        _pickles.load(path)


def test_a_short_or_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "short.pkl"
    whole = pickle.dumps(PLAIN)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"{path}: is no pickle, cut short or damaged .* copy it again"):
        _pickles.load(path)
    with pytest.raises(ValueError, match=r"none\.pkl: cannot be read: No such file"):
        _pickles.load(tmp_path / "none.pkl")
