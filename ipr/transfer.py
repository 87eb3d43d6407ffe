"""From a worker process to the device: a record's tensors travel as slices of one buffer.

A tensor that a worker hands over costs a segment of shared memory, a file descriptor and two messages; a
tensor that goes to a GPU costs a pinned allocation and a copy. A packed record is one of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

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

    def view(self, buffer: Tensor) -> Tensor:
        end = self.start + self.dtype.itemsize * torch.Size(self.shape).numel()
        return buffer[self.start : end].view(self.dtype).view(self.shape)


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

    In a worker of a DataLoader the buffer is shared memory, which saves it a copy.
    """
    tensors: list[tuple[Slot, Tensor]] = []
    size = 0

    def place(tensor: Tensor) -> Slot:
        nonlocal size
        slot = Slot(size, tensor.dtype, tuple(tensor.shape))
        size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        tensors.append((slot, tensor))
        return slot

    slots = _map(record, Tensor, place)
    if get_worker_info() is None:
        buffer = torch.empty(size, dtype=torch.uint8)
    else:  # as torch's own collate function does it
        storage = torch.UntypedStorage._new_shared(size, device="cpu")
        buffer = torch.empty(0, dtype=torch.uint8).set_(storage)
    for slot, tensor in tensors:
        slot.view(buffer).copy_(tensor)
    return Packed(buffer, slots)


def _map(record: Any, kind: type, change: Callable[[Any], Any]) -> Any:
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
