"""python -m bench.publish RUN/best.pt FILE: a checkpoint without what only a resume needs."""

from __future__ import annotations

import sys
from pathlib import Path

from ipr import checkpoint

RESUME_ONLY = ("optimizer", "rng")


def main(source: str, target: str) -> None:
    state = checkpoint.load(source)
    checkpoint.save(target, {key: value for key, value in state.items() if key not in RESUME_ONLY})
    print(f"{target}: {Path(target).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
