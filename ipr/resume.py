"""How far a run has come, and which runs a checkpoint can continue."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ipr import checkpoint, config
from ipr.config import ConfigError, RunConfig
from ipr.distributed import Group

MOVABLE = ("data.root", "data.workers", "data.on_error", "data.max_failures")  # no number depends on them


class Progress(NamedTuple):
    """How far a run has come."""

    epoch: int = 0  # finished ones
    step: int = 0
    seconds: float = 0.0
    best: float = math.inf  # lowest validation score (higher is better: of its negative)
    batch: int = 0  # batches of the epoch under way that are done
    loss_sum: float = 0.0  # over the people of these batches


def refuse_unresumable(saved: Mapping[str, Any], path: Path) -> None:
    known = {*saved, "batch", "loss_sum"}  # files from between two epochs may lack these, which are 0 there
    missing = [key for key in ("optimizer", "rng", *Progress._fields) if key not in known]
    if missing:
        raise checkpoint.CheckpointError(
            f"{path} cannot be resumed, it lacks {', '.join(missing)}: "
            f"to start a new run from its weights, give model.weights={path}"
        )


def refuse_other_config(run: RunConfig, saved: Mapping[str, Any], out: Path) -> None:
    # Through the schema: what the file's version did not know yet had its default then.
    then = _flat(config.to_dict(config.from_dict(dict(saved), str(out / "latest.pt"))))
    now = _flat(config.to_dict(run))
    for flat in (then, now):  # a cache may be somewhere else, but its pixels are not quite the files' own
        flat["data.cache"] = flat["data.cache"] if flat["data.cache"] in ("", "off") else "a directory"
    fixed = {*now, *then} - {*MOVABLE, "data.batch"}  # for the batch see refuse_other_steps
    differing = [key for key in sorted(fixed) if now.get(key) != then.get(key)]
    if differing:
        listed = "; ".join(f"{key} was {then.get(key)!r}, is {now.get(key)!r}" for key in differing[:5])
        more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ConfigError(
            f"{out} holds a run of another configuration, which --resume cannot change: {listed}{more}"
        )


def refuse_other_steps(run: RunConfig, saved: Mapping[str, Any], out: Path, group: Group) -> None:
    """The number of processes may change if each step keeps its people."""
    batch = checkpoint.resolved_config(saved, out / "latest.pt")["data"]["batch"]
    world = saved.get("world", 1)
    if run.data.batch * group.world != batch * world:
        raise ConfigError(
            f"{out} holds a run with {world} x {batch} people per step (processes x data.batch), which "
            f"--resume cannot change: {group.world} x {run.data.batch} given"
        )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists as dotted key -> value."""
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else None
    if items is None:
        return {prefix: tree}
    return {
        k: v
        for key, value in items
        for k, v in _flat(value, f"{prefix}.{key}" if prefix else str(key)).items()
    }
