"""The converter of Pascal VOC, on a small tree in VOC's true form."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ipr import cli, occluders
from ipr.cutouts import from_folder, read_rgba

HEIGHT, WIDTH = 100, 140


def run(*arguments: object) -> int:
    return cli.run(lambda: occluders.main([str(argument) for argument in arguments]))


def palette() -> bytes:
    """VOC's colours: bits 0, 3, 6 of the index are red's from the top, bits 1, 4, 7 green's, 2, 5 blue's."""
    colors = np.zeros((256, 3), np.uint8)
    for index in range(256):
        for bit in range(8):
            colors[index, bit % 3] |= ((index >> bit) & 1) << (7 - bit // 3)
    return colors.tobytes()


def palette_png(indices: np.ndarray, entries: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = indices.shape
    rows = b"".join(b"\0" + row.tobytes() for row in indices)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", entries)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def annotation(*objects: tuple[str, str]) -> str:
    """Of (class, mark) of each object; as VOC, some have no <truncated> or <difficult> at all."""
    items = "".join(
        f"<object><name>{name}</name><pose>Left</pose>{f'<{mark}>1</{mark}>' if mark else ''}"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
        f"<difficult>{int(mark == 'difficult')}</difficult>"
        "<part><name>head</name></part></object>"
        if mark != "difficult"
        else f"<object><name>{name}</name><difficult>1</difficult></object>"
        for name, mark in objects
    )
    return f"<annotation><folder>VOC2012</folder><segmented>1</segmented>{items}</annotation>"


def masks(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Indices [h, w] of boxes (x, y, width, height), each in a void band of 2 px."""
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x, y, width, height in boxes:
        indices[max(0, y - 2) : y + height + 2, max(0, x - 2) : x + width + 2] = 255
    for number, (x, y, width, height) in enumerate(boxes, 1):
        indices[y : y + height, x : x + width] = number
    return indices


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2012"
    for name in ("SegmentationObject", "Annotations", "JPEGImages"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    trees = {
        "2007_000032": (
            annotation(
                ("dog", ""), ("person", ""), ("car", "difficult"), ("chair", "truncated"), ("cow", "")
            ),
            masks(
                (5, 5, 40, 30),
                (60, 5, 40, 30),
                (5, 50, 40, 30),
                (60, 50, 40, 30),
                (110, 5, 20, 20),
                (105, 50, 30, 30),
            ),
        ),
        "2007_000033": (annotation(("sofa", "")), masks((0, 60, 50, 40))),  # in the corner of the image
    }
    for name, (xml, indices) in trees.items():
        (root / "Annotations" / f"{name}.xml").write_text(xml)
        (root / "SegmentationObject" / f"{name}.png").write_bytes(palette_png(indices, palette()))
        smooth = cv2.resize(rng.integers(0, 256, (8, 10, 3)).astype(np.uint8), (WIDTH, HEIGHT))
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), smooth)
    # Most of VOC's photographs have no masks.
    (root / "Annotations" / "2007_000001.xml").write_text(annotation(("cat", "")))
    return root


def test_objects_are_cut_out(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "objects"
    assert run(voc, out) == 0
    printed = capsys.readouterr().out
    assert printed == f"{out}: 2 objects; left out: 1 person, 1 difficult, 1 truncated, 1 small, 1 unlisted\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["VOC2012", "objects"]
    assert sorted(path.name for path in out.iterdir()) == ["2007_000032_1.png", "2007_000033_1.png"]

    dog = read_rgba(out / "2007_000032_1.png")
    assert dog.shape == (32, 42, 4)  # a transparent pixel around the 30 x 40 of the mask
    alpha = dog[..., 3].astype(int)
    assert not alpha[0].any() and not alpha[-1].any() and not alpha[:, 0].any() and not alpha[:, -1].any()
    across = alpha[16]
    assert 0 < across[1] < across[2] < across[3] < 255  # it rises inside the outline
    np.testing.assert_array_equal(across, across[::-1])
    assert (alpha[6:-6, 6:-6] == 255).all()
    image = cv2.imread(str(voc / "JPEGImages" / "2007_000032.jpg"))
    assert image is not None
    np.testing.assert_array_equal(dog[1:-1, 1:-1, :3], image[5:35, 5:45, ::-1])

    sofa = read_rgba(out / "2007_000033_1.png")  # its mask ends with the image: faded there as well
    assert sofa.shape == (42, 52, 4) and not sofa[:, 0, 3].any() and sofa[20, 25, 3] == 255
    assert len(from_folder(str(out), 1.0, 64)) == 2


def _replace(folder: str, suffix: str, content: bytes) -> Callable[[Path], object]:
    return lambda voc: (voc / folder / f"2007_000033{suffix}").write_bytes(content)


WIDE = palette_png(np.zeros((HEIGHT, WIDTH + 1), np.uint8), palette())
GREY = cv2.imencode(".png", np.zeros((HEIGHT, WIDTH), np.uint8))[1].tobytes()
TWICE = palette_png(masks((0, 60, 50, 40)), bytes(768))
BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("break_it", "code", "said"),
    [
        (_replace("SegmentationObject", ".png", WIDE), 1, "is of 141 x 100 px, its photograph of 140 x 100"),
        (_replace("SegmentationObject", ".png", GREY), 1, "is no PNG picture with an 8-bit palette"),
        (_replace("SegmentationObject", ".png", TWICE), 1, "or has a colour twice"),
        (_replace("SegmentationObject", ".png", WIDE[:40]), 1, "its palette is missing"),
        (_replace("Annotations", ".xml", b"<annotation>"), 1, "is no valid XML"),
        (_replace("Annotations", ".xml", BOMB), 1, "is no annotation of VOC"),
        (_replace("Annotations", ".xml", bytes(2**20 + 1)), 1, "is no annotation of VOC"),
        (_replace("Annotations", ".xml", b"<annotation><object/></annotation>"), 1, "has no <name>"),
        (_replace("JPEGImages", ".jpg", b"\xff\xd8\xff"), 1, "is cut short"),
        (lambda voc: (voc / "Annotations" / "2007_000033.xml").unlink(), 1, "cannot be read: No such file"),
        (lambda voc: (voc / "Annotations").rename(voc / "labels"), 2, "has no folder Annotations: give"),
        (lambda voc: (voc.parent / "objects").mkdir(), 2, "objects exists: give a new directory"),
    ],
)
def test_what_is_wrong_is_said(
    voc: Path,
    capsys: pytest.CaptureFixture[str],
    break_it: Callable[[Path], object],
    code: int,
    said: str,
) -> None:
    break_it(voc)
    before = sorted(voc.parent.iterdir())
    assert run(voc, voc.parent / "objects") == code
    error = capsys.readouterr().err.splitlines()[-1]  # the progress bar is above it
    assert error.startswith("error: ") and said in error
    assert sorted(voc.parent.iterdir()) == before  # nothing half done is left


def test_a_tree_without_objects(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (voc / "SegmentationObject").iterdir():
        path.unlink()
    assert run(voc, voc.parent / "objects") == 1
    assert "no object is left" in capsys.readouterr().err
    assert run() == 2
