"""The loader beside the original's, from files and from the packed cache: python -m bench.loader

Generated pictures of 1000x1000 px with the spectrum of a photograph, as JPEG files of quality 90 on a warm
file cache (the facts say how large they are), with a person box of 500 px, become 256x256 patches with the
augmentation of the ECCV 2018 code. Both sides end with a batch of normalised patches and labels.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from bench import common
from bench.common import Timing, Variant
from bench.decode import photograph
from bench.original_recipe import Draw, Rows
from ipr import loader, skeleton, validation
from ipr.augment import draw
from ipr.cache import CropCache
from ipr.config import AugmentConfig, DepthConfig, PatchConfig, RunConfig
from ipr.geometry import crop_box
from ipr.images import FileImages
from ipr.loader import Mix, touched_region
from ipr.ops import warp_patch
from ipr.types import Batch, BoxRule, ImageSource, Pixels, PoseTable, Region

SIDE, BOX, FILES, ROWS, BATCH = 1000, 500, 32, 64, 32
PATCH = PatchConfig(height=256, width=256)
AUGMENT = AugmentConfig(scale=0.25, rotation=30.0, rotation_probability=0.6, flip=0.5, color=0.2)
SKELETON = skeleton.by_name("h36m_18")
QUALITY = 95  # of the JPEG variant of the cache
EPOCHS = 6  # timed with each number of workers


def table_of(image: ImageSource, rows: int, side: int = SIDE, box: int = BOX) -> PoseTable:
    """People somewhere near the middle of the pictures; their joints do not matter."""
    rng = np.random.default_rng(0)
    corner = (side - box) / 2 + rng.uniform(-20, 20, (rows, 2))
    joints = SKELETON.num_joints
    return PoseTable(
        skeleton=SKELETON,
        image=image,
        boxes_xywh=np.concatenate([corner, np.full((rows, 2), float(box))], 1),
        box_rule=BoxRule(pad=1.0),
        joints_img=corner[:, None] + rng.uniform(0, box, (rows, joints, 2)),
        depth=rng.uniform(-500, 500, (rows, joints)),
        depth_unit="mm",
        weight=np.ones((rows, joints, 3)),
    )


class JpegCrops:
    """The crops of a cache as JPEG in memory: what the cache could hold instead of pixels."""

    def __init__(self, cache: CropCache, rows: int) -> None:
        self._cache = cache
        crops = [self._raw(row) for row in range(rows)]
        self._places = [(crop.origin, crop.scale) for crop in crops]
        start = time.process_time()
        self.data = [
            cv2.imencode(
                ".jpg", cv2.cvtColor(crop.data, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
            )[1]
            for crop in crops
        ]
        self.encode_ms = (time.process_time() - start) * 1e3 / rows
        errors = [
            np.abs(self.read(row, Region(0, 0, 1, 1), 1.0).data.astype(int) - crops[row].data).mean()
            for row in range(rows)
        ]
        self.mean_error = float(np.mean(errors))
        self.raw_bytes = float(np.mean([crop.data.size for crop in crops]))

    def _raw(self, row: int) -> Pixels:
        height, width = self._cache.image_size(row)
        return self._cache.read(row, Region(0, 0, width, height), 1.0)

    def image_size(self, row: int) -> tuple[int, int]:
        return self._cache.image_size(row)

    def name(self, row: int) -> str:
        return self._cache.name(row)

    def read(self, row: int, region: Region, scale: float) -> Pixels:
        data = cv2.cvtColor(cv2.imdecode(self.data[row], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return Pixels(data, *self._places[row])


def finish(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What the training makes of a batch before the network sees it."""
    patches = loader.batch_to_patches(batch, PATCH.size, PATCH.mean, PATCH.std)
    return patches, *loader.batch_labels(batch, PATCH.size, SKELETON)


def original_rows(table: PoseTable) -> Rows:
    return Rows(table, RunConfig(patch=PATCH, augment=AUGMENT))


def mix_of(table: PoseTable) -> Mix:
    return Mix([table], PATCH, DepthConfig(), AUGMENT, seed=0)


def ours(table: PoseTable) -> Callable[[int], object]:
    """All rows, in batches, by one process."""
    mix, batches = mix_of(table), np.split(np.arange(len(table)), len(table) // BATCH)
    return lambda _: [finish(mix[0, rows]) for rows in batches]


def original(table: PoseTable) -> Callable[[int], object]:
    data, batches = original_rows(table), np.split(np.arange(len(table)), len(table) // BATCH)
    return lambda _: [default_collate([data[row] for row in rows]) for rows in batches]


def stages(table: PoseTable, cached: PoseTable) -> dict[str, Variant]:
    """The pieces of both, each over all rows."""
    mix, rows = mix_of(table), range(len(table))
    crops, rule = mix.crops[0], mix.depth_rule
    names = [table.image.name(row) for row in rows]
    contents = [np.fromfile(name, np.uint8) for name in names]
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pictures = [Pixels(cv2.imdecode(content, flags), (0.0, 0.0), 1.0) for content in contents]

    def drawn(row: int) -> tuple[Region, float]:
        warp = draw(AUGMENT, 0, 0, row, crops[row], PATCH.size, rule)
        return touched_region(warp.img_to_patch, PATCH.size, table.image.image_size(row))

    asked = [drawn(row) for row in rows]

    def copy(row: int) -> object:
        x0, y0, width, height = asked[row][0]
        return cv2.cvtColor(pictures[row].data[y0 : y0 + height, x0 : x0 + width], cv2.COLOR_BGR2RGB)

    class Ready:
        """Of a source, the pixels that the rows need, read before."""

        def __init__(self, source: ImageSource) -> None:
            self.pixels = [source.read(row, *asked[row]) for row in rows]
            self.name = source.name

        def image_size(self, row: int) -> tuple[int, int]:
            return SIDE, SIDE

        def read(self, row: int, region: Region, scale: float) -> Pixels:
            return self.pixels[row]

    batches = np.split(np.arange(len(table)), len(table) // BATCH)
    from_files, from_cache = (
        mix_of(dataclasses.replace(table, image=Ready(one.image))) for one in (table, cached)
    )
    pixels_only = original_rows(table)

    def each(call: Callable[[int], object]) -> Variant:
        return Variant(lambda _: [call(row) for row in rows])

    def collate(mix: Mix) -> Variant:
        return Variant(lambda _: [mix[0, rows] for rows in batches])

    def patches(mix: Mix) -> Variant:
        packed = [mix[0, rows] for rows in batches]
        return Variant(
            lambda _: [loader.batch_to_patches(batch, PATCH.size, PATCH.mean, PATCH.std) for batch in packed]
        )

    return {
        "read the file": each(lambda row: Path(names[row]).read_bytes()),
        "decode, full size": each(lambda row: cv2.imdecode(contents[row], flags)),
        "copy the region, as RGB": each(copy),
        "FileImages.read, reduced where it can": each(lambda row: table.image.read(row, *asked[row])),
        "CropCache.read": each(lambda row: cached.image.read(row, *asked[row])),
        "draw": each(drawn),
        "draw, collate": collate(from_files),
        "draw, collate, from the cache": collate(from_cache),
        "warp_patch": patches(from_files),
        "warp_patch, from the cache": patches(from_cache),
        "original: patch and label": each(
            lambda row: pixels_only.warped(row, pictures[row], Draw(1.0, 17.0, bool(row % 2), np.ones(3)))
        ),
    }


def large_picture(folder: Path) -> dict[str, Variant]:
    """A picture of 3000 px with a box of 2000 px: three quarters of its pixels need not be decoded."""
    path = folder / "large.jpg"
    cv2.imwrite(str(path), photograph(3000), [cv2.IMWRITE_JPEG_QUALITY, 90])
    table = table_of(FileImages([path] * BATCH, np.full((BATCH, 2), 3000)), BATCH, 3000, 2000)
    rows = np.arange(4)
    mix, data = mix_of(table), original_rows(table)
    full = mix_of(dataclasses.replace(table, image=FullSize(table.image)))
    return {
        "3000 px, original": Variant(lambda _: default_collate([data[int(row)] for row in rows])),
        "3000 px, ours without reduced decode": Variant(lambda _: finish(full[0, rows])),
        "3000 px, ours": Variant(lambda _: finish(mix[0, rows])),
    }


class FullSize:
    """Files read as if every warp needed their full resolution."""

    def __init__(self, source: ImageSource) -> None:
        self.source, self.name, self.image_size = source, source.name, source.image_size

    def read(self, row: int, region: Region, scale: float) -> Pixels:
        return self.source.read(row, region, 1.0)


# ------------------------------------------------------------------------------------------------- by workers


def cpu_seconds() -> float:
    """Of this process and its live children, to 10 ms."""
    seconds = time.process_time()
    for child in multiprocessing.active_children():
        words = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def by_workers(tables: dict[str, PoseTable], workers: int, rounds: int) -> dict[str, dict[str, float]]:
    """Images per second by the wall clock, and CPU ms per image of all processes; loaders take turns."""
    loaders: dict[str, Any] = {}
    for name, table in tables.items():
        if name == "original":
            loaders[name] = DataLoader(
                original_rows(table),
                batch_size=BATCH,
                shuffle=True,
                num_workers=workers,
                worker_init_fn=loader.start_worker,
                persistent_workers=workers > 0,
            )
        else:
            loaders[name] = loader.make_loader(
                [table],
                PATCH,
                DepthConfig(),
                AUGMENT,
                batch=BATCH,
                workers=workers,
                seed=0,
                train=True,
            )
    wall: dict[str, list[float]] = {name: [] for name in tables}
    cpu: dict[str, list[float]] = {name: [] for name in tables}
    for number in range(rounds + 1):
        for name, batches in loaders.items():
            start, spent, images = time.perf_counter(), cpu_seconds(), 0
            for _ in range(EPOCHS if number else 1):
                for patches in epoch(batches):
                    images += len(patches)
            if number:
                wall[name].append((time.perf_counter() - start) * 1e3 / images)
                cpu[name].append((cpu_seconds() - spent) * 1e3 / images)
    loaders.clear()
    gc.collect()  # ends the workers
    return {
        name: {
            "images_per_second": 1e3 / common.quartiles(wall[name]).median,
            "cpu_ms": common.quartiles(cpu[name]).median,
        }
        for name in tables
    }


def epoch(batches: Any) -> Iterator[Tensor]:
    for batch in batches:
        yield finish(batch)[0] if isinstance(batch, Batch) else batch[0]


# ---------------------------------------------------------------------------------------------------- quality


def quality(tables: dict[str, PoseTable]) -> dict[str, float]:
    """PSNR of the patches in dB against 4 x 4 samples per patch px of the whole file, without colour."""
    augment = dataclasses.replace(AUGMENT, color=0.0)
    rows = np.arange(BATCH)
    std = torch.tensor(PATCH.std).view(3, 1, 1)

    def patches(table: PoseTable) -> Tensor:
        return finish(Mix([table], PATCH, DepthConfig(), augment, 0)[0, rows])[0] * std

    files = tables["files"]
    whole = dataclasses.replace(files, image=FullSize(files.image))
    batch = Mix([whole], PATCH, DepthConfig(), augment, 0)[0, rows]
    fine = batch.patch_to_region.clone()
    fine[:, :, :2] /= 4
    fine[:, :, 2] -= 1.5 * fine[:, :, :2].sum(2)
    size = (4 * PATCH.height, 4 * PATCH.width)
    many = warp_patch(
        batch.pixels, batch.offsets, batch.sizes, fine, size, PATCH.mean, PATCH.std, antialias=True
    )
    truth = torch.nn.functional.avg_pool2d(many, 4) * std
    return {
        name: float(10 * torch.log10(255**2 / (patches(table) - truth).square().mean()))
        for name, table in tables.items()
        if name != "original"
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.loader", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warm", action="store_true", help="an allocator that keeps its memory")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.warm:
        common.use_warm_allocator()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), options.rounds)
    if options.json:
        common.add_to_json(options.json, "warp_patch", results, more=VERSIONS)


VERSIONS = {"opencv": cv2.__version__, "numpy": np.__version__}


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    files = []
    for number in range(FILES):
        files.append(folder / f"{number}.jpg")
        cv2.imwrite(str(files[-1]), photograph(SIDE, seed=number), [cv2.IMWRITE_JPEG_QUALITY, 90])
    facts = {"bytes of a file": float(np.mean([path.stat().st_size for path in files]))}
    source = FileImages(files * (ROWS // FILES), np.full((ROWS, 2), SIDE))
    table = table_of(source, ROWS)
    margin, density = validation.file_crops(PATCH, AUGMENT)
    start = time.process_time()
    packed = CropCache(
        source,
        crop_box(table.boxes_xywh, table.box_rule, 1.0),
        round(PATCH.width * (1 + margin) * density),
        margin,
        folder / "crops",
        processes=0,
    )
    facts["cache: CPU ms to build, per crop"] = (time.process_time() - start) * 1e3 / ROWS
    as_jpeg = JpegCrops(packed, ROWS)
    facts |= {
        "cache: bytes per crop": as_jpeg.raw_bytes,
        "JPEG: more CPU ms to build, per crop": as_jpeg.encode_ms,
        "JPEG: bytes per crop": float(np.mean([len(data) for data in as_jpeg.data])),
        "JPEG: mean error, grey levels": as_jpeg.mean_error,
    }
    tables = {
        "original": table,
        "files": table,
        "cache": dataclasses.replace(table, image=packed),
        "cache, JPEG": dataclasses.replace(table, image=as_jpeg),
    }
    print(*(f"{name:38}{value}" for name, value in (common.environment() | VERSIONS).items()), sep="\n")
    print()
    print(*(f"{name:38}{value:12.1f}" for name, value in facts.items()), sep="\n")

    fresh: list[Callable[[int], object]] = []

    def forget(_: int) -> None:
        """A copy as a new process has it, which has verified nothing yet."""
        copy = pickle.loads(pickle.dumps(packed))
        fresh[:] = [ours(dataclasses.replace(table, image=copy))]

    whole = {
        "original": Variant(original(table)),
        "ours, files": Variant(ours(table)),
        "ours, cache": Variant(ours(tables["cache"])),
        "ours, cache, first read": Variant(lambda _: fresh[0](0), forget),
        "ours, cache, JPEG": Variant(ours(tables["cache, JPEG"])),
    }
    large = large_picture(folder)
    parts = stages(table, tables["cache"])
    times = common.measure(whole | parts | large, rounds)
    results: dict[str, Any] = {"facts": facts}
    for title, variants, images, base in (
        ("end to end", whole, ROWS, "original"),
        ("stages", parts, ROWS, None),
        ("large picture", large, 4, "3000 px, original"),
    ):
        results[title] = report(title, {name: times[name] for name in variants}, images, base)
    rest = times["read the file"].median + times["copy the region, as RGB"].median
    decoding = {
        "original": times["decode, full size"].median / times["original"].median,
        "ours, files": (times["FileImages.read, reduced where it can"].median - rest)
        / times["ours, files"].median,
    }
    results["share of decode"] = decoding
    print("\nshare of decode: " + ", ".join(f"{name} {part:.0%}" for name, part in decoding.items()))
    results["psnr_db"] = quality(tables)
    print(
        "patches against 4 x 4 samples: "
        + ", ".join(f"{name} {db:.1f} dB" for name, db in results["psnr_db"].items())
    )
    print(f"\n{'by workers':28}{'images/s':>10}{'CPU ms/image':>14}")
    for workers in (0, 1, 2):
        found = results[f"workers {workers}"] = by_workers(tables, workers, max(3, rounds // 3))
        for name, row in found.items():
            print(f"  {workers} {name:24}{row['images_per_second']:10.0f}{row['cpu_ms']:14.3f}")
    return results


def report(title: str, times: dict[str, Timing], images: int, base: str | None) -> dict[str, Any]:
    print(f"\n{title:38}  ms/image       IQR   images/s  original/it")
    rows = {}
    for name, timing in times.items():
        row = {
            "ms": timing.median / images,
            "iqr_ms": (timing.upper_quartile - timing.lower_quartile) / images,
        }
        row["images_per_second"] = 1e3 / row["ms"]
        if base:
            row["original"] = times[base].median / timing.median
        rows[name] = row
        ratio = f"{row['original']:12.2f}x" if base else ""
        print(f"  {name:36}{row['ms']:10.3f} +-{row['iqr_ms']:7.3f}{row['images_per_second']:11.0f}{ratio}")
    return rows


if __name__ == "__main__":
    main()
