"""python -m ipr.convert OLD NEW [--config YAML]

A checkpoint of an earlier project as one of ours, for ``ipr.evaluate`` and ``model.weights=``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ipr import checkpoint, cli, config, legacy, model
from ipr.checkpoint import ConfigMissing
from ipr.cli import UsageError


def main(arguments: Sequence[str] | None = None) -> None:
    parser = cli.Parser(
        prog="python -m ipr.convert",
        description="Make a checkpoint of ours from one of "
        + ", ".join(layout.name for layout in legacy.LAYOUTS),
    )
    parser.add_argument("old", type=Path, metavar="OLD", help="file of the earlier project")
    parser.add_argument("new", type=cli.new_file, metavar="NEW", help="checkpoint to write")
    parser.add_argument("--config", type=Path, help="configuration that says what the file does not")
    convert(parser.parse_args(arguments))


def convert(options: argparse.Namespace) -> None:
    if options.new.exists():
        raise UsageError(f"{options.new} exists already: give another name")
    run = None if options.config is None else config.load(options.config)
    try:
        state, found = model.convert(options.old, run)
    except ConfigMissing as error:
        raise UsageError(str(error)) from None
    checkpoint.save(options.new, state)
    print(f"{options.old} is a file of {found.description}")
    if found.unused:
        print(f"not used: {checkpoint.some(list(found.unused))}")
    said, depth = state["config"], state["decoding"]["depth_rule"]
    unit = f"{depth['extent_mm']:g} mm" if depth["name"] == "rect3d" else "the box's width"
    patch = f"{said['patch']['height']}x{said['patch']['width']} px"
    print(f"{options.new}: {said['skeleton']}, patches of {patch}, depth over {unit}")
    if run is None:
        print(
            "its data sets are the embedded ones: name yours with --config or data.valid=... in ipr.evaluate"
        )
    if found.untrained:
        print(
            f"drawn, not trained: {', '.join(found.untrained)} "
            f"(python -m ipr.train CONFIG.yaml model.weights={options.new})"
        )


if __name__ == "__main__":
    sys.exit(cli.run(main))
