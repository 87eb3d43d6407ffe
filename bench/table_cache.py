"""What loading a table of the size of Human3.6M's training set costs: python -m bench.table_cache

1.5 million made-up rows of 18 joints with cameras, groups and image names, as a reader gives them: built and
stored once by one process, then loaded by others, each new, which say their time and their peak of memory.
``load`` is ``validation.read_table`` alone; ``loader`` makes the training's loader too, which looks at every
label and box; ``start`` adds what the engine computes of the joints before it trains. The peak has the pages
of mapped files in it, which the system takes back when it needs them; ``own`` is without them, at the end.
The files were just written, so they come from the page cache, as in the second run on a machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench import common
from ipr import config, loader, validation
from ipr.images import FileImages
from ipr.skeleton import by_name
from ipr.types import BoxRule, Camera, PoseTable

ACTIONS = np.array(
    ["Directions", "Discussion", "Eating", "Greeting", "Phoning", "Photo", "Posing", "Purchases"]
)
STEPS = ("load", "loader", "start")


@dataclasses.dataclass(frozen=True)
class People:
    """Rows as of Human3.6M: 5 subjects, 4 cameras each, videos of 2500 frames."""

    folder: str
    rows: int

    def sources(self) -> list[Path]:
        return [Path(self.folder) / "annotations"]

    def build(self) -> PoseTable:
        rng = np.random.default_rng(0)
        skeleton, rows = by_name("h36m_18"), np.arange(self.rows)
        video = rows // 2500
        camera = video % 20
        joints_cam = rng.normal((0, 0, 5000), 400, (self.rows, 18, 3))
        focal, center = 1145 + rng.random((20, 2)), 512 + rng.random((20, 2))
        R, t = rng.normal(size=(20, 3, 3)), rng.normal(0, 2000, (20, 3))
        joints_img = joints_cam[..., :2] / joints_cam[..., 2:] * focal[camera, None] + center[camera, None]
        low, high = joints_img.min(1), joints_img.max(1)
        names = (
            f"{self.folder}/images/s_{n // 120:02d}_act_{n % 120 // 8:02d}_ca_{n % 4}/"
            f"s_{n // 120:02d}_act_{n % 120 // 8:02d}_ca_{n % 4}_{row % 2500 + 1:06d}.jpg"
            for row, n in zip(rows.tolist(), video.tolist(), strict=True)
        )
        return PoseTable(
            skeleton=skeleton,
            image=FileImages(names, np.full((self.rows, 2), 1000)),
            boxes_xywh=np.concatenate([low, high - low], axis=1),
            box_rule=BoxRule(),
            joints_img=joints_img,
            depth=joints_cam[..., 2] - joints_cam[:, :1, 2],
            depth_unit="mm",
            weight=np.ones((self.rows, 18, 3)),
            joints_cam=joints_cam,
            camera=Camera(
                focal[camera], center[camera], R[camera], t[camera], R[camera, 0].repeat(2, 1)[:, :5]
            ),
            root_depth=joints_cam[:, 0, 2],
            group={"subject": camera // 4, "camera": camera % 4, "action": ACTIONS[video % 8]},
        )


def one_process(folder: str, rows: int, step: str) -> dict[str, float]:
    """Seconds of the step, and memory of this process in all."""
    run = config.load(None, [f"data.cache={folder}/cache"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    start = time.perf_counter()
    table = validation.read_table(run, People(folder, rows), "data.train.0")
    if step in STEPS[1:]:
        options = {"batch": 32, "workers": 0, "seed": 0, "train": True}
        loader.make_loader([table], run.patch, run.depth, run.augment, **options)
    if step == "start":
        validation.bone_length_mm([table])
        few = dataclasses.replace(table, depth=table.depth[:1000])  # people to validate on
        validation.mean_pose(validation.Data((table,), few))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    status = Path("/proc/self/status").read_text().split()
    own = int(status[status.index("RssAnon:") + 1]) / 1e3
    return {"seconds": seconds, "peak MB": peak, "own MB": own, "peak MB of the imports": before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_500_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--process", nargs=2, help=argparse.SUPPRESS)  # folder, step: one of the processes
    options = parser.parse_args()
    if options.process:
        print(json.dumps(one_process(options.process[0], options.rows, options.process[1])))
        return
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        (Path(folder) / "annotations").write_text("")
        command = [
            sys.executable,
            "-m",
            "bench.table_cache",
            "--rows",
            str(options.rows),
            "--process",
            folder,
        ]
        for step in ("build and store", *STEPS):
            rounds = options.rounds if step in STEPS else 1
            found = [
                json.loads(subprocess.run([*command, step], check=True, stdout=subprocess.PIPE).stdout)
                for _ in range(rounds)
            ]
            results[step] = {name: statistics.median(it[name] for it in found) for name in found[0]}
            print(f"{step:16}", {name: round(value, 2) for name, value in results[step].items()}, flush=True)
        files = [path for path in Path(folder, "cache").rglob("*") if path.is_file()]
        stored = sum(path.stat().st_size for path in files) / 1e6
    print(f"{stored:.0f} MB are stored")
    if options.json:
        content = {
            "environment": common.environment(),
            "rows": options.rows,
            "rounds": options.rounds,
            "stored MB": stored,
            "results": results,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
