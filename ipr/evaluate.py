"""python -m ipr.evaluate CKPT ... [flip=true] [ensemble=inverse_variance] [key=value ...]
python -m ipr.evaluate --poses NPZ [key=value ...]     what --save wrote, scored without a network

On several GPUs: torchrun --nproc-per-node N -m ipr.evaluate ...
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ipr import checkpoint, cli, config, distributed, legacy, model, pose_files, protocol, validation
from ipr.cli import UsageError
from ipr.config import RunConfig
from ipr.distributed import Group
from ipr.report import Files, Predicted, report

SHARED = ("skeleton", "patch", "depth", "metrics")  # networks of one ensemble see the same patches


def main(arguments: Sequence[str] | None = None) -> None:
    parser = cli.Parser(
        prog="python -m ipr.evaluate",
        description="Score checkpoints (several are one ensemble) or saved poses.",
    )
    words = "CHECKPOINT | key=value"
    told = "flip=true: average with the mirror image; ensemble=mean|inverse_variance (by the volumes' sigma)"
    parser.add_argument("words", nargs="*", metavar=words, help=told)
    parser.add_argument("--config", type=Path, help="configuration to use instead of the checkpoint's own")
    parser.add_argument("--poses", type=Path, metavar="NPZ", help="score these poses instead of checkpoints")
    parser.add_argument("--json", type=cli.new_file, help="write the scores to this file")
    parser.add_argument("--markdown", type=cli.new_file, help="write them to this file as Markdown tables")
    parser.add_argument("--save", type=cli.new_file, help="write the poses to this .npz file")
    parser.add_argument("--submission", type=Path, help="write the challenge's csv and JSON into this folder")
    options = parser.parse_intermixed_args(arguments)
    files, overrides = cli.split_words(options.words)
    if not files and not options.poses:
        raise UsageError("no checkpoint given")
    if files and options.poses:
        raise UsageError(f"--poses takes no checkpoint: {files[0]}")
    with distributed.join(validation.pick_device()) as group:
        if not options.poses:
            said = predict(options, files, overrides, group)
        elif group.is_main:
            said = saved_poses(options, overrides)
        if group.is_main:
            report(said, Files(options.json, options.markdown, options.save, options.submission))


def predict(options: argparse.Namespace, files: list[str], overrides: list[str], group: Group) -> Predicted:
    """What the networks say of the validation table."""
    flip, overrides = cli.take_flag(overrides, "flip")
    ensemble, overrides = cli.take_word(overrides, "ensemble", protocol.ENSEMBLES)
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
        if group.is_main and table.description:
            print(table.description, flush=True)
        found = validation.predict(
            networks,
            table,
            run,
            flip=flip,
            ensemble=ensemble,
            mean_bone_length_mm=validation.decoding_length(run, legacy.decoding(states[0], run)),
            group=group,
        )
    about = {"checkpoints": files, "flip": flip, "networks": len(files), "ensemble": ensemble}
    return Predicted(run, table, found, about, validation.saved_baselines(states[0], run))


def saved_poses(options: argparse.Namespace, overrides: list[str]) -> Predicted:
    """What ``--save`` wrote; the configuration is its own or that of ``--config``."""
    found, digest, about = pose_files.load(options.poses)
    run = load_config(about, str(options.poses), options.config, overrides)
    with tempfile.TemporaryDirectory() as temporary:
        table = validation.load_valid(config.override(run, ["data.cache=off"]), Path(temporary))
    pose_files.check_table(options.poses, found, digest, table)
    return Predicted(run, table, found, about, validation.measured_baselines(run))


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
