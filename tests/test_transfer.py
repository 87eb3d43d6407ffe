"""Packed records: the same record out of one buffer, in order, on the device, and nothing kept."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from ipr.transfer import ALIGNMENT, Packed, Pieces, on_device, pack

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
PINNED = pytest.mark.skipif(not torch.cuda.is_available(), reason="without CUDA there is no pinned memory")


class Inner(NamedTuple):
    flags: Tensor
    name: str = "occluders"


class Note(NamedTuple):
    row: int
    message: str


class Record(NamedTuple):
    pixels: Tensor
    joints: Tensor
    permuted: Tensor
    inner: Inner | None
    gamma: Tensor | None
    empty: Tensor
    number: Tensor
    notes: tuple[Note, ...]


def record(seed: int = 0, size: int = 13) -> Record:
    random = torch.Generator().manual_seed(seed)
    return Record(
        pixels=torch.randint(256, (size,), dtype=torch.uint8, generator=random),
        joints=torch.randn(size, 3, 2, dtype=torch.float64, generator=random),
        permuted=torch.randn(3, size, generator=random).bfloat16().t(),
        inner=Inner(torch.rand(size, generator=random) < 0.5),
        gamma=None,
        empty=torch.zeros(0, 3),
        number=torch.tensor(seed),
        notes=(Note(3, "cut short"), Note(seed, "")),
    )


def tensors(value: object) -> list[Tensor]:
    if isinstance(value, tuple):
        return [tensor for part in value for tensor in tensors(part)]
    return [value] if isinstance(value, Tensor) else []


def assert_same(found: Record, expected: Record, device: str = "cpu") -> None:
    for ours, theirs in zip(tensors(found), tensors(expected), strict=True):
        assert ours.device.type == device and ours.dtype == theirs.dtype
        assert torch.equal(ours.cpu(), theirs)
    assert type(found) is Record and found.notes == expected.notes and found.gamma is None
    assert all(type(note) is Note for note in found.notes)
    assert (found.inner is None) == (expected.inner is None)
    assert not isinstance(found.inner, Inner) or found.inner.name == "occluders"


def packed_records(count: int) -> Iterator[Packed[Record]]:
    return (pack(record(number, 5 + number)) for number in range(count))


@pytest.mark.parametrize("changes", [{}, {"inner": None}, {"notes": ()}])
def test_packed_and_unpacked(changes: dict[str, None]) -> None:
    given = record()._replace(**changes)
    packed = pack(given)
    found = packed.unpack()
    assert_same(found, given)
    assert_same(pickle.loads(pickle.dumps(packed)).unpack(), given)  # as a worker's queue carries it
    for tensor in tensors(found):
        assert tensor.is_contiguous() and tensor.storage_offset() * tensor.itemsize % ALIGNMENT == 0
        assert tensor.untyped_storage().data_ptr() == packed.buffer.data_ptr()
    assert packed.buffer.data_ptr() % ALIGNMENT == 0


def test_slices_do_not_overlap() -> None:
    packed = pack(record())
    for number, tensor in enumerate(tensors(packed.unpack())):
        tensor.fill_(number % 2)
    for number, tensor in enumerate(tensors(packed.unpack())):
        assert bool((tensor == number % 2).all())


def test_what_is_packed_is_not_copied_again() -> None:
    packed = pack(record())
    again = pack(packed.unpack())
    assert again.buffer.data_ptr() == packed.buffer.data_ptr() and again.record == packed.record
    # Parts of a larger tensor are, and one that is there twice.
    whole = torch.arange(64)
    for parts in ((whole[:16],), (whole[:8], whole[16:]), (whole, whole)):
        copied = pack(parts)
        assert copied.buffer.data_ptr() != whole.data_ptr()
        assert all(torch.equal(a, b) for a, b in zip(copied.unpack(), parts, strict=True))


def test_pieces_are_joined() -> None:
    pieces = [np.arange(count, dtype=np.uint8) for count in (3, 0, 70)]
    found = pack((torch.ones(2), Pieces(pieces), Pieces([]), None)).unpack()
    assert torch.equal(found[1], torch.from_numpy(np.concatenate(pieces)))
    assert torch.equal(found[0], torch.ones(2)) and found[2].shape == (0,) and found[3] is None


def test_a_record_without_tensors() -> None:
    assert pack((None, 3, "x")).unpack() == (None, 3, "x")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_in_order_on_the_device(device: str, count: int) -> None:
    found = list(on_device(packed_records(count), torch.device(device)))
    assert len(found) == count
    for number, batch in enumerate(found):
        assert_same(batch, record(number, 5 + number), device)


@PINNED
def test_pinned_and_copied_by_the_device_cuda() -> None:
    packed = pack(record()).pin_memory()
    assert all(tensor.is_pinned() for tensor in tensors(packed.unpack()) if tensor.numel())
    (found,) = on_device([packed], torch.device("cuda"))
    assert_same(found, record(), "cuda")


@PINNED
def test_memory_in_use_is_not_written_to_cuda() -> None:
    """The work on each record starts late, when the host has long dropped it and started later copies."""
    source = (pack(torch.full((1 << 20,), number)).pin_memory() for number in range(12))
    sums = []
    for numbers in on_device(source, torch.device("cuda")):
        torch.cuda._sleep(20_000_000)
        sums.append(numbers.sum())
        del numbers
    assert [int(total) >> 20 for total in sums] == list(range(12))


@pytest.mark.parametrize("device", DEVICES)
def test_left_early_nothing_stays(device: str) -> None:
    buffers: list[weakref.ref[Tensor]] = []

    def source() -> Iterator[Packed[Record]]:
        try:
            for packed in packed_records(10):
                buffers.append(weakref.ref(packed.buffer))
                yield packed
        finally:
            buffers.append(weakref.ref(torch.zeros(1)))  # closed as well

    given = source()
    batches = on_device(given, torch.device(device))
    assert_same(next(batches), record(0, 5), device)
    ahead = device == "cuda"
    assert len(buffers) == 1 + ahead
    del batches, given
    assert len(buffers) == 2 + ahead
    assert [buffer() for buffer in buffers] == [None] * len(buffers)


@pytest.mark.parametrize("device", DEVICES)
def test_an_error_comes_through(device: str) -> None:
    def source() -> Iterator[Packed[Record]]:
        yield from packed_records(2)
        raise ValueError("row 2 of table 0")

    with pytest.raises(ValueError, match="row 2 of table 0"):
        list(on_device(source(), torch.device(device)))
