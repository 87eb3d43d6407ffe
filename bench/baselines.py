"""Trains the embedded default blind, twice: on a constant image and on silhouettes.

python -m bench.baselines [--out DIR] [key=value ...]

Writes ipr/datasets/synthetic_baselines.json, which training and evaluation on the same validation rows print
beside their own numbers. To be run again when the data set or the default run changes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import ipr
from bench.common import environment
from ipr import config, engine, validation

BLIND = {"constant image": "constant", "silhouettes": "silhouette"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--out", type=Path, default=Path("runs/baselines"))
    options = parser.parse_args()
    default = config.load(None, options.overrides)
    baselines = {}
    for name, appearance in BLIND.items():
        words = [f"data.{rows}.appearance={appearance}" for rows in ("train.0", "valid")]
        run = config.override(default, words)
        outcome = engine.train(run, options.out / appearance)
        baselines[name] = {key: value for key, value in outcome.scores.items() if "/" not in key}
        print(name, baselines[name])
    content = {
        "valid": config.to_dict(default.data.valid),
        "measured": {
            "command": " ".join(["python -m bench.baselines", *options.overrides]),
            "ipr": ipr.__version__,
            "images": default.schedule.epochs * sum(dataset.count for dataset in default.data.train),
            **environment(),
        },
        "baselines": baselines,
    }
    path = validation.MEASURED / "synthetic_baselines.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
