"""The protocol card: what a number depends on besides the network, printed beside every one.

Names of protocols mean different things in different papers; a card says data, sampling, boxes, ground truth
used, test-time averaging, alignment and joints instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ipr import choices
from ipr.config import RunConfig
from ipr.types import PoseTable

ENSEMBLES = ("mean", "inverse_variance")


def card(
    run: RunConfig, table: PoseTable, *, flip: bool = False, networks: int = 1, ensemble: str = "mean"
) -> dict[str, str]:
    """Names -> words, in the order in which they are printed, of ``run.metrics`` on the run's ``table``."""
    lifted = table.camera is not None and table.root_depth is not None
    together = {"mean": "mean", "inverse_variance": "inverse-variance mean"}[ensemble]
    return {
        "data": choices.name_of(run.data.valid) or type(run.data.valid).__module__,
        "split": str(getattr(run.data.valid, "split", "none")),
        "rows": str(len(table)),
        "sampling": _sampling(run),
        "boxes": _boxes(run, table),
        "ground truth used": "root depth and intrinsics" if lifted else "none: the scale is by bone length",
        "flip test": "on, coordinates averaged" if flip else "off",
        "ensemble": "1 network" if networks == 1 else f"{together} of {networks} networks",
        **{
            name: "; ".join(dict.fromkeys(metric.build().protocol[name] for metric in run.metrics))
            for name in ("alignment", "joints")
        },
    }


def text(card: Mapping[str, str]) -> str:
    """On one line."""
    return "; ".join(f"{name}: {value}" for name, value in card.items())


def _sampling(run: RunConfig) -> str:
    """What the data set says of it, or the options that are neither its place nor its boxes."""
    said = getattr(run.data.valid, "sampling", None)
    if said:
        return str(said)
    elsewhere = {"root", "split", "boxes", "detector"}
    names = [field.name for field in dataclasses.fields(run.data.valid) if field.name not in elsewhere]
    options = ", ".join(f"{name} {getattr(run.data.valid, name)}" for name in names)
    return f"that of the split{f' with {options}' if options else ''}"


def _boxes(run: RunConfig, table: PoseTable) -> str:
    source = getattr(run.data.valid, "boxes", "of the data set")
    detector = getattr(run.data.valid, "detector", "")
    return (
        f"{source}{f' {detector}' if detector else ''}, padded x {table.box_rule.pad:g}, "
        f"fit: {table.box_rule.fit}"
    )
