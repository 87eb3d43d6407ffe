"""Checkpoint files: written whole or not at all, read without running code from them.

A checkpoint is a dict of plain types and tensors with the key ``network``. Files of a training run (those of
``ipr.convert``: the last three rows) add

==========  ==================================================================================================
optimizer   its state dict
epoch step  how many epochs and steps are behind it
batch       how many batches of the next epoch are, and loss_sum, their losses times their people
world       the number of processes that trained it
rng         torch's generator states, CPU and CUDA
best        the lowest validation score so far, mm
seconds     the time trained so far, validation included
config      the resolved configuration (``config.to_dict``)
decoding    what turns outputs into poses: skeleton, patch, box and depth rules, mean bone length, last scores
untrained   names of parameters that a converted file did not have and chance drew
==========  ==================================================================================================
"""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn


class CheckpointError(ValueError):
    """A file that is no checkpoint, or not one of the network it is wanted for."""


class CheckpointMissing(CheckpointError):
    """There is no file of this name."""


class ConfigMissing(CheckpointError):
    """The file does not say what its network is, or how its outputs become poses: a configuration must."""


class _Unread:
    """Stands for an object in a file of which nothing is read: no code of its class runs."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# What torch's weights-only reader would stop at in common files: simple-baselines and EpipolarPose keep their
# score as a number of numpy's, mmpose its log and its data set's description. No weight is among these.
_UNREAD = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray", "mmengine.logging.history_buffer.HistoryBuffer", "builtins.getattr"),
)


def write_atomic(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Replace ``path`` by ``data``. If that fails, the old file stays and no half-written one remains."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say where it is full
            error.filename = os.fspath(path)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut too
    finally:
        os.close(folder)


def save(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()  # torch's own writer aborts the process when the disk fills up under it
    torch.save(dict(state), buffer)
    write_atomic(path, buffer.getbuffer())


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The checkpoint's dict, tensors on the CPU.

    Files of other projects load too, without ``config``: weights under ``state_dict`` and bare state dicts
    come under ``network``.
    """
    if not Path(path).is_file():
        folder = ": it is a directory, name a file in it" if Path(path).is_dir() else ""
        raise CheckpointMissing(f"no checkpoint at {path}{folder}")
    with open(path, "rb") as file:
        try:
            with torch.serialization.safe_globals([(_Unread, name) for name in _UNREAD]):
                state = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path} is no checkpoint, or holds Python objects, which ipr does not load: "
                "expected a dict of tensors written by torch.save"
            ) from error
        except Exception as error:  # foreign bytes make torch.load raise nearly anything, down to IndexError
            if tarfile.is_tarfile(path):
                raise CheckpointError(
                    f"{path} is a tar archive, as torch before 0.2 wrote them, which cannot be read without "
                    "running code from it: if you trust it, write torch.load(..., weights_only=False) again "
                    "with torch.save"
                ) from error
            size = os.path.getsize(path)
            raise CheckpointError(f"{path} ({size} bytes) is truncated or is no checkpoint") from error
    if isinstance(state, dict):
        if isinstance(state.get("state_dict"), dict) and "network" not in state:
            state["network"] = state.pop("state_dict")
        elif state and all(isinstance(value, torch.Tensor) for value in state.values()):
            state = {"network": dict(state)}
    if not isinstance(state, dict) or not isinstance(state.get("network"), dict):
        found = f"the keys {some(list(state))}" if isinstance(state, dict) else f"a {type(state).__name__}"
        raise CheckpointError(
            f"{path} is no checkpoint of a network: expected a dict with the key 'network', found {found}"
        )
    return state


def resolved_config(state: Mapping[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    if not isinstance(state.get("config"), dict):
        raise ConfigMissing(f"{path} holds no configuration: name the one it was trained with (--config)")
    return state["config"]


def restore(network: nn.Module, weights: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    """Load ``weights`` into ``network``; every name and shape must agree."""
    expected = network.state_dict()
    wrong = [
        f"{name} is {list(weights[name].shape)} in the file and {list(tensor.shape)} in the network"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    missing = [name for name in expected if name not in weights]
    surplus = [name for name in weights if name not in expected]
    wrong += [f"the file lacks {some(missing)}"] if missing else []
    wrong += [f"the network has no {some(surplus)}"] if surplus else []
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{path} is a checkpoint of another architecture: {'; '.join(wrong[:3])}{more}")
    network.load_state_dict(dict(weights))


def some(names: list[Any]) -> str:
    """A list in a message: the first three, and how many more."""
    shown = ", ".join(map(str, names[:3]))
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or "nothing"
