"""python -m ipr.occluders VOC_DIR OUT_DIR"""

from __future__ import annotations

import shutil
import sys
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
from tqdm import tqdm

from ipr import cli
from ipr.cli import UsageError
from ipr.datasets import _voc


def main(arguments: Sequence[str] | None = None) -> None:
    parser = cli.Parser(
        prog="python -m ipr.occluders",
        description="Cut the objects out of Pascal VOC, for augment.occlusion.objects=OUT_DIR.",
    )
    parser.add_argument(
        "voc", metavar="VOC_DIR", type=Path, help="VOCdevkit/VOC2012, as VOC's archive has it"
    )
    parser.add_argument("out", metavar="OUT_DIR", type=Path, help="new directory for the RGBA PNG files")
    options = parser.parse_args(arguments)
    voc, out = options.voc, options.out
    if missing := [name for name in _voc.FOLDERS if not (voc / name).is_dir()]:
        raise UsageError(f"{voc} has no folder {' and no '.join(missing)}: give VOCdevkit/VOC2012")
    if out.exists():
        raise UsageError(f"{out} exists: give a new directory, or delete it")
    # A training must not find half of the objects.
    temporary = out.with_name(f"{out.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir(parents=True)
    try:
        written, left_out = convert(voc, temporary)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    reasons = ", ".join(f"{left_out[reason]} {reason}" for reason in _voc.REASONS)
    print(f"{out}: {written} objects; left out: {reasons}")


def convert(voc: Path, folder: Path) -> tuple[int, Counter[str]]:
    """Write the objects into the folder; gives their number, and how many were left out for which reason."""
    written, left_out = 0, Counter[str]()
    for image_id in tqdm(_voc.image_ids(voc), desc="cutting out", unit="image"):
        for number, reason, rgba in _voc.cut_out(voc, image_id):
            if rgba is None:
                left_out[str(reason)] += 1
                continue
            path = folder / f"{image_id}_{number}.png"
            if not cv2.imwrite(str(path), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA)):
                raise OSError(f"could not write {path}")
            written += 1
    if not written:
        raise ValueError(f"{voc}: no object is left of it: need VOC's trainval archive of 2012")
    return written, left_out


if __name__ == "__main__":
    sys.exit(cli.run(main))
