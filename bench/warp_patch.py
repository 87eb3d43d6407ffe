"""warp_patch against the original's way and a good OpenCV way; what antialiasing is worth.

python -m bench.warp_patch [--threads 1] [--rounds 9] [--json FILE]
python -m bench.warp_patch --device cuda [--rounds 15] [--json FILE]     bench/warp_patch_cuda.py

Crops of 500 px of a 1000x1000 picture become 256x256 patches, scaled by +-25 %, turned by +-60 degrees and
every second one mirrored, as the training of the ECCV 2018 code does. The allocator keeps its memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from bench import common, warp_patch_cuda
from bench.common import Variant
from bench.decode import photograph
from ipr.geometry import crop_affine, invert_affine
from ipr.ops import warp_patch, warp_patch_reference

BATCH, SIDE, BOX, SIZE = 16, 1000, 500, (256, 256)
MEAN, STD = warp_patch_cuda.MEAN, warp_patch_cuda.STD


def affines(zoom: float = 1.0) -> np.ndarray:
    """[BATCH, 2, 3] picture px -> patch px; ``zoom`` widens the box."""
    rng = np.random.default_rng(0)
    crop = np.array([SIDE / 2, SIDE / 2, BOX * zoom, BOX * zoom])
    return np.stack(
        [
            crop_affine(
                crop, SIZE, scale=rng.uniform(0.75, 1.25), rotation_deg=rng.uniform(-60, 60), flip=flip
            )
            for flip in [False, True] * (BATCH // 2)
        ]
    )


def arguments(image: np.ndarray, maps: np.ndarray, size: tuple[int, int] = SIZE) -> tuple[object, ...]:
    """Of warp_patch: every patch sees the same picture."""
    inverse = np.stack([invert_affine(one) for one in maps]).astype(np.float32)
    sizes = torch.tensor([image.shape[:2]] * len(maps), dtype=torch.int32)
    offsets = torch.zeros(len(maps), dtype=torch.int64)
    return torch.from_numpy(image).flatten(), offsets, sizes, torch.from_numpy(inverse), size, MEAN, STD


def original(image: np.ndarray, maps: np.ndarray, color: np.ndarray) -> None:
    """The algorithm of the paper's code: copy, mirror the picture, warp, and channel by channel in numpy."""
    for index, affine in enumerate(maps):
        picture = image.copy()
        if index % 2:
            picture = picture[:, ::-1, :]
        patch = cv2.warpAffine(np.ascontiguousarray(picture), affine, SIZE[::-1], flags=cv2.INTER_LINEAR)
        planes = np.transpose(patch[:, :, ::-1].copy(), (2, 0, 1)).astype(np.float32)
        for channel in range(3):
            planes[channel] = np.clip(planes[channel] * color[index, channel], 0, 255)
            planes[channel] = (planes[channel] - MEAN[channel]) / STD[channel]


def good_opencv(image: np.ndarray, maps: np.ndarray, color: np.ndarray) -> None:
    """The mirror within the affine, colour and normalisation from a table of 256 values per channel."""
    levels = np.arange(256, dtype=np.float32)
    for index, affine in enumerate(maps):
        patch = cv2.warpAffine(image, affine, SIZE[::-1], flags=cv2.INTER_LINEAR)
        planes = np.empty((3, *SIZE), np.float32)
        for channel in range(3):
            table = (np.clip(levels * color[index, channel], 0, 255) - MEAN[channel]) / STD[channel]
            planes[channel] = table[patch[:, :, channel]]


def psnr(patches: Tensor, truth: Tensor) -> float:
    """dB over grey levels."""
    error = (patches - truth) * torch.tensor(STD).view(3, 1, 1)
    return float(10 * torch.log10(255**2 / error.square().mean()))


def antialiasing(image: np.ndarray) -> dict[str, float]:
    """PSNR against 4 x 4 bilinear samples per patch px, of boxes about twice as large as the patch."""
    maps = affines(zoom=1.9)[:4]
    fine = maps.copy()
    fine[:, :, :2] *= 4
    fine[:, :, 2] = 4 * fine[:, :, 2] + 1.5
    many = warp_patch(*arguments(image, fine, (4 * SIZE[0], 4 * SIZE[1])), antialias=True)  # type: ignore[arg-type]
    truth = torch.nn.functional.avg_pool2d(many, 4)
    plain, smooth = (warp_patch(*arguments(image, maps), antialias=on) for on in (False, True))  # type: ignore[arg-type]
    return {"bilinear": psnr(plain, truth), "antialias": psnr(smooth, truth)}


def on_cuda(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not torch.cuda.is_available():
        parser.error("torch sees no GPU")
    print("\n".join(f"{name:26}{value}" for name, value in common.environment("cuda").items()))
    results, more = warp_patch_cuda.run(photograph(warp_patch_cuda.SIDE), options.rounds)
    if options.json:
        common.add_to_json(options.json, "warp_patch", results, "cuda", more)


def run_on_cpu(rounds: int, file: Path | None) -> None:
    image, maps = photograph(SIDE), affines()
    factors = np.random.default_rng(1).uniform(0.8, 1.2, (BATCH, 3)).astype(np.float32)
    color, given = torch.from_numpy(factors), arguments(image, maps)
    ours: Callable[..., object] = partial(warp_patch, *given, color)  # type: ignore[arg-type]
    calls: dict[str, Callable[[], object]] = {
        "original": partial(original, image, maps, factors),
        "good OpenCV": partial(good_opencv, image, maps, factors),
        "reference": partial(warp_patch_reference, *given, color),  # type: ignore[arg-type]
        "ours": ours,
        "ours, bf16": partial(ours, dtype=torch.bfloat16),
        "ours, channels_last": partial(ours, channels_last=True),
        "ours, both": partial(ours, dtype=torch.bfloat16, channels_last=True),
        "ours, antialias": partial(ours, antialias=True),
    }
    times = common.measure({name: Variant(lambda _, c=call: c()) for name, call in calls.items()}, rounds)
    print("\n".join(f"{name:22}{value}" for name, value in common.environment().items()))
    print(f"\n{'per patch':22}      ms          IQR  original/it  good OpenCV/it")
    results: dict[str, dict[str, float]] = {}
    for name, timing in times.items():
        row = {"ms": timing.median / BATCH, "iqr_ms": (timing.upper_quartile - timing.lower_quartile) / BATCH}
        row |= {peer: times[peer].median / timing.median for peer in ("original", "good OpenCV")}
        results[name] = row
        print(
            f"  {name:20}{row['ms']:8.3f} +-{row['iqr_ms']:8.3f}"
            f" {row['original']:11.1f}x {row['good OpenCV']:14.1f}x"
        )
    quality = antialiasing(image)
    print(
        "\nboxes of twice the patch, PSNR: "
        + ", ".join(f"{name} {db:.1f} dB" for name, db in quality.items())
    )
    if file:
        common.add_to_json(file, "warp_patch", {"per patch": results, "psnr_db": quality})


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.warp_patch", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(words)
    if options.device == "cuda":
        on_cuda(parser, options)
        return
    common.use_warm_allocator()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    run_on_cpu(options.rounds, options.json)


if __name__ == "__main__":
    main()
