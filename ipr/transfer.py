"""From a worker process to the device: a record's tensors travel as slices of one buffer.

A tensor that a worker hands over costs a segment of shared memory, a file descriptor and two messages; a
tensor that goes to a GPU costs a pinned allocation and a copy. A packed record is one of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

T = TypeVar("T")

ALIGNMENT = 64  # bytes: a cache line, and more than any vector load of ours or torch's needs


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies in the buffer."""

    start: int  # byte
    dtype: torch.dtype
    shape: tuple[int, ...]

    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def end(self) -> int:
        """Where the next one starts."""
        return self.start + -(-self.nbytes() // ALIGNMENT) * ALIGNMENT

    def view(self, buffer: Tensor) -> Tensor:
        return buffer[self.start : self.start + self.nbytes()].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class Pieces:
    """In the place of a tensor [bytes]: arrays of any shape, to be joined in the buffer."""

    arrays: Sequence[np.ndarray]  # uint8


class Packed(NamedTuple, Generic[T]):
    """A record with all its tensors in one buffer; ``torch.utils.data`` calls ``pin_memory``."""

    buffer: Tensor  # uint8 [bytes]
    record: Any  # T with a Slot in the place of each tensor

    def pin_memory(self) -> Packed[T]:
        return self._replace(buffer=self.buffer.pin_memory())

    def to(self, device: torch.device) -> Packed[T]:
        """Started on the current stream, if the buffer is pinned; otherwise done."""
        return self._replace(buffer=self.buffer.to(device, non_blocking=True))

    def unpack(self) -> T:
        """The record; its tensors are views that keep the whole buffer alive."""
        record: T = _map(self.record, Slot, lambda slot: slot.view(self.buffer))
        return record


def pack(record: T) -> Packed[T]:
    """Of nested tuples and NamedTuples with CPU tensors in them; all else (None, numbers, text) stays itself.

    In a worker of a DataLoader the buffer is shared memory, which saves it a copy. A record that has been
    packed is not copied again.
    """
    parts: list[Tensor | Pieces] = []
    _map(record, (Tensor, Pieces), parts.append)
    storage = _only_storage(parts)
    if storage is not None:
        buffer = torch.empty(0, dtype=torch.uint8).set_(storage)
        return Packed(buffer, _map(record, Tensor, _slot))
    slots: list[Slot] = []
    size = 0
    for part in parts:
        if isinstance(part, Tensor):
            slots.append(Slot(size, part.dtype, tuple(part.shape)))
        else:
            slots.append(Slot(size, torch.uint8, (sum(array.nbytes for array in part.arrays),)))
        size = slots[-1].end()
    if get_worker_info() is None:
        buffer = torch.empty(size, dtype=torch.uint8)
    else:  # as torch's own collate function does it
        storage = torch.UntypedStorage._new_shared(size, device="cpu")
        buffer = torch.empty(0, dtype=torch.uint8).set_(storage)
    for slot, part in zip(slots, parts, strict=True):
        if isinstance(part, Tensor):
            slot.view(buffer).copy_(part)
        else:
            _join(part.arrays, slot.view(buffer).numpy())
    remaining = iter(slots)
    return Packed(buffer, _map(record, (Tensor, Pieces), lambda _: next(remaining)))


def _join(arrays: Sequence[np.ndarray], out: np.ndarray) -> None:
    start = 0
    for array in arrays:
        out[start : start + array.size].reshape(array.shape)[...] = array
        start += array.size


def _only_storage(parts: Sequence[Tensor | Pieces]) -> torch.UntypedStorage | None:
    """The memory that holds all parts as a buffer would, and nothing else."""
    tensors = [part for part in parts if isinstance(part, Tensor) and part.is_contiguous()]
    if not tensors or len(tensors) < len(parts):
        return None
    storage = tensors[0].untyped_storage()
    slots = sorted(map(_slot, tensors), key=lambda slot: slot.start)
    ends = [0, *(slot.end() for slot in slots)]
    same = all(tensor.untyped_storage().data_ptr() == storage.data_ptr() for tensor in tensors)
    packed = [slot.start for slot in slots] == ends[:-1] and storage.nbytes() == ends[-1]
    return storage if same and packed else None


def _slot(tensor: Tensor) -> Slot:
    return Slot(int(tensor.storage_offset()) * tensor.dtype.itemsize, tensor.dtype, tuple(tensor.shape))


def _map(record: Any, kind: type | tuple[type, ...], change: Callable[[Any], Any]) -> Any:
    """``record`` with ``change(x)`` for each ``x`` of the kind in it."""
    if isinstance(record, kind):
        return change(record)
    if isinstance(record, tuple):
        values = [_map(value, kind, change) for value in record]
        return type(record)(*values) if hasattr(record, "_fields") else tuple(values)
    return record


def on_device(batches: Iterable[Packed[T]], device: torch.device) -> Iterator[T]:
    """The records in order, on the device; a GPU gets the next one while it works on this one.

    So an error in reading the next one comes before this one is handed out.
    """
    if device.type != "cuda":
        yield from map(Packed.unpack, batches)
        return
    copies = torch.cuda.Stream(device)

    def arrived(packed: Packed[T], event: torch.cuda.Event) -> T:
        stream = torch.cuda.current_stream(device)
        stream.wait_event(event)
        packed.buffer.record_stream(stream)  # its memory is that of ``copies``, and used here from now on
        return packed.unpack()

    waiting: tuple[Packed[T], torch.cuda.Event] | None = None
    for packed in batches:
        with torch.cuda.stream(copies):
            started = packed.to(device), copies.record_event()
        if waiting is not None:
            yield arrived(*waiting)
        waiting = started
    if waiting is not None:
        yield arrived(*waiting)
