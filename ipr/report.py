"""What an evaluation says: a table on the screen, and the files that were asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from ipr import config, pose_files, protocol, validation, visualize
from ipr.checkpoint import write_atomic
from ipr.config import RunConfig
from ipr.types import Poses, PoseTable


class Predicted(NamedTuple):
    """Poses of the rows of a table, and how they were made."""

    run: RunConfig
    table: PoseTable
    poses: Poses
    about: dict[str, Any]  # checkpoints, flip, networks and ensemble, in plain types
    baselines: dict[str, dict[str, float]]


class Files(NamedTuple):
    """Where to write what; None: nowhere."""

    json: Path | None = None
    markdown: Path | None = None
    save: Path | None = None  # the poses, .npz
    submission: Path | None = None  # the challenge's files, a folder


def report(said: Predicted, files: Files) -> None:
    """Score the poses of ``said`` by the metrics of its run, print and write."""
    scores = validation.score(said.poses, said.table, said.run)
    how = {name: said.about[name] for name in ("flip", "networks", "ensemble")}
    card = protocol.card(said.run, said.table, **how)
    print(visualize.table(scores, said.baselines, protocol.text(card)), flush=True)  # first: files may fail
    if files.json:
        checkpoints = said.about["checkpoints"]
        record = {"checkpoints": checkpoints, "people": len(said.table), "protocol": card, "scores": scores}
        write_atomic(files.json, (json.dumps(record, indent=1) + "\n").encode())
    if files.markdown:
        write_atomic(files.markdown, visualize.markdown(scores, said.baselines, card).encode())
    if files.save:
        about = said.about | {"config": config.to_dict(said.run)}
        pose_files.save(files.save, said.poses, said.table, about)
    if files.submission:
        pose_files.submit(files.submission, said.poses, said.table)
