"""Bad pictures, boxes and labels through loader and run: each is right, an error, or replaced and said."""

from __future__ import annotations

import dataclasses
import struct
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ipr import checkpoint, engine, loader, runlog, transfer, validation
from ipr.config import DepthConfig, PatchConfig, RunConfig
from ipr.engine import Trainer
from ipr.images import FileImages, ImageError
from ipr.loader import REPLACEMENTS, EpochSampler, Mix, batch_to_patches, make_loader
from ipr.sampler import replacements
from ipr.types import Batch, Failure, ImageSource, Pixels, PoseTable, Region
from ipr.validation import Data
from tests.data import AUGMENT, ArrayImages, random_images, random_table
from tests.runs import tiny_run
from tests.test_images import _cmyk_jpeg, _jpeg, _png, _raw_png, _tagged
from tests.test_loader import FEW_CORES, _same

PATCH = PatchConfig(height=48, width=40)
SIZE = (120, 160)
PICTURE = random_images(1, SIZE, seed=5)[0]
GREY = np.repeat(PICTURE[..., :1], 3, axis=2)
BAD = 2  # the row that is bad, of six


def _mix(table: PoseTable, on_error: Any, **options: Any) -> Mix:
    return Mix([table], PATCH, DepthConfig(), seed=0, on_error=on_error, **({"augment": None} | options))


def _patches(batch: Batch) -> torch.Tensor:
    return batch_to_patches(batch, PATCH.size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _with_file(folder: Path, content: bytes | None) -> PoseTable:
    """Six people in six PNG files, the BAD one with this content; None: there is no such file."""
    paths = [folder / f"{row}.png" for row in range(6)]
    for path, image in zip(paths, random_images(6, SIZE), strict=True):
        path.write_bytes(_png(image))
    paths[BAD].unlink()
    if content is not None:
        paths[BAD].write_bytes(content)
    return dataclasses.replace(random_table(6), image=FileImages(paths))


def _changed(table: PoseTable, **arrays: Callable[[np.ndarray], None]) -> PoseTable:
    """The table with some of its arrays changed in place."""
    changed = {name: getattr(table, name).copy() for name in arrays}
    for name, change in arrays.items():
        change(changed[name])
    return dataclasses.replace(table, **changed)


def _put(at: Any, value: Any) -> Callable[[np.ndarray], None]:
    return lambda array: array.__setitem__(at, value)


def _refused(table: PoseTable, message: str) -> None:
    """Raise names row and table; skip puts another row there, the same picture as when that was asked for."""
    with pytest.raises(ValueError, match=rf"^row {BAD} of table 0, {message}"):
        _mix(table, "raise")[0, range(6)]
    mix = _mix(table, "skip")
    batch = mix[0, range(6)]
    assert [failure[:2] for failure in batch.failures] == [(0, BAD)]
    with pytest.raises(ValueError, match=f"^{message}"):
        raise ValueError(batch.failures[0].message)
    other = int(batch.row[BAD])
    assert other != BAD and batch.row.tolist() == [0, 1, other, 3, 4, 5]
    patches = _patches(batch)
    assert torch.equal(patches[BAD], patches[other]) and patches[BAD].std() > 20
    assert torch.equal(batch.joints_img[BAD], batch.joints_img[other])


# -------------------------------------------------------------------------------------------------- pictures


def _huge_jpeg() -> bytes:
    jpeg = bytearray(_jpeg(PICTURE))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 30000, 30000)
    return bytes(jpeg)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"", r"is empty \(0 bytes\)"),
        (_jpeg(PICTURE)[:3000], "is cut short"),
        (_png(PICTURE)[:20], "is cut short: it ends inside its header"),
        (_png(PICTURE)[:-3000], "is cut short"),
        (b"<html>404</html>" + bytes(20), "is neither JPEG nor PNG, but a web page"),
        (_raw_png(SIZE, 16, 0, bytes(SIZE[0] * (1 + 2 * SIZE[1]))), "has 16 bits per channel"),
        (_huge_jpeg(), "is of 30000 x 30000 px"),
        (_raw_png((30000, 30000), 8, 2, b""), "is of 30000 x 30000 px"),
    ],
    ids=["missing", "empty", "truncated", "header", "truncated-png", "html", "16-bit", "huge", "huge-png"],
)
def test_a_bad_picture(tmp_path: Path, content: bytes | None, message: str) -> None:
    _refused(_with_file(tmp_path, content), rf"{tmp_path}/{BAD}\.png: {message}")


def test_a_picture_that_may_not_be_opened(tmp_path: Path) -> None:
    table = _with_file(tmp_path, None)
    (tmp_path / f"{BAD}.png").mkdir()
    _refused(table, rf"{tmp_path}/{BAD}\.png: cannot be read: Is a directory")


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (_raw_png(SIZE, 8, 0, b"".join(b"\0" + line.tobytes() for line in PICTURE[..., 0])), GREY),
        (_cmyk_jpeg((200, 128, 100, 250)), np.full((8, 8, 3), (196, 125, 98), np.uint8)),
        (
            _raw_png(
                SIZE,
                8,
                6,
                b"".join(b"\0" + np.insert(line, 3, 7, axis=1).tobytes() for line in PICTURE),
            ),
            PICTURE,
        ),
        (_tagged(_jpeg(PICTURE), 6), cv2.imdecode(np.frombuffer(_jpeg(PICTURE), np.uint8), 1)[..., ::-1]),
        (_png(PICTURE[:1, :1]), PICTURE[:1, :1]),
    ],
    ids=["grey", "cmyk", "rgba", "exif", "1x1"],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_an_unusual_picture(tmp_path: Path, content: bytes, seen: np.ndarray, on_error: str) -> None:
    height, width = seen.shape[:2]
    box = _put(BAD, [0.4 * width, 0.5 * height, 0.2 * width, 0.25 * height])  # small: read in full resolution
    table = _changed(_with_file(tmp_path, content), boxes_xywh=box)
    batch = _mix(table, on_error)[0, [BAD]]
    assert batch.failures == () and batch.row.tolist() == [BAD]
    known = dataclasses.replace(table, image=ArrayImages(np.repeat(seen[None], 6, axis=0)))
    patches, expected = _patches(batch), _patches(_mix(known, "raise")[0, [BAD]])
    assert expected.mean() > 20
    assert (patches - expected).abs().max() < 2  # CMYK is rounded


# ------------------------------------------------------------------------------------------ boxes and labels


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([10.0, 10.0, 0.0, 40.0], r"its box is \[10\.0, 10\.0, 0\.0, 40\.0\].* positive size"),
        ([90.0, 90.0, -40.0, -40.0], r"its box is .* positive size"),
        ([np.nan, 10.0, 20.0, 40.0], r"its box is \[nan, .* finite numbers"),
        ([10.0, 10.0, np.inf, 40.0], "its box is .* finite numbers"),
        ([-800.0, 10.0, 50.0, 50.0], "its box .* lies outside the image of 160 x 120 px"),
        ([10.0, 121.0, 50.0, 50.0], "its box .* lies outside the image"),  # padded, it shows a strip
    ],
    ids=["empty", "inverted", "nan", "inf", "outside", "beside"],
)
def test_a_bad_box(box: list[float], message: str) -> None:
    _refused(_changed(random_table(6), boxes_xywh=_put(BAD, box)), f"picture {BAD}: {message}")


def test_a_box_that_ends_outside_is_fine() -> None:
    table = _changed(random_table(6), boxes_xywh=_put(BAD, [-30.0, 40.0, 60.0, 60.0]))
    batch = _mix(table, "raise")[0, [BAD]]
    assert (_patches(batch)[0, :, :, 0] == 0).all() and _patches(batch).mean() > 30


def test_a_crop_that_is_turned_out_of_the_image() -> None:
    """The upright rectangle around it still touches the image, which would give a black patch."""
    table = _changed(random_table(1), boxes_xywh=_put(0, [-150.0, -150.0, 151.0, 151.0]))
    turned = dataclasses.replace(AUGMENT, rotation=45.0, rotation_probability=1.0, flip=0.0)
    mix, outcomes = _mix(table, "raise", augment=turned), set()
    for epoch in range(40):
        try:
            outcomes.add(bool(_patches(mix[epoch, [0]]).any()))
        except ValueError as error:
            assert "lies outside the image of 160 x 120 px" in str(error)
            outcomes.add("turned" if "the crop, as it is turned" in str(error) else "upright")
    assert outcomes == {True, "turned", "upright"}  # False would be black


@pytest.mark.parametrize("name", ["joints_img", "depth", "weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_labels_that_are_no_numbers(name: str, value: float) -> None:
    at = (BAD, 4) if name == "depth" else (BAD, 4, 1)
    table = _changed(random_table(6), **{name: _put(at, value)})
    _refused(table, f"picture {BAD}: its label of joint '{table.skeleton.joints[4]}' is .*finite numbers")
    with pytest.raises(ValueError, match=f"row {BAD} of table 0, picture {BAD}: its label of joint"):
        _mix(table, "raise")  # at once
    if name != "weight":
        axis = 2 if name == "depth" else 1
        without = _changed(table, weight=_put((BAD, 4, axis), 0.0))
        assert _mix(without, "raise")[0, range(6)].failures == ()


def test_how_many_rows_are_bad_is_said_at_once() -> None:
    table = _changed(random_table(6), boxes_xywh=_put((slice(3, 6), 2), -1.0))
    with pytest.raises(
        ValueError, match=r"^row 3 of table 0, picture 3: .*; so have 2 more rows bad boxes or"
    ):
        _mix(table, "raise")


# ----------------------------------------------------------------------------------------------- replacements


class Holes(ArrayImages):
    """Some of its images cannot be read."""

    def __init__(
        self, images: np.ndarray, missing: tuple[int, ...], error: type[Exception] = OSError
    ) -> None:
        super().__init__(images)
        self.missing, self.error = missing, error

    def read(self, row: int, region: Region, scale: float) -> Pixels:
        if row in self.missing:
            raise self.error("truncated file")
        return super().read(row, region, scale)


def _holes(*missing: int, count: int = 12, error: type[Exception] = OSError) -> PoseTable:
    return dataclasses.replace(random_table(count), image=Holes(random_images(count, SIZE), missing, error))


def _loader(*tables: PoseTable, **options: Any) -> DataLoader[Batch]:
    plain: dict[str, Any] = {"augment": AUGMENT, "batch": 5, "workers": 0, "seed": 0, "train": True}
    return make_loader(tables, PATCH, DepthConfig(), **(plain | {"on_error": "skip"} | options))


@FEW_CORES
def test_replacements_do_not_depend_on_workers_or_a_resume() -> None:
    tables = random_table(7, seed=1), _holes(1, 4, 5, 9)
    alone, crowd, resumed = _loader(*tables), _loader(*tables, workers=2), _loader(*tables)
    for batches in (alone, crowd):
        assert isinstance(batches.sampler, EpochSampler)
        batches.sampler.set_epoch(3)
    assert isinstance(resumed.sampler, EpochSampler)
    resumed.sampler.set_epoch(3, done=2)
    whole = list(alone)
    assert all(_same(a, b) for a, b in zip(whole, crowd, strict=True))
    assert all(_same(a, b) for a, b in zip(whole[2:], resumed, strict=True))
    failures = [failure for batch in whole for failure in batch.failures]
    assert {failure[:2] for failure in failures} == {(1, row) for row in (1, 4, 5, 9)}
    assert {failure.message for failure in failures} >= {"picture 4: OSError: truncated file"}
    rows = [pair for batch in whole for pair in zip(batch.table.tolist(), batch.row.tolist(), strict=True)]
    assert len(rows) == 19 and not {pair for pair in rows if pair[0] == 1} & {(1, r) for r in (1, 4, 5, 9)}
    assert [pair for pair in sorted(rows) if pair[0] == 0] == [(0, row) for row in range(7)]


def test_replacements_in_two_processes_are_those_of_one() -> None:
    table = _holes(1, 4, 5, 9)
    alone = list(_loader(table, batch=6))
    shares = [EpochSampler([12], 3, 0, loader.MixConfig(), rank, 2) for rank in range(2)]
    mix = _mix(table, "skip", augment=AUGMENT)
    for whole, first, second in zip(alone, *shares, strict=True):
        parts = mix[first], mix[second]
        assert torch.equal(torch.cat([part.row for part in parts]), whole.row)
        assert torch.equal(torch.cat([part.img_to_patch for part in parts]), whole.img_to_patch)
        assert parts[0].failures + parts[1].failures == whole.failures


def test_a_replacement_is_drawn_anew_in_each_epoch_and_augmented_in_its_own_way() -> None:
    mix = _mix(_holes(3), "skip", augment=AUGMENT)
    found = {int(mix[epoch, [3]].row) for epoch in range(60)}
    assert found == set(range(12)) - {3}
    batch = mix[0, range(12)]
    twin = int(batch.row[3])
    assert not torch.equal(batch.img_to_patch[3], batch.img_to_patch[twin])


def test_which_rows_are_tried() -> None:
    drawn = np.concatenate([replacements(5, 2, 10, 0, 0, row) for row in range(200)])
    assert np.bincount(drawn, minlength=5)[[0, 1, 3, 4]].min() > 400 and not (drawn == 2).any()
    assert replacements(1, 0, 10, 0, 0, 0).tolist() == []


def test_an_end_of_trying() -> None:
    tried = _mix(_holes(*range(12)), "skip")
    with pytest.raises(
        ValueError,
        match=r"^row 3 of table 0, picture 3: OSError: truncated file; "
        rf"nor could {REPLACEMENTS} in its place, the last: row \d+ of table 0, picture \d+: OSError",
    ):
        tried[0, [3]]
    with pytest.raises(ValueError, match=r"^row 0 of table 0, picture 0: .*; its table has no other$"):
        _mix(_holes(0, count=1), "skip")[0, [0]]


def test_errors_of_a_program_are_not_skipped() -> None:
    with pytest.raises(ValueError, match="row 3 of table 0, picture 3: KeyError: 'truncated file'"):
        _mix(_holes(3, error=KeyError), "skip")[0, range(6)]


@FEW_CORES
def test_raise_in_a_worker(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"row {BAD} of table 0, .*{BAD}.png: is empty") as caught:
        list(_loader(_with_file(tmp_path, b""), on_error="raise", workers=1))
    traceback.clear_frames(caught.tb)  # else torch's workers live, and delay, until a garbage collection


def test_a_batch_carries_its_failures_along() -> None:
    batch = _mix(_holes(3), "skip", augment=dataclasses.replace(AUGMENT, gamma=0.2))[0, range(6)]
    moved = transfer.pack(batch).to(torch.device("meta")).unpack()
    assert moved.failures == batch.failures == (Failure(0, 3, "picture 3: OSError: truncated file"),)
    assert moved.gamma is not None and {tensor.device.type for tensor in moved[:13]} == {"meta"}
    assert transfer.pack(batch._replace(gamma=None)).unpack().gamma is None


# ------------------------------------------------------------------------------------------------------ runs


class Torn:
    """A source of which some rows cannot be read."""

    def __init__(self, source: ImageSource, missing: tuple[int, ...]) -> None:
        self.source, self.missing = source, missing
        self.image_size, self.name = source.image_size, source.name

    def read(self, row: int, region: Region, scale: float) -> Pixels:
        if row in self.missing:
            raise ImageError(f"{self.name(row)}: is empty")
        return self.source.read(row, region, scale)


@pytest.fixture
def torn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 3, 17 and 29 of the 40 that runs train on cannot be read."""
    load = validation.load_data

    def loaded(run: RunConfig, cache: Path) -> Data:
        data = load(run, cache)
        table = dataclasses.replace(data.train[0], image=Torn(data.train[0].image, (3, 17, 29)))
        return data._replace(train=(table,))

    monkeypatch.setattr(validation, "load_data", loaded)
    monkeypatch.setattr(engine, "LOG_EVERY", 1)


CLOCK = {"seconds", "images_per_second"}


def _records(folder: Path) -> list[dict[str, Any]]:
    records = [record for record in runlog.read(folder) if record["kind"] != "run"]
    return [{key: value for key, value in record.items() if key not in CLOCK} for record in records]


@pytest.mark.usefixtures("torn")
def test_a_run_skips_counts_and_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine.train(tiny_run(), tmp_path)
    records = _records(tmp_path)
    listed = [record for record in records if record["kind"] == "failure"]
    assert {record["row"] for record in listed} == {3, 17, 29} and len(listed) == 3  # each once in the run
    assert all(record["table"] == 0 and record["epoch"] == 1 for record in listed)
    counts = [record["failures"] for record in records if record["kind"] == "epoch"]
    assert 3 <= counts[0] < counts[1]
    said = capsys.readouterr().err
    assert "replaced: row 17 of table 0, synthetic train seed 0 row 17: is empty" in said
    assert f"{counts[1]} of {80 + counts[1]} rows could not be loaded" in said  # every failure is a try more


@pytest.mark.usefixtures("torn")
def test_a_run_stops_when_too_many_rows_fail(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"skip allows 0\.20%: 3 of \d+ rows could not be loaded") as caught:
        engine.train(tiny_run("data.max_failures=0.002"), tmp_path)
    assert all(f"seed 0 row {row}: is empty" in str(caught.value) for row in (3, 17, 29))
    engine.train(tiny_run("data.max_failures=0.01"), tmp_path, resume=True)  # as the user decides
    with pytest.raises(ValueError, match=r"row (3|17|29) of table 0, synthetic train .*: is empty$"):
        engine.train(tiny_run("data.on_error=raise"), tmp_path / "strict")


@pytest.mark.usefixtures("torn")
def test_a_resume_inside_an_epoch_counts_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, step = tiny_run(), Trainer.train_batch
    engine.train(run, tmp_path / "straight")
    steps: list[Batch] = []

    def crashing(trainer: Trainer, batch: Batch, rate: float, people: int | None = None) -> float:
        if len(steps) == 5:
            raise RuntimeError("crash")
        steps.append(batch)
        return step(trainer, batch, rate, people)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "SAVE_EVERY", 2)
        patch.setattr(Trainer, "train_batch", crashing)
        with pytest.raises(RuntimeError, match="crash"):
            engine.train(run, tmp_path / "halves")
    saved = checkpoint.load(tmp_path / "halves" / "latest.pt")
    assert saved["batch"] == 1 and saved["failures"]["failed"] >= 3
    engine.train(run, tmp_path / "halves", resume=True)
    assert _records(tmp_path / "halves") == _records(tmp_path / "straight")
    ours, theirs = (checkpoint.load(tmp_path / name / "latest.pt") for name in ("halves", "straight"))
    assert ours["failures"] == theirs["failures"]
    assert all(torch.equal(tensor, theirs["network"][name]) for name, tensor in ours["network"].items())


def test_evaluation_stops_at_a_bad_row(tmp_path: Path) -> None:
    run = tiny_run()
    trainer = Trainer(run, tmp_path, validation.load_data(run, tmp_path / "cache"))
    valid = trainer.data.valid
    trainer.data = trainer.data._replace(valid=dataclasses.replace(valid, image=Torn(valid.image, (7,))))
    with pytest.raises(ValueError, match="row 7 of table 0, synthetic valid seed 0 row 7: is empty"):
        trainer.validate()
