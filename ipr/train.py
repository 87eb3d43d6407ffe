"""python -m ipr.train [CONFIG.yaml] [--out DIR] [--resume] [key=value ...]

On several GPUs: torchrun --nproc-per-node N -m ipr.train ...
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ipr import checkpoint, cli, config, distributed, engine, protocol, runlog, validation, visualize
from ipr.cli import UsageError
from ipr.distributed import Group

PICTURED = 8  # validation people in val.png


def main(arguments: Sequence[str] | None = None) -> None:
    parser = cli.Parser(prog="python -m ipr.train", description="Train a network and show what it learnt.")
    parser.add_argument(
        "words", nargs="*", metavar="CONFIG.yaml | key=value", help="default: the embedded synthetic run"
    )
    parser.add_argument(
        "--out", type=Path, help="directory of the run (default: a new one, runs/<config name>)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out, or the latest default one"
    )
    options = parser.parse_intermixed_args(arguments)
    files, overrides = cli.split_words(options.words)
    if len(files) > 1:
        raise UsageError(f"one configuration at most, got {' '.join(files)}")
    with distributed.join(validation.pick_device()) as group:
        train(options, files, overrides, group)


def train(options: argparse.Namespace, files: list[str], overrides: list[str], group: Group) -> None:
    out = group.from_main(lambda: choose_out(options, files))
    if options.resume and not files:
        saved = checkpoint.load(out / "latest.pt")
        resolved = checkpoint.resolved_config(saved, out / "latest.pt")
        run = config.override(config.from_dict(resolved, str(out / "latest.pt")), overrides)
    else:
        run = config.load(files[0] if files else None, overrides)
    try:
        outcome = engine.train(run, out, resume=options.resume, group=group)
    except KeyboardInterrupt:
        if not (out / "latest.pt").exists():
            raise
        command = shlex.join([*distributed.launcher(), "-m", "ipr.train", "--resume", "--out", str(out)])
        raise KeyboardInterrupt(f"continue with {command}") from None

    if not group.is_main:
        return
    rows = np.linspace(0, len(outcome.valid) - 1, min(PICTURED, len(outcome.valid))).round().astype(int)
    original = validation.read_table(run, run.data.valid, "data.valid")  # its images are sharper than crops
    visualize.poses_picture(out / "val.png", original, outcome.poses, rows.tolist())
    visualize.curve_picture(out / "curve.png", runlog.read(out), outcome.baselines)
    card = protocol.card(run, outcome.valid)
    print(visualize.table(outcome.scores, outcome.baselines, protocol.text(card)))
    for name in ("best.pt", "latest.pt", "val.png", "curve.png", runlog.FILE):
        print(out / name)


def choose_out(options: argparse.Namespace, files: list[str]) -> Path:
    out = options.out or default_out(Path(files[0]).stem if files else "synthetic", resume=options.resume)
    if not options.resume and holds_run(out):
        begun = (out / "latest.pt").exists()
        other = "--resume to continue it" if begun else "delete it: it ended before its first checkpoint"
        raise UsageError(f"{out} already holds a run: give another --out, or {other}")
    return out


def holds_run(out: Path) -> bool:
    return any((out / name).exists() for name in ("latest.pt", "config.yaml", runlog.FILE))


def default_out(name: str, *, resume: bool) -> Path:
    """runs/<name>, runs/<name>-2, ...: the first that holds no run yet or, to resume, the last that does."""
    folders = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    taken = list(itertools.takewhile(holds_run, folders))
    if resume and taken:
        return taken[-1]
    return Path("runs") / (f"{name}-{len(taken) + 1}" if taken else name)


if __name__ == "__main__":
    sys.exit(cli.run(main))
