"""Occlusion: draws as configured, by (seed, epoch, row) alone; pictures where they were drawn; the loader."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ipr import transfer
from ipr.config import AugmentConfig, DepthConfig, PatchConfig
from ipr.engine import Trainer
from ipr.loader import Mix, batch_labels, batch_to_patches, make_loader
from ipr.occlusion import Occlusion, OcclusionConfig, Placed
from ipr.ops import Occluders, warp_patch, warp_patch_reference
from ipr.types import Batch
from tests.conftest import Tolerance
from tests.data import AUGMENT, random_table, tensors
from tests.runs import tiny_data, tiny_run
from tests.test_cutouts import write

SIZE = (64, 48)
PATCH = PatchConfig(height=64, width=48)
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
ON = OcclusionConfig(probability=0.7)
FEW_CORES = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def _built(config: OcclusionConfig, size: tuple[int, int] = SIZE) -> Occlusion:
    occlusion = config.build(size)
    assert occlusion is not None
    return occlusion


def _mix(config: OcclusionConfig, augment: AugmentConfig = AUGMENT, count: int = 12) -> Mix:
    augment = dataclasses.replace(augment, occlusion=config)
    return Mix([random_table(count)], PATCH, DepthConfig(), augment, seed=0)


def _same(a: list[Placed], b: list[Placed]) -> bool:
    return len(a) == len(b) and all(
        x.level == y.level and np.array_equal(x.affine, y.affine) for x, y in zip(a, b, strict=True)
    )


# ------------------------------------------------------------------------------------------------- the draw


def test_a_draw_depends_on_seed_epoch_and_row_alone() -> None:
    occlusion = _built(ON)
    keys = [(seed, epoch, row) for seed in (0, 7) for epoch in (0, 3) for row in range(20)]
    drawn = {key: occlusion.draw(*key) for key in keys}
    again = _built(ON)
    for key in reversed(keys):
        assert _same(again.draw(*key), drawn[key])
    firsts = {patch[0].affine.tobytes() for patch in drawn.values() if patch}
    assert len(firsts) == sum(map(bool, drawn.values())) > 40


def test_another_probability_moves_no_object() -> None:
    rare, often = _built(dataclasses.replace(ON, probability=0.3)), _built(ON)
    both = [(rare.draw(1, 2, row), often.draw(1, 2, row)) for row in range(200)]
    assert all(_same(a, b) for a, b in both if a)
    assert sum(bool(a) for a, _ in both) < sum(bool(b) for _, b in both)


def test_draws_are_distributed_as_configured() -> None:
    config = OcclusionConfig(probability=0.4, most=5, scale=(0.3, 0.9))
    occlusion, rows = _built(config), 6000
    drawn = [occlusion.draw(3, 1, row) for row in range(rows)]
    hit = [patch for patch in drawn if patch]
    assert abs(len(hit) / rows - 0.4) < 4 * np.sqrt(0.4 * 0.6 / rows)
    numbers = np.bincount([len(patch) for patch in hit], minlength=6)
    assert numbers[0] == 0 and len(numbers) == 6
    expected = len(hit) / 5
    assert (((numbers[1:] - expected) ** 2) / expected).sum() < 23.5  # chi squared, 4 degrees, 1e-4

    placed = [one for patch in hit for one in patch]
    levels = np.array([one.level for one in placed])
    index = np.searchsorted(occlusion.objects.first, levels, side="right") - 1
    zoom = np.array([one.affine[[0, 1], [0, 1]] for one in placed])  # picture px per patch px, x and y
    shown = occlusion.objects.sizes[levels][:, ::-1] / zoom  # (width, height) patch px
    scale = shown / occlusion.objects.native[index][:, ::-1] * 256 / SIZE[0]
    np.testing.assert_allclose(scale[:, 0], scale[:, 1], rtol=1e-9)  # the aspect is kept
    middle = (occlusion.objects.sizes[levels][:, ::-1] - 1) / 2
    shift = np.array([one.affine[:, 2] for one in placed])
    center = ((middle - shift) / zoom + 0.5) / SIZE[::-1]  # 0..1 of the patch
    for values in ((scale[:, 0] - 0.3) / 0.6, center[:, 0], center[:, 1]):
        # Kolmogorov and Smirnov: 2.2 / sqrt(n) at about 1e-4.
        ordered = np.sort(values)
        assert ordered[0] > -1e-9 and ordered[-1] < 1 + 1e-9
        distance = np.abs(ordered - (np.arange(len(ordered)) + 0.5) / len(ordered)).max()
        assert distance < 2.2 / np.sqrt(len(ordered))
    used = np.bincount(index, minlength=len(occlusion.objects))
    assert used.min() > 0 and used.max() < 4 * used.mean()
    assert np.abs(np.corrcoef(np.c_[scale[:, 0], center, index].T) - np.eye(4)).max() < 0.05


def test_objects_are_sampled_as_finely_as_they_are_shown() -> None:
    occlusion = _built(dataclasses.replace(ON, probability=1.0))
    for row in range(300):
        for one in occlusion.draw(0, 0, row):
            step = max(one.affine[0, 0], one.affine[1, 1])  # picture px per patch px
            finest = one.level in occlusion.objects.first
            assert step < 1.7 and (finest or step > 0.7)


def test_off_builds_nothing() -> None:
    assert OcclusionConfig().build(SIZE) is None
    assert OcclusionConfig(objects="no/such/folder").build(SIZE) is None


# --------------------------------------------------------------------------------------------------- pixels


def _over_black(occluders: Occluders, size: tuple[int, int]) -> torch.Tensor:
    """Red [B, h, w] of black patches with these over them."""
    rows = len(occluders.first) - 1
    black = torch.zeros(3, dtype=torch.uint8)
    places = torch.zeros(rows, dtype=torch.int64), torch.ones(rows, 2, dtype=torch.int32)
    affine = torch.eye(2, 3).repeat(rows, 1, 1)
    return warp_patch(black, *places, affine, size, *PLAIN, occluders=occluders)[:, 0]


def test_an_object_lies_where_and_as_large_as_it_was_drawn(tmp_path: Path) -> None:
    """A white board of 80 x 40 px on black patches: its extent, its middle and its soft edge."""
    board = np.full((40, 80, 4), 255, np.uint8)
    write(tmp_path / "board.png", board)
    config = OcclusionConfig(probability=1.0, objects=str(tmp_path), most=1, scale=(0.5, 1.0))
    occlusion, rows = _built(config), 40
    drawn = [occlusion.draw(0, 0, row) for row in range(rows)]
    patches = _over_black(occlusion.pack(drawn), SIZE).numpy()
    off, soft = [], 0
    for patch, (one,) in zip(patches, drawn, strict=True):
        extent = occlusion.objects.sizes[one.level][::-1] / one.affine[[0, 1], [0, 1]]  # (width, height)
        inverse = np.linalg.inv(np.vstack([one.affine, [0, 0, 1]]))
        center = inverse[:2] @ [*((occlusion.objects.sizes[one.level][::-1] - 1) / 2), 1]
        assert 0.5 <= extent[0] / 80 * 4 <= 1 and abs(extent[0] / extent[1] - 2) < 1e-6
        low, high = center - extent / 2, center + extent / 2
        if (low < 1).any() or (high > np.array(SIZE[::-1]) - 2).any():
            continue
        share = patch / 255
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        # Interpolation towards nothing keeps what is covered, but for where samples meet the fading edge.
        assert abs(share.sum() / extent.prod() - 1) < 0.08
        off.append(np.array([(x * share).sum(), (y * share).sum()]) / share.sum() - center)
        assert share.max() > 0.99
        soft += bool(((share > 0.1) & (share < 0.9)).any())
    # The board's hard edges are sampled once per px: not each is exact, but nothing is shifted.
    assert soft > 0.8 * len(off) and len(off) >= 8
    assert np.abs(off).max() < 0.3 and np.abs(np.mean(off, 0)).max() < 0.1


def test_what_generated_objects_hide() -> None:
    """The shares of square patches that configs/README.md states, by laying them white over black."""
    size, rows = (64, 64), 1000
    occlusion = _built(OcclusionConfig(probability=1.0), size)
    over = occlusion.pack([occlusion.draw(0, 0, row) for row in range(rows)])
    white = over.pixels.view(-1, 4)[:, 3:].expand(-1, 4).reshape(-1)
    hidden = _over_black(over._replace(pixels=white), size).mean((1, 2)) / 255
    assert abs(hidden.mean() - 0.27) < 0.03 and abs(hidden.quantile(0.9) - 0.54) < 0.06


@pytest.mark.parametrize("config", [ON, OcclusionConfig(probability=0.5, most=3, scale=(0.1, 2.0))])
def test_compiled_is_the_reference_on_a_drawn_batch(config: OcclusionConfig, tolerance: Tolerance) -> None:
    batch = _mix(config)[2, range(30)]
    assert batch.occluders is not None and 0 < (batch.occluders.first.diff() == 0).sum() < 30
    arguments: tuple[Any, ...] = batch.pixels, batch.offsets, batch.sizes, batch.patch_to_region, SIZE, *PLAIN
    options = {"color": batch.color, "occluders": batch.occluders}
    compiled = warp_patch(*arguments, **options)
    assert torch.equal(compiled, batch_to_patches(batch, SIZE, *PLAIN))
    assert (compiled - warp_patch_reference(*arguments, **options)).abs().max() < tolerance.grey_level
    bare = warp_patch(*arguments, color=batch.color)
    touched = (compiled - bare).abs().amax((1, 2, 3)) > 5
    assert torch.equal(touched, batch.occluders.first.diff() > 0)


def test_a_batch_without_any(tolerance: Tolerance) -> None:
    batch = _mix(OcclusionConfig(probability=1e-9))[0, range(4)]
    assert batch.occluders is not None and len(batch.occluders.offsets) == 0
    bare = batch_to_patches(batch._replace(occluders=None), SIZE, *PLAIN)
    assert torch.equal(batch_to_patches(batch, SIZE, *PLAIN), bare)


# --------------------------------------------------------------------------------------------------- loader


def test_only_the_occluders_are_new() -> None:
    plain, over = _mix(OcclusionConfig())[1, range(12)], _mix(ON)[1, range(12)]
    assert plain.occluders is None and over.occluders is not None
    for a, b in zip(tensors(plain), tensors(over._replace(occluders=None)), strict=True):
        assert torch.equal(a, b)
    skeleton = random_table(1).skeleton
    for a, b in zip(batch_labels(plain, SIZE, skeleton), batch_labels(over, SIZE, skeleton), strict=True):
        assert torch.equal(a, b)


def test_a_repeated_row_is_occluded_anew() -> None:
    batch = _mix(dataclasses.replace(ON, probability=1.0, most=1))[0, [3, 3 + 12]]
    assert batch.occluders is not None and batch.row.tolist() == [3, 3]
    assert not torch.equal(*batch.occluders.affine)


def test_a_batch_moves_with_its_occluders() -> None:
    for config in (ON, OcclusionConfig()):
        batch = _mix(config)[0, range(3)]
        moved = tensors(transfer.pack(batch).to(torch.device("meta")).unpack())
        assert len(moved) == len(tensors(batch)) and all(tensor.is_meta for tensor in moved)


@FEW_CORES
def test_the_same_batches_whatever_the_workers() -> None:
    table, options = random_table(20), {"batch": 5, "seed": 0, "train": True}
    augment = dataclasses.replace(AUGMENT, occlusion=ON)
    alone, crowd = (
        list(make_loader([table], PATCH, DepthConfig(), augment, workers=workers, **options))  # type: ignore[arg-type]
        for workers in (0, 2)
    )
    assert len(alone) == len(crowd) == 4
    for a, b in zip(alone, crowd, strict=True):
        assert a.occluders is not None and len(a.occluders.offsets) > 0
        for x, y in zip(tensors(a), tensors(b), strict=True):
            assert torch.equal(x, y) and x.dtype == y.dtype
    copy: Mix = pickle.loads(pickle.dumps(_mix(ON)))  # as a worker that is not forked gets it
    for x, y in zip(tensors(copy[0, [1, 2]]), tensors(_mix(ON)[0, [1, 2]]), strict=True):
        assert torch.equal(x, y)


def test_evaluation_is_never_occluded() -> None:
    loader = make_loader(
        [random_table(6)], PATCH, DepthConfig(), None, batch=3, workers=0, seed=0, train=False
    )
    assert [batch.occluders for batch in loader] == [None, None]


def test_a_training_step(tmp_path: Path) -> None:
    run = tiny_run("augment.occlusion.probability=0.8")
    trainer = Trainer(run, tmp_path, tiny_data(run, tmp_path))
    batch: Batch = next(iter(trainer.batches))
    assert batch.occluders is not None and (batch.occluders.first.diff() > 0).sum() > 8
    before = [weights.detach().clone() for weights in trainer.network.parameters()]
    loss = trainer.train_batch(batch, run.optimizer.lr)
    assert 0 < loss < 100
    for old, new in zip(before, trainer.network.parameters(), strict=True):
        assert new.isfinite().all() and not torch.equal(old, new)
