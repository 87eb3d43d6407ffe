"""python -m bench.seeds RUN [RUN ...] --picture FILE --json FILE: the runs' validation curves, together."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

from bench.common import environment
from ipr import runlog


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.add_subplot()
    results = []
    for folder in options.runs:
        records = runlog.read(folder)
        start = next(record for record in records if record["kind"] == "run")
        epochs = [record for record in records if record["kind"] == "epoch"]
        rows, mean_pose = sum(start["train_rows"]), start["baselines"]["mean pose"]["MPJPE mm"]
        seed = start["config"]["seed"]
        images = [record["epoch"] * rows / 1000 for record in epochs]
        axes.plot(images, [record["MPJPE mm"] for record in epochs], marker=".", label=f"seed {seed}")
        last = {name: epochs[-1][name] for name in ("MPJPE mm", "PA-MPJPE mm", "seconds")}
        result = {"seed": seed, "threads": start["threads"], "mean pose mm": mean_pose, **last}
        results.append({**result, "curve mm": [record["MPJPE mm"] for record in epochs]})
        print(f"{folder}: {last['MPJPE mm']:.1f} mm, {last['MPJPE mm'] / mean_pose:.3f} of the mean pose")
    axes.axhline(mean_pose, color="grey", linestyle="--", linewidth=0.9, label="mean pose")
    axes.axhline(0.4 * mean_pose, color="grey", linestyle=":", linewidth=0.9, label="0.40 of it")
    axes.set(xlabel="thousand images", ylabel="validation MPJPE, mm", xlim=(0, None), ylim=(0, None))
    axes.legend(fontsize=8)
    figure.savefig(options.picture, dpi=80)
    options.json.write_text(json.dumps({"environment": environment(), "runs": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
