"""A step of training: what its stages cost beside the ECCV 2018 code's recipe, and whether it waits for data.

python -m bench.train_step [--device cpu|cuda] [--warm] [--threads 1] [--rounds 7] [--batch B] [--workers N]
                           [--cases PART ...] [--seconds S] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from bench import common, original_recipe
from bench.common import Variant
from bench.decode import photograph
from ipr import config, engine, loader, model, transfer, validation
from ipr.config import RunConfig
from ipr.images import FileImages
from ipr.skeleton import by_name
from ipr.types import Batch, BoxRule, PoseTable
from ipr.validation import Data

STAGES = ("read", "warp", "forward", "backward", "optimizer")
PARTS = (*STAGES, "step")
STEPS = {"cpu": 3, "cuda": 30}  # of one timing through the loader
SIDE, BOX, FILES = 1000, 500, 16  # px; pictures on disk
Figures = dict[str, Any]  # of one variant, as it is written to the file
Labelled = tuple[Tensor, Tensor, Tensor]  # patches, joints_norm, weight


class Case(NamedTuple):
    config: str | None
    words: tuple[str, ...]
    batch: dict[str, int]  # by device


CASES = {
    "embedded default": Case(None, (), {"cpu": 64, "cuda": 64}),
    "resnet50 256x256": Case(
        "configs/h36m/resnet50_256x256_integral.yaml", ("model.backbone.weights=",), {"cpu": 4, "cuda": 32}
    ),
}


class Recipe(NamedTuple):
    """A way to train; ``read`` makes what a worker has before it warps, ``warp`` what the network sees."""

    read: Callable[[np.ndarray], Any]
    warp: Callable[[Any], Labelled]
    loss: Callable[..., Tensor]
    optimizer: torch.optim.Optimizer
    batches: Iterable[Any]  # through the workers
    step: Callable[[Any], object]


def photographs(run: RunConfig, folder: Path, count: int) -> PoseTable:
    """People with made-up joints in JPEG files, as large as Human3.6M's, in boxes of half their width."""
    paths = [folder / f"{number}.jpg" for number in range(FILES)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), photograph(SIDE, seed=number), [cv2.IMWRITE_JPEG_QUALITY, 90])
    skeleton, random, corner = by_name(run.skeleton), np.random.default_rng(0), (SIDE - BOX) / 2
    files = FileImages([paths[row % FILES] for row in range(count)], np.full((count, 2), SIDE))
    return PoseTable(
        skeleton,
        files,
        boxes_xywh=np.tile([corner, corner, BOX, BOX], (count, 1)),
        box_rule=BoxRule(pad=1.0),
        joints_img=random.uniform(corner, corner + BOX, (count, skeleton.num_joints, 2)),
        depth=random.uniform(-500, 500, (count, skeleton.num_joints)),
        depth_unit="mm",
        weight=np.ones((count, skeleton.num_joints, 3)),
    )


def ours(run: RunConfig, folder: Path, data: Data, device: torch.device) -> Recipe:
    """What ``ipr.train`` does, in its pieces and as a whole."""
    trainer = engine.Trainer(run, folder, data)
    trainer.network.train()
    mix = loader.Mix(data.train, run.patch, run.depth, run.augment, run.seed)

    def read(rows: np.ndarray) -> Any:
        return transfer.pack(mix[0, rows])

    def warp(packed: transfer.Packed[Batch]) -> Labelled:
        if device.type == "cuda":
            packed = packed.pin_memory().to(device)
        batch = packed.unpack()
        patches = loader.batch_to_patches(
            *(batch, run.patch.size, run.patch.mean, run.patch.std),
            channels_last=run.model.channels_last,
        )
        return patches, *loader.batch_labels(batch, run.patch.size, data.valid.skeleton)

    def loss(patches: Tensor, *labels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=run.model.precision == "bf16"):
            output = trainer.network(patches)
        return trainer.loss(output, *labels)

    step = partial(trainer.train_batch, rate=run.optimizer.lr)
    return Recipe(read, warp, loss, trainer.optimizer, trainer.batches, step)


def original(run: RunConfig, data: Data, device: torch.device) -> Recipe:
    """The same network in float32, trained as the ECCV 2018 code does it."""
    run = replace(run, model=replace(run.model, channels_last=False, precision="fp32"))
    network = model.build(run).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=run.optimizer.lr, foreach=False)
    rows = original_recipe.Rows(data.train[0], run)
    loss = partial(original_recipe.loss, network)

    def read(chosen: np.ndarray) -> Any:
        return [(int(row), rows.picture(int(row))) for row in chosen]

    def moved(samples: list[Tensor]) -> list[Tensor]:
        return [tensor.to(device, non_blocking=True) for tensor in samples]

    def warp(pictures: Any) -> Labelled:
        samples = [rows.warped(row, picture, rows.draw()) for row, picture in pictures]
        patches, joints_norm, weight = moved(default_collate(samples))
        return patches, joints_norm, weight

    def step(samples: list[Tensor]) -> float:
        optimizer.zero_grad()
        value = loss(*moved(samples))
        value.backward()
        optimizer.step()
        return value.item()

    batches = DataLoader(
        rows,
        run.data.batch,
        num_workers=run.data.workers,
        drop_last=True,
        pin_memory=device.type == "cuda",
        persistent_workers=run.data.workers > 0,
        worker_init_fn=loader.start_worker,
    )
    return Recipe(read, warp, loss, optimizer, batches, step)


def stages(recipe: Recipe, rows: np.ndarray, clock: Callable[[], float]) -> list[float]:
    """ms of each stage of a step, one after the other."""
    times = [clock()]
    packed = recipe.read(rows)
    times.append(clock())
    labelled = recipe.warp(packed)
    times.append(clock())
    loss = recipe.loss(*labelled)
    times.append(clock())
    recipe.optimizer.zero_grad()
    loss.backward()
    times.append(clock())
    recipe.optimizer.step()
    times.append(clock())
    return [(after - before) * 1e3 for before, after in itertools.pairwise(times)]


def through(recipe: Recipe, steps: int, warm: int, device: torch.device) -> tuple[float, float]:
    """(ms per step through the workers, the part of it in which the network waited for data).

    Waiting is the time from the end of a step to the start of the next, when its data have come: on a GPU
    between events in its stream, so that what the host does meanwhile does not count. The first ``warm``
    steps, which use up what the workers read before, do not count.
    """
    marks: list[Any] = []

    def mark() -> None:
        if device.type == "cuda":
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        else:
            marks.append(time.perf_counter())

    def ms(start: Any, end: Any) -> float:
        return start.elapsed_time(end) if device.type == "cuda" else (end - start) * 1e3

    for number, batch in enumerate(recipe.batches):
        mark()
        if number == warm + steps:
            break
        recipe.step(batch)
        mark()
    if device.type == "cuda":
        torch.cuda.synchronize()
    marks = marks[2 * warm :]  # start, end, start, end, ..., start
    assert len(marks) == 2 * steps + 1, "too few rows for so many steps"
    total = ms(marks[0], marks[-1])
    return total / steps, sum(map(ms, marks[1::2], marks[2::2])) / total


def peak_mb(recipe: Recipe, rows: np.ndarray, device: torch.device) -> float:
    """The most memory that a step takes beside weights and the optimizer's state."""

    def step(_: int) -> None:
        loss = recipe.loss(*recipe.warp(recipe.read(rows)))
        loss.backward()
        recipe.optimizer.step()

    if device.type == "cpu":
        return common.peak_memory(Variant(step, lambda _: recipe.optimizer.zero_grad())) / 1e6
    recipe.optimizer.zero_grad()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(0)
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def recipes(case: Case, options: argparse.Namespace, folder: Path, device: torch.device) -> dict[str, Recipe]:
    """By name, all of the same people and the same network."""
    batch = options.batch or case.batch[device.type]
    rows = (STEPS[device.type] + 2 * options.workers + 2) * batch
    words = [*case.words, f"data.batch={batch}", f"data.workers={options.workers}"]
    if case.config is None:
        words += [f"data.train.0.count={rows}", "data.valid.count=8"]
    runs = {name: config.load(case.config, [*words, f"model.precision={name}"]) for name in ("fp32", "bf16")}
    if case.config is None:
        data = validation.load_data(runs["fp32"], folder / "cache")
    else:
        table = photographs(runs["fp32"], folder, rows)
        data = Data((table,), table)
    return {
        "original": original(runs["fp32"], data, device),
        "ours": ours(runs["fp32"], folder, data, device),
        "ours, bf16": ours(runs["bf16"], folder, data, device),
    }


def run_case(case: Case, options: argparse.Namespace, device: torch.device, deadline: float) -> Figures:
    """Per variant: time of each stage, its ratio to the original's, memory, and speed through the loader."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.process_time if options.threads == 1 and device.type == "cpu" else time.perf_counter)()

    with tempfile.TemporaryDirectory() as folder:
        made = recipes(case, options, Path(folder), device)
        batch = options.batch or case.batch[device.type]
        rows = np.arange(batch)
        times: dict[str, list[list[float]]] = {name: [] for name in made}
        ends: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
        for number in range(options.rounds + 1):
            if number > 2 and time.monotonic() > deadline:
                break
            for name, recipe in made.items():
                measured = stages(recipe, rows, clock)
                if number:  # the first round does not count
                    times[name].append([*measured, sum(measured)])
                    ends[name].append(through(recipe, STEPS[device.type], 2 * options.workers, device))
        memory = {name: peak_mb(recipe, rows, device) for name, recipe in made.items()}
    found: Figures = {}
    for name in made:
        own, first = np.array(times[name]), np.array(times["original"])  # [rounds, stages + 1]
        steps, waits = np.array(ends[name]).T
        found[name] = {
            "ms_per_image": dict(zip(PARTS, map(spread, own.T / batch), strict=True)),
            "ratio_to_original": dict(zip(PARTS, map(spread, (first / own).T), strict=True)),
            "extra_mb": memory[name],
            "through_loader": {
                "images_per_second": spread(batch / steps * 1e3),
                "ratio_to_original": spread(np.array(ends["original"])[:, 0] / steps),
                "waits_for_data": spread(waits),
            },
        }
    return {"batch": batch, "variants": found}


def spread(values: np.ndarray) -> dict[str, float]:
    return common.quartiles(values.tolist())._asdict()


def print_case(found: Figures) -> None:
    print(f"  batch of {found['batch']}; ms per image, and the original's time / it")
    print(f"  {'':12}" + "".join(f"{part:>17}" for part in PARTS) + "   extra MB | images/s         waits")
    for name, row in found["variants"].items():
        line = f"  {name:12}"
        for part in PARTS:
            ratio = row["ratio_to_original"][part]["median"]
            line += f"{row['ms_per_image'][part]['median']:9.3f} {ratio:6.2f}x"
        loaded = row["through_loader"]
        line += f" {row['extra_mb']:10.1f} | {loaded['images_per_second']['median']:8.1f}"
        line += f" {loaded['ratio_to_original']['median']:5.2f}x {loaded['waits_for_data']['median']:6.1%}"
        print(line)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.train_step", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default=validation.pick_device().type)
    parser.add_argument("--warm", action="store_true", help="with an allocator that keeps its memory (CPU)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=0, help="people per step (default: the case's)")
    parser.add_argument("--workers", type=int, default=None, help="of each loader (CPU: 0, GPU: up to 12)")
    parser.add_argument(
        "--cases", nargs="+", default=[""], metavar="PART", help="whose name has one of these"
    )
    parser.add_argument("--seconds", type=float, default=math.inf, help="after that, no case and no round")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(words)
    device, deadline = validation.pick_device(), time.monotonic() + options.seconds
    chosen = {name: case for name, case in CASES.items() if any(part in name for part in options.cases)}
    if not chosen or options.rounds < 2:
        parser.error(f"at least 2 rounds, and cases among: {'; '.join(CASES)}")
    if options.device != device.type:
        parser.error(f"training runs on the {device.type} here")
    if options.warm and device.type == "cpu":
        common.use_warm_allocator()
    if options.workers is None:
        options.workers = 0 if device.type == "cpu" else max(1, min(12, (os.cpu_count() or 1) - 1))
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    torch.manual_seed(0)
    header = common.environment(device.type) | {"workers": str(options.workers)}
    print("\n".join(f"{name:22}{value}" for name, value in header.items()))
    results: Figures = {}
    for name, case in chosen.items():
        if time.monotonic() > deadline:
            print(f"\n{name}: not measured, the {options.seconds:.0f} seconds are over")
            continue
        print(f"\n{name}", flush=True)
        results[name] = run_case(case, options, device, deadline)
        if options.json:  # after each case: a run that is stopped leaves what it has
            more = {"workers": options.workers}
            common.add_to_json(options.json, "softmax_integral", results, device.type, more)
        print_case(results[name])


if __name__ == "__main__":
    main()
