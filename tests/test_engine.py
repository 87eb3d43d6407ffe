"""The training loop: its schedule, a resume that is the same run, and what stops it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ipr import checkpoint, config, engine, loader, ops, resume, runlog, validation
from ipr.cache import CropCache
from ipr.config import AugmentConfig, ConfigError, OptimizerConfig, PatchConfig, ScheduleConfig
from ipr.distributed import Group
from ipr.engine import Trainer, learning_rate
from ipr.images import FileImages
from ipr.loader import Mix
from ipr.metrics.mpjpe import mpjpe, root_relative
from ipr.runlog import RunLog
from ipr.skeleton import by_name
from ipr.types import Batch, NetworkOutput, PoseTable, Region
from ipr.validation import Data, RunError
from tests.data import random_table
from tests.runs import tiny_data, tiny_run

GOLDEN = Path(__file__).parent / "golden"
CLOCK = {"seconds", "images_per_second"}


# ------------------------------------------------------------------------------------------------ schedule


@pytest.mark.parametrize("case", ["integral_300", "direct_140", "challenge_300", "tiny"])
def test_milestones_as_the_original(case: str) -> None:
    golden = json.loads((GOLDEN / "schedule" / "lr_schedule.json").read_text())[case]
    schedule = ScheduleConfig(
        epochs=golden["end_epoch"],
        kind="milestones",
        milestones=tuple(map(int, golden["milestones"].split(","))),
        factor=golden["gamma"],
        warmup_steps=0,
    )
    steps_per_epoch = 3
    rates = [
        learning_rate(OptimizerConfig(lr=golden["lr"]), schedule, step, steps_per_epoch)
        for step in range(golden["end_epoch"] * steps_per_epoch)
    ]
    expected = np.repeat(golden["lr_per_epoch_1based"], steps_per_epoch)
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_cosine_falls_to_zero_after_a_linear_warm_up() -> None:
    schedule = ScheduleConfig(epochs=4, kind="cosine", warmup_steps=10)
    rates = np.array([learning_rate(OptimizerConfig(lr=1.0), schedule, step, 25) for step in range(101)])
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert rates[10] == 1 and rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0)
    assert (np.diff(rates[10:]) < 0).all()


# ------------------------------------------------------------------------------------------------ training


def test_a_batch_is_learnt_by_heart(tmp_path: Path) -> None:
    run = tiny_run("schedule.warmup_steps=0", "loss.name=l1")
    trainer = Trainer(run, tmp_path, tiny_data(run, tmp_path))
    batch = next(iter(trainer.batches))
    trainer.network.train()
    for _ in range(80):
        loss = trainer.train_batch(batch, 3e-3)
    joints_norm, _ = loader.batch_labels(batch, run.patch.size, by_name(run.skeleton))
    blind = (joints_norm - joints_norm.median(0).values).abs().sum() / len(joints_norm)
    assert loss < 0.6 * blind  # the best that a network could do without looking


def test_half_precision_trains(tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        run = tiny_run(f"model.precision={precision}")
        trainer = Trainer(run, tmp_path, tiny_data(run, tmp_path))
        batch = next(iter(trainer.batches))
        losses[precision] = [trainer.train_batch(batch, 1e-3) for _ in range(3)]
        assert all(parameter.dtype == torch.float32 for parameter in trainer.network.parameters())
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.1)


def records(folder: Path) -> list[dict[str, Any]]:
    """The log without what the clock and the start say."""
    return [
        {key: value for key, value in record.items() if key not in CLOCK}
        for record in runlog.read(folder)
        if record["kind"] != "run"
    ]


def test_a_resumed_run_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs at once; or one, a second that is lost, and a resume with another number of workers."""
    monkeypatch.setattr(engine, "LOG_EVERY", 1)
    run = tiny_run()
    engine.train(run, tmp_path / "straight")

    halves = tmp_path / "halves"
    halves.mkdir()
    trainer = Trainer(run, halves, tiny_data(run, halves))
    rows = len(trainer.data.train[0])
    with RunLog(halves, step=0, images=0, images_total=2 * rows) as log:
        trainer.epoch(log, rows)
        trainer.train_rows(log)  # interrupted before the epoch was saved
    outcome = engine.train(tiny_run("data.workers=1"), halves, resume=True)

    assert len(records(halves)) == 2 * (3 + 1)
    assert records(halves) == records(tmp_path / "straight")
    ours, theirs = (checkpoint.load(folder / "latest.pt") for folder in (halves, tmp_path / "straight"))
    assert (ours["epoch"], ours["step"], ours["best"]) == (theirs["epoch"], theirs["step"], theirs["best"])
    assert ours["decoding"] == theirs["decoding"]
    assert ours["decoding"]["scores"] == outcome.scores
    for name, tensor in ours["network"].items():
        assert torch.equal(tensor, theirs["network"][name]), name
    for number, state in ours["optimizer"]["state"].items():
        for name, tensor in state.items():
            assert torch.equal(tensor, theirs["optimizer"]["state"][number][name])

    again = engine.train(run, halves, resume=True)  # of a finished run: nothing left to train
    assert again.scores == outcome.scores
    assert records(halves) == records(tmp_path / "straight")


class Stopped(Exception):
    """Stands for a crash."""


def test_a_resume_inside_an_epoch_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps at once; or a crash in the second epoch, and a resume that reads only the rows left of it."""
    monkeypatch.setattr(engine, "LOG_EVERY", 1)
    run = tiny_run()
    engine.train(run, tmp_path / "straight")
    step = Trainer.train_batch
    seen: list[tuple[int, list[int]]] = []

    def crashing(trainer: Trainer, batch: Batch, rate: float, people: int | None = None) -> float:
        if len(seen) == 5:
            raise Stopped
        seen.append((trainer.progress.epoch, batch.row.tolist()))
        return step(trainer, batch, rate, people)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "SAVE_EVERY", 2)  # of 3 steps per epoch: saved in both
        patch.setattr(Trainer, "train_batch", crashing)
        with pytest.raises(Stopped):
            engine.train(run, tmp_path / "halves")
    saved = checkpoint.load(tmp_path / "halves" / "latest.pt")
    assert (saved["epoch"], saved["step"], saved["batch"]) == (1, 4, 1)
    read: list[int] = []
    monkeypatch.setattr(Mix, "__getitem__", reading(read))
    engine.train(run, tmp_path / "halves", resume=True)
    assert sorted(read[:-12]) == sorted({*range(40)} - {*seen[3][1]})  # the last 12 are those of validation
    assert records(tmp_path / "halves") == records(tmp_path / "straight")
    ours, theirs = (checkpoint.load(tmp_path / name / "latest.pt") for name in ("halves", "straight"))
    assert (ours["epoch"], ours["step"], ours["batch"]) == (2, 6, 0)
    assert all(torch.equal(tensor, theirs["network"][name]) for name, tensor in ours["network"].items())


def reading(rows: list[int]) -> Callable[..., Batch]:
    """Mix's access to a batch, which notes the rows."""
    get = Mix.__getitem__

    def noted(mix: Mix, item: tuple[int, np.ndarray]) -> Batch:
        rows.extend(map(int, item[1]))
        return get(mix, item)

    return noted


def test_other_people_per_step_are_not_resumed(tmp_path: Path) -> None:
    """Twice the processes with half the batch each take the same steps."""
    run = tiny_run()
    Trainer(run, tmp_path, tiny_data(run, tmp_path)).save("latest.pt", {})
    saved = checkpoint.load(tmp_path / "latest.pt")
    half = tiny_run("data.batch=8")
    resume.refuse_other_config(half, saved["config"], tmp_path)
    resume.refuse_other_steps(half, saved, tmp_path, Group(1, 2))
    with pytest.raises(ConfigError, match=r"1 x 16 people per step .* cannot change: 1 x 8 given"):
        engine.train(half, tmp_path, resume=True)
    with pytest.raises(ConfigError, match="cannot change: 2 x 16 given"):
        resume.refuse_other_steps(run, saved, tmp_path, Group(0, 2))


def test_a_resumed_run_may_have_its_cache_elsewhere(tmp_path: Path) -> None:
    saved = config.to_dict(tiny_run("data.cache=there"))
    resume.refuse_other_config(tiny_run("data.cache=here"), saved, tmp_path)
    for other in ("off", ""):
        with pytest.raises(ConfigError, match=f"data.cache was 'a directory', is '{other}'"):
            resume.refuse_other_config(tiny_run(f"data.cache={other}"), saved, tmp_path)
    saved["data"]["cache"] = True  # of an earlier version
    resume.refuse_other_config(tiny_run(), saved, tmp_path)


def test_checkpoint_holds_what_decoding_needs(tmp_path: Path) -> None:
    run = tiny_run()
    trainer = Trainer(run, tmp_path, tiny_data(run, tmp_path))
    trainer.save("latest.pt", {"MPJPE mm": 1.0})
    state = torch.load(tmp_path / "latest.pt", weights_only=True)
    assert config.from_dict(state["config"]) == run
    decoding = state["decoding"]
    assert decoding["skeleton"] == "h36m_18" and decoding["patch"]["height"] == 32
    assert decoding["box_rule"] == {"pad": 1.25, "fit": "grow"}
    assert decoding["depth_rule"] == {"name": "rect3d", "extent_mm": 2000.0}
    joints = trainer.data.train[0].joints_cam
    assert joints is not None
    bones = joints - joints[:, list(by_name("h36m_18").parents)]
    assert decoding["mean_bone_length_mm"] == pytest.approx(np.linalg.norm(bones, axis=2).sum(1).mean())
    assert 2500 < decoding["mean_bone_length_mm"] < 6000


class Witness(torch.nn.Module):
    """A network that keeps the patches it is shown."""

    def forward(self, patches: torch.Tensor) -> NetworkOutput:
        self.patches = patches
        return NetworkOutput(torch.zeros(len(patches), 18, 3), None, None)


def test_antialiasing_is_one_for_all_and_is_saved(tmp_path: Path) -> None:
    """Training and evaluation take the same path to the network, so both follow the patch's switch."""
    run = tiny_run("patch.antialias=true", "patch.height=16", "patch.width=16")
    trainer = Trainer(run, tmp_path, tiny_data(run, tmp_path))
    witness, patch = Witness(), run.patch
    centred = loader.make_loader(
        [trainer.data.valid], patch, run.depth, None, batch=4, workers=0, seed=0, train=False
    )
    for batch in (next(iter(trainer.batches)), next(iter(centred))):
        validation.forward([witness], batch, run)
        smooth, plain = (
            loader.batch_to_patches(batch, patch.size, patch.mean, patch.std, antialias)
            for antialias in (True, False)
        )
        assert torch.equal(witness.patches, smooth) and not torch.equal(smooth, plain)
    trainer.save("latest.pt", {})
    assert checkpoint.load(tmp_path / "latest.pt")["decoding"]["patch"]["antialias"] is True
    with pytest.raises(ConfigError, match=r"patch\.antialias was True, is False"):
        engine.train(tiny_run("patch.height=16", "patch.width=16"), tmp_path, resume=True)


def test_another_configuration_is_not_resumed(tmp_path: Path) -> None:
    run = tiny_run()
    Trainer(run, tmp_path, tiny_data(run, tmp_path)).save("latest.pt", {})
    before = (tmp_path / "latest.pt").read_bytes()
    other = tiny_run("optimizer.lr=0.5", "data.train.0.seed=9", "data.workers=3")
    with pytest.raises(ConfigError) as error:
        engine.train(other, tmp_path, resume=True)
    assert "optimizer.lr was 0.003, is 0.5" in str(error.value)
    assert "data.train.0.seed was 0, is 9" in str(error.value)
    assert "workers" not in str(error.value)
    assert (tmp_path / "latest.pt").read_bytes() == before


def test_nonfinite_loss_stops_the_run(tmp_path: Path) -> None:
    """One step at an absurd rate makes every later loss NaN: a true divergence, not a made-up number."""
    run = tiny_run("optimizer.lr=1e30", "schedule.warmup_steps=0")
    with pytest.raises(RunError, match=r"the loss is (nan|inf) in epoch 1.*nonfinite\.json.*latest\.pt"):
        engine.train(run, tmp_path)
    record = json.loads((tmp_path / "nonfinite.json").read_text())
    assert not math.isfinite(float(record["loss"]))
    assert len(record["batch"]) in (13, 14)  # 40 rows in three batches
    assert all(person["table"] == "data.train.0" and person["labels_finite"] for person in record["batch"])
    for person in record["batch"]:
        assert person["image"] == f"synthetic train seed 0 row {person['row']}"
    state = checkpoint.load(tmp_path / "latest.pt")
    assert state["step"] == 0
    assert all(tensor.isfinite().all() for tensor in state["network"].values())


# ---------------------------------------------------------------------------------------------- validation


@dataclasses.dataclass(frozen=True)
class People:
    """A dataset of random people in random pictures."""

    count: int
    skeleton: str = "h36m_18"

    def build(self) -> PoseTable:
        table = random_table(12, skeleton=self.skeleton)
        arrays = {
            field.name: value[: self.count]
            for field in dataclasses.fields(table)
            if isinstance(value := getattr(table, field.name), np.ndarray)
        }
        return dataclasses.replace(table, **arrays)


def test_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"data\.valid is empty: .*'count': 0"):
        validation.load_table(tiny_run(), People(0), "data.valid", None, tmp_path)


def test_a_dataset_with_other_joints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.valid, skeleton: depth of coco_17 cannot be"):
        validation.load_table(tiny_run(), People(12, "coco_17"), "data.valid", None, tmp_path)


def test_a_dataset_with_depth_in_another_unit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"depth\.rule: box takes depth in px, but data\.valid has it in mm"
    ):
        validation.load_table(tiny_run("depth.rule=box"), People(6), "data.valid", None, tmp_path)
    assert not list(tmp_path.iterdir())  # said before anything is rendered


def test_metrics_of_the_same_name_are_refused() -> None:
    run = tiny_run("metrics=[{name: mpjpe}, {name: mpjpe, joints: 18}]")
    table = random_table(4)
    with pytest.raises(ConfigError, match=r"metrics\.1: an earlier metric says 'MPJPE mm' already"):
        validation.score(validation.mean_pose(Data((table,), table)), table, run)


def test_coordinates_that_are_not_finite_are_no_score(tmp_path: Path) -> None:
    run = tiny_run()
    trainer = Trainer(run, tmp_path, tiny_data(run, tmp_path))
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(math.nan)
    with pytest.raises(RunError, match="not finite for 12 of 12 people"):
        trainer.validate()


def test_crops_are_rendered_once(tmp_path: Path) -> None:
    """One folder per set and patch size, used again, with the same pixels wherever it is made."""

    def crop(folder: Path, *overrides: str) -> np.ndarray:
        table = validation.load_table(tiny_run(*overrides), People(6), "data.valid", None, folder)
        return table.image.read(3, Region(0, 0, 160, 120), 1.0).data

    first = crop(tmp_path / "a")
    (made,) = (tmp_path / "a").glob("*/*")
    stamp = made.stat().st_mtime_ns
    np.testing.assert_array_equal(crop(tmp_path / "a"), first)
    assert made.stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(crop(tmp_path / "b"), first)
    crop(tmp_path / "a", "patch.height=64", "patch.width=64")
    assert len(list((tmp_path / "a").iterdir())) == 2
    np.testing.assert_array_equal(crop(tmp_path / "c", f"data.cache={tmp_path / 'd'}"), first)
    crop(tmp_path / "c", "data.cache=off")
    assert not (tmp_path / "c").exists() and len(list((tmp_path / "d").glob("*/*"))) == 1


@dataclasses.dataclass
class Photographs:
    """Six random people in one file."""

    path: str

    def build(self) -> PoseTable:
        return dataclasses.replace(People(6).build(), image=FileImages([self.path] * 6))


def test_crops_of_files_are_stored_in_a_directory_only(tmp_path: Path) -> None:
    """Those of training too, with what its warps may see, and apart from those of validation."""
    cv2.imwrite(str(tmp_path / "a.png"), random_table(1).image.images[0])  # type: ignore[attr-defined]
    photographs = Photographs(str(tmp_path / "a.png"))

    def load(augment: bool, *overrides: str) -> object:
        run = tiny_run(*overrides)
        augmented = run.augment if augment else None
        return validation.load_table(run, photographs, "data.valid", augmented, tmp_path / "own").image

    assert isinstance(load(True), FileImages) and isinstance(load(True, "data.cache=off"), FileImages)
    for augment in (True, False, True):
        assert isinstance(load(augment, f"data.cache={tmp_path / 'shared'}"), CropCache)
    assert not (tmp_path / "own").exists() and len(list((tmp_path / "shared").iterdir())) == 2


@dataclasses.dataclass
class Damaged:
    """Six random people, each in a file of its own: the third is cut short, the box of the fifth is none."""

    folder: str

    def build(self) -> PoseTable:
        table, files = People(6).build(), [f"{self.folder}/{row}.png" for row in range(6)]
        for row, file in enumerate(files):
            cv2.imwrite(file, table.image.images[row])  # type: ignore[attr-defined]
        cut = Path(files[2])
        cut.write_bytes(cut.read_bytes()[:-20])
        boxes = table.boxes_xywh.copy()
        boxes[4, 2] = np.nan
        return dataclasses.replace(table, boxes_xywh=boxes, image=FileImages(files))


def test_rows_that_cannot_be_loaded_are_skipped_from_a_cache_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def load(*overrides: str) -> PoseTable:
        run = tiny_run(f"data.cache={tmp_path / 'crops'}", *overrides)
        return validation.load_table(run, Damaged(str(tmp_path)), "data.train.0", run.augment, tmp_path)

    with pytest.raises(ValueError, match=r"^row 4 of data.train.0, .*4.png: its box is \["):
        load("data.on_error=raise")
    assert not (tmp_path / "crops").exists()
    run = tiny_run("data.batch=6")
    options = {"batch": 6, "seed": 0, "workers": 0, "train": True, "on_error": "skip"}
    direct, cached = (
        next(iter(loader.make_loader([table], run.patch, run.depth, run.augment, **options)))
        for table in (load("data.cache=off"), load())
    )
    assert "1 of 6 crops are missing" in capfd.readouterr().err
    assert {failure.row for failure in direct.failures} == {2, 4}
    assert direct.failures == cached.failures
    assert torch.equal(direct.row, cached.row) and not set(direct.row.tolist()) & {2, 4}


def test_what_the_stored_crops_of_files_have_room_for() -> None:
    patch = PatchConfig(height=256, width=256)
    assert validation.file_crops(patch, None) == (4 / 256, 1.5)
    for rotation, widest in (
        (0.0, 1.25),
        (10.0, 1.25 * 1.28171),
        (30.0, 1.25 * 2**0.5),
        (180.0, 1.25 * 2**0.5),
    ):
        margin, density = validation.file_crops(patch, AugmentConfig(scale=0.25, rotation=rotation))
        assert (1 + margin) / (1 + 4 / 256) == pytest.approx(widest, rel=1e-5) and density == 1.5
    assert validation.file_crops(patch, AugmentConfig(scale=0.5))[1] == 2.25


def test_mean_pose_baseline() -> None:
    run = tiny_run()
    first, second, valid = (random_table(count, seed=count) for count in (5, 9, 7))
    mean = np.concatenate([root_relative(first), root_relative(second)]).mean(0)
    truth = root_relative(valid)
    found = validation.baselines(Data((first, second), valid), run)["mean pose"]
    assert found["MPJPE mm"] == pytest.approx(mpjpe(np.tile(mean, (7, 1, 1))[:, :17], truth[:, :17]).mean())
    blind = dataclasses.replace(first, joints_cam=None)
    assert validation.baselines(Data((blind, second), valid), run) != {}
    assert validation.baselines(Data((blind,), valid), run) == {}


def test_measured_baselines_answer_for_their_rows_only(tmp_path: Path) -> None:
    run = tiny_run()
    assert validation.measured_baselines(run, tmp_path) == {}
    scores = {"constant image": {"MPJPE mm": 250.0}, "silhouettes": {"MPJPE mm": 150.0}}
    content = {"valid": config.to_dict(run.data.valid), "measured": {"ipr": "0.1.0"}, "baselines": scores}
    (tmp_path / "synthetic_baselines.json").write_text(json.dumps(content))
    assert validation.measured_baselines(run, tmp_path) == scores
    assert validation.measured_baselines(tiny_run("data.valid.seed=1"), tmp_path) == {}
    assert validation.measured_baselines(tiny_run("metrics.0.joints=18"), tmp_path) == {}


def test_flip_merge_as_the_original(tolerance: Any) -> None:
    golden = np.load(GOLDEN / "flip" / "validnet_coordmerge.npz")
    width, height = golden["patch_wh"]

    def output(logits: np.ndarray) -> NetworkOutput:
        volume = torch.from_numpy(logits / 128.0).reshape(1, 18, 12, 16, 12)
        return NetworkOutput(ops.softmax_integral(volume).mean / torch.tensor([12, 16, 12]) - 0.5, None, None)

    plain = output(golden["head_plain"])
    flipped = validation.mirror(output(golden["head_flipped"]), int(width), by_name("h36m_18"))
    for result, name in (
        (plain, "preds_noflip"),
        (validation.average([plain, flipped]), "preds_flip_coordmerge"),
    ):
        joints_patch = result.joints_norm.numpy() * [width, height, width] + [width / 2, height / 2, 0]
        np.testing.assert_allclose(joints_patch, golden[name][..., :3], atol=tolerance.crop_px)


def test_mirror_twice_is_the_identity() -> None:
    skeleton = by_name("h36m_18")
    output = NetworkOutput(torch.randn(2, 18, 3), torch.rand(2, 18, 3), torch.rand(2, 18))
    once = validation.mirror(output, 48, skeleton)
    assert not torch.equal(once.score, output.score)
    for value, expected in zip(validation.mirror(once, 48, skeleton), output, strict=True):
        torch.testing.assert_close(value, expected)


def test_average_keeps_what_all_know() -> None:
    full = NetworkOutput(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.zeros(1, 2))
    bare = NetworkOutput(torch.zeros(1, 2, 3), None, torch.ones(1, 2))
    mean = validation.average([full, bare])
    assert mean.sigma_norm is None and (mean.joints_norm == 0.5).all() and (mean.score == 0.5).all()


def test_inverse_variance_trusts_the_surer_one() -> None:
    sigma = torch.tensor([[[1.0, 1.0, 2.0]]])
    one = NetworkOutput(torch.zeros(1, 1, 3), sigma, torch.tensor([[0.2]]))
    other = NetworkOutput(torch.ones(1, 1, 3), torch.tensor([[[1.0, 3.0, 1.0]]]), torch.tensor([[0.4]]))
    both = validation.average([one, other], "inverse_variance")
    torch.testing.assert_close(both.joints_norm, torch.tensor([[[0.5, 0.1, 0.8]]]))
    torch.testing.assert_close(both.sigma_norm, torch.tensor([[[1.0, 1.2, 1.2]]]))
    torch.testing.assert_close(both.score, torch.tensor([[0.3]]))
    with pytest.raises(RunError, match="needs the volumes' sigma"):
        validation.average([one, other._replace(sigma_norm=None)], "inverse_variance")


def test_what_is_better_of_the_first_score() -> None:
    scores = {"first": 3.0, "second": 5.0}
    assert validation.to_minimize(scores, tiny_run()) == 3.0
    assert validation.to_minimize(scores, tiny_run("metrics=[{name: pckh}, {name: mpjpe}]")) == -3.0


def test_baselines_without_eyes_are_judged_by_poses_alone() -> None:
    table = random_table(4)
    data = Data((table,), table)
    found = validation.baselines(data, tiny_run("metrics=[{name: localisation}, {name: pck3d}]"))
    assert found["mean pose"].keys() >= {"3DPCK@150 %", "AUC %"} and "clipped %" not in found["mean pose"]
    assert validation.baselines(data, tiny_run("metrics=[{name: localisation}]")) == {}


def test_the_metrics_own_bone_length_goes_before_the_checkpoints() -> None:
    decoding = {"mean_bone_length_mm": 4000.0}
    assert validation.decoding_length(tiny_run(), decoding) == 4000.0
    assert validation.decoding_length(tiny_run(), {}) is None  # of the ECCV 2018 code
    assert validation.decoding_length(tiny_run("metrics=[{name: mpjpe_rescaled}]"), decoding) == 4502.881
