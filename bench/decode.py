"""What reading an image file costs, on one thread: ``python -m bench.decode [--json FILE]``.

A generated picture with the spectrum of a photograph (about 210 kB as a JPEG of quality 90, as in real data
sets), on a warm file cache. ``cv2.imread`` of the whole picture is what loaders usually do.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from bench.common import Variant, environment, measure
from ipr.images import FileImages
from ipr.types import Region

SIDE, BOX = 1000, 600  # px
INNER = 20  # calls per timing of what takes microseconds


def photograph(side: int, slope: float = 1.5, seed: int = 0) -> np.ndarray:
    """uint8 [side, side, 3]: noise whose amplitude falls with frequency ** slope, mostly grey."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    frequency[0, 0] = 1
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(3, side, side))) / frequency**slope
    channels = np.fft.ifft2(noise).real
    mixed = np.einsum("chw,cr->hwr", channels, [[1, 0.9, 0.8], [0.1, 0.3, 0.1], [0.05, 0.1, 0.3]])
    return np.clip(127 + 45 * mixed / mixed.std(), 0, 255).astype(np.uint8)


def variants(folder: Path) -> tuple[dict[str, Variant], int]:
    """What is timed, and the bytes of the JPEG."""
    image = photograph(SIDE)
    path = folder / "photograph.jpg"
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    cv2.imwrite(str(folder / "photograph.png"), image)
    source, png = FileImages([path], np.array([[SIDE, SIDE]])), FileImages([folder / "photograph.png"])
    unsized, data = FileImages([path]), np.fromfile(path, np.uint8)
    corner = (SIDE - BOX) // 2
    box, whole = Region(corner, corner, BOX, BOX), Region(0, 0, SIDE, SIDE)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    reduced = cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION
    content = data.tobytes()

    def headers(_: int) -> None:
        for _ in range(INNER):
            unsized.image_size(0)

    def ends(_: int) -> None:
        for _ in range(INNER):
            content.rfind(b"\xff\xd9", 600)

    return {
        "cv2.imread, whole": Variant(lambda _: cv2.imread(str(path), flags)),
        "cv2.imdecode, whole": Variant(lambda _: cv2.imdecode(data, flags)),
        "cv2.imdecode, 1/2": Variant(lambda _: cv2.imdecode(data, reduced)),
        "read whole": Variant(lambda _: source.read(0, whole, 1.0)),
        "read box": Variant(lambda _: source.read(0, box, 1.0)),
        "read box, 1/2": Variant(lambda _: source.read(0, box, 0.5)),
        "read box, 1/4": Variant(lambda _: source.read(0, box, 0.25)),
        "read box, 1/8": Variant(lambda _: source.read(0, box, 0.125)),
        "read box, PNG": Variant(lambda _: png.read(0, box, 1.0)),
        "read box, PNG 1/2": Variant(lambda _: png.read(0, box, 0.5)),
        f"{INNER} x size from the header": Variant(headers),
        f"{INNER} x look for the end marker": Variant(ends),
    }, len(data)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    header = environment() | {"opencv": cv2.__version__}
    print(*(f"{name}: {value}" for name, value in header.items()), sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        timed, size = variants(Path(folder))
        print(f"\n{SIDE} x {SIDE} px, JPEG of {size} bytes, box of {BOX} px; median ms [quartiles]")
        times = measure(timed, arguments.rounds)
    for name, time in times.items():
        print(f"{name:28s} {time.median:8.4f} [{time.lower_quartile:.4f}, {time.upper_quartile:.4f}]")
    if arguments.json:
        results = {"bytes": size, "ms": {name: time._asdict() for name, time in times.items()}}
        arguments.json.write_text(json.dumps({"environment": header, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
