"""python -m ipr.evaluate CKPT ... [--config YAML] [--json FILE] [--save NPZ] [flip=true] [key=value ...]

On several GPUs: torchrun --nproc-per-node N -m ipr.evaluate ...
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ipr import checkpoint, cli, config, distributed, legacy, model, validation, visualize
from ipr.cli import UsageError
from ipr.config import RunConfig
from ipr.distributed import Group

SHARED = ("skeleton", "patch", "depth", "metrics")  # networks of one ensemble see the same patches


def main(arguments: Sequence[str] | None = None) -> None:
    parser = cli.Parser(
        prog="python -m ipr.evaluate", description="Score checkpoints; several are one ensemble."
    )
    words = "CHECKPOINT | key=value"
    parser.add_argument("words", nargs="+", metavar=words, help="flip=true: average with the mirror image")
    parser.add_argument("--config", type=Path, help="configuration to use instead of the checkpoint's own")
    parser.add_argument("--json", type=cli.new_file, help="write the scores to this file")
    parser.add_argument("--save", type=cli.new_file, help="write the poses to this .npz file")
    options = parser.parse_intermixed_args(arguments)
    files, overrides = cli.split_words(options.words)
    if not files:
        raise UsageError("no checkpoint given")
    with distributed.join(validation.pick_device()) as group:
        evaluate(options, files, overrides, group)


def evaluate(options: argparse.Namespace, files: list[str], overrides: list[str], group: Group) -> None:
    flip, overrides = cli.take_flag(overrides, "flip")
    states = [checkpoint.load(file) for file in files]
    runs = [
        load_config(state, file, options.config, overrides) for state, file in zip(states, files, strict=True)
    ]
    run = runs[0]
    for key in SHARED:
        for file, other in zip(files, runs, strict=True):
            here, there = getattr(run, key), getattr(other, key)
            if here != there:
                raise UsageError(f"no ensemble: {key} is {here} in {files[0]} and {there} in {file}")
    device = validation.pick_device()
    networks = [model.load_network(file, own).to(device) for file, own in zip(files, runs, strict=True)]
    with tempfile.TemporaryDirectory() as temporary:
        cache = group.from_main(lambda: Path(temporary))
        table = group.main_first(lambda: validation.load_valid(run, cache))
        length = legacy.decoding(states[0], run).get("mean_bone_length_mm")
        poses = validation.predict(networks, table, run, flip=flip, mean_bone_length_mm=length, group=group)
    if not group.is_main:
        return
    scores = validation.score(poses, table, run)
    protocol = validation.protocol(run, flip=flip, networks=len(networks))
    record = {"checkpoints": files, "people": len(table), "protocol": protocol, "scores": scores}
    baselines = validation.saved_baselines(states[0], run)
    print(visualize.table(scores, baselines, protocol), flush=True)  # first: the files may fail
    if options.json:
        checkpoint.write_atomic(options.json, (json.dumps(record, indent=1) + "\n").encode())
    if options.save:
        buffer = io.BytesIO()
        np.savez(buffer, **{name: value for name, value in poses._asdict().items() if value is not None})
        checkpoint.write_atomic(options.save, buffer.getbuffer())


def load_config(
    state: Mapping[str, Any], file: str, path: Path | None, overrides: Sequence[str]
) -> RunConfig:
    """That of ``path``, or else the checkpoint's own."""
    if path is not None:
        run = config.load(path, overrides)
    else:
        run = config.override(config.from_dict(checkpoint.resolved_config(state, file), file), overrides)
    return validation.settle(run)


if __name__ == "__main__":
    sys.exit(cli.run(main))
