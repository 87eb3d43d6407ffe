"""One run in several processes, as torchrun starts them; alone, everything here does nothing.

Every process trains on its share of each step's people. Gradients travel by NCCL between GPUs and by Gloo
between CPUs, Python objects always by Gloo. The main process (rank 0) is the one that writes and speaks.
"""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ipr.config import ConfigError

T = TypeVar("T")

# The others wait this long while the main process prepares data. A process that dies is noticed at once.
PATIENCE = timedelta(hours=6)
# What Gloo and NCCL say when the process at the other end is gone; both raise a plain RuntimeError.
_PEER_GONE = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe")


class SaidByMain(ValueError):
    """All processes stopped for a reason that the main one tells: the others have nothing to add."""


class PeerLost(ValueError):
    """Another process of the run has ended, and this one cannot go on without it."""


@dataclass(frozen=True)
class Group:
    """The processes of a run, and which of them this one is."""

    rank: int = 0
    world: int = 1  # number of processes

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def error(self, error: ValueError) -> ValueError:
        """What to raise for an error that all processes come to together, so that it is told once."""
        return error if self.is_main else SaidByMain(str(error))

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank; anything that pickles, tensors on the CPU."""
        if self.world == 1:
            return [value]
        values: list[T | None] = [None] * self.world
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value] # all are filled now

    def from_main(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in the main process, which alone calls it; where it fails, all stop."""
        if self.world == 1:
            return make()
        said: list[T | str | None] = [None, None]  # value, error
        if self.is_main:
            try:
                said[0] = make()
            except Exception as error:
                dist.broadcast_object_list([None, str(error)])
                raise
        dist.broadcast_object_list(said)
        if said[1] is not None:
            raise SaidByMain(said[1])
        return said[0]  # type: ignore[return-value] # without an error it is the value

    def main_first(self, make: Callable[[], T]) -> T:
        """``make()`` in every process, first in the main one: it builds the caches that the others read."""
        made: list[T] = []
        self.from_main(lambda: made.append(make()))
        return made[0] if made else make()

    def mean(self, value: Tensor, flag: bool = False) -> tuple[float, bool]:
        """Of a scalar, over the processes; and whether any of them has the flag, in the same message."""
        if self.world == 1:
            return value.item(), flag
        both = torch.stack([value.detach(), value.new_full((), float(flag))])
        dist.all_reduce(both)
        total, flags = both.tolist()
        return total / self.world, flags > 0

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor of fractions by its mean over the processes; counters are equal already."""
        fractions = [tensor for tensor in tensors if tensor.is_floating_point()]
        if self.world == 1 or not fractions:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in fractions])
        dist.all_reduce(flat)
        flat /= self.world
        for tensor, mean in zip(fractions, flat.split([t.numel() for t in fractions]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are the mean of all processes'; it shares its weights with the given.

        Batch normalisation sees the people of its own process, as on the GPUs of the ECCV 2018 code. What it
        remembers for evaluation is averaged before it is used (``average``), which need not happen at every
        step: a moving average of means is the mean of moving averages.
        """
        if self.world == 1:
            return network
        # A 1x1 convolution's weights have the same layout under several strides, which DDP warns of.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        ddp: Any = nn.parallel.DistributedDataParallel
        known = inspect.signature(ddp).parameters  # torch 2.13 has a new name for it
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        return ddp(network, **{name: False})


ALONE = Group()


@contextmanager
def join(device: torch.device) -> Iterator[Group]:
    """The processes that torchrun started, from its environment; each has the GPU of its local rank.

    ``device``: where the network will be. Without torchrun: ``ALONE``.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE
        return
    if missing := [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR") if name not in os.environ]:
        raise ConfigError(f"WORLD_SIZE is {world}, but {', '.join(missing)} not set: start with torchrun")
    backend = "gloo"
    if device.type == "cuda":
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= count:
            raise ConfigError(f"process {local + 1} of this machine has no GPU: --nproc-per-node {count}")
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Group(dist.get_rank(), world)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not _PEER_GONE.search(str(error)):
            raise
        raise PeerLost(
            "another process of this run has ended (its message or torchrun's says why) or is out of reach: "
            + str(error).splitlines()[0]
        ) from error
    dist.destroy_process_group()  # not after an error: NCCL might wait for those that are gone


def whose_error(*, same_for_all: bool) -> str | None:
    """How a message is marked as this process's: " in process 2", "" for the main one.

    None: it should keep silent, because an error that is the ``same_for_all`` is told once per machine.
    """
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    if rank == 0:
        return ""
    return None if same_for_all and local > 0 else f" in process {rank}"


def launcher() -> list[str]:
    """The words that start Python with a module in as many processes on this machine as now."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ["python"]
    return ["torchrun", "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", "1")]
