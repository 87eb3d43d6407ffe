"""From tables to patches and labels: geometry, determinism, coverage and errors of the loader."""

from __future__ import annotations

import dataclasses
import traceback
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ipr import faults, loader, ops
from ipr.config import AugmentConfig, DepthConfig, PatchConfig
from ipr.geometry import crop_affine, invert_affine
from ipr.loader import EpochSampler, Loader, Mix, batch_labels, batch_to_patches, make_loader, touched_region
from ipr.sampler import MixConfig
from ipr.types import Batch, Pixels, PoseTable, Region
from tests.data import AUGMENT, ArrayImages, random_images, random_table, tensors

PATCH = PatchConfig(height=48, width=40)
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
GOLDEN = Path(__file__).parent / "golden"
COLORLESS = dataclasses.replace(AUGMENT, color=0.0)
# The results must not depend on it, so two workers are right on one core too.
FEW_CORES = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def _mix(*tables: PoseTable, augment: AugmentConfig | None = COLORLESS, patch: PatchConfig = PATCH) -> Mix:
    return Mix(tables, patch, DepthConfig(), augment, seed=0)


def _loader(*tables: PoseTable, **options: Any) -> Loader:
    plain: dict[str, Any] = {"augment": AUGMENT, "batch": 5, "workers": 0, "seed": 0, "train": True}
    return make_loader(tables, PATCH, DepthConfig(), **(plain | options))


def _epoch(loader: Loader, epoch: int) -> list[Batch]:
    loader.sampler.set_epoch(epoch)
    return list(loader)


def _same(a: Batch, b: Batch) -> bool:
    pairs = zip(tensors(a), tensors(b), strict=True)
    return a.failures == b.failures and all(torch.equal(x, y) and x.dtype == y.dtype for x, y in pairs)


def _patches(batch: Batch) -> torch.Tensor:
    return batch_to_patches(batch, PATCH.size, *PLAIN)


class Broken(ArrayImages):
    """Its third image cannot be read."""

    def read(self, row: int, region: Region, scale: float) -> Pixels:
        if row == 2:
            raise OSError("truncated file")
        return super().read(row, region, scale)


class Reduced(ArrayImages):
    """Reads as coarsely as asked: a data pixel is the mean of n x n image pixels, n = floor(1 / scale)."""

    def read(self, row: int, region: Region, scale: float) -> Pixels:
        step = int(1 / scale)
        x0, y0, width, height = region
        data = self.images[row, y0 : y0 + height, x0 : x0 + width]
        data = data[: height // step * step, : width // step * step]
        data = cv2.resize(data, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
        middle = (step - 1) / 2
        return Pixels(data, (x0 + middle, y0 + middle), 1 / step)


# ------------------------------------------------------------------------------------------ pixels and labels


@pytest.mark.parametrize("augment", [None, COLORLESS], ids=["centred", "augmented"])
def test_painted_dots_land_on_their_labels(augment: AugmentConfig | None) -> None:
    count, joint, (height, width) = 40, 13, (120, 160)  # the left wrist
    table = random_table(count, (height, width))
    ys, xs = np.mgrid[:height, :width]
    at = table.joints_img[:, joint, :, None, None]
    table = dataclasses.replace(
        table,
        # Every box is around its dot, off centre, so that the whole dot is seen in the patch and inside the
        # image.
        boxes_xywh=np.concatenate([table.joints_img[:, joint] - [28, 22], np.full((count, 2), 50.0)], 1),
        image=ArrayImages(
            np.repeat(
                255 * np.exp(-((xs - at[:, 0]) ** 2 + (ys - at[:, 1]) ** 2) / 18)[..., None], 3, 3
            ).astype(np.uint8)
        ),
    )
    batch = _mix(table, augment=augment)[3, range(count)]
    labels, _ = batch_labels(batch, PATCH.size, table.skeleton)
    twin = table.skeleton.flip_permutation[joint]
    assert twin != joint and (augment is None or 10 < int(batch.flip.sum()) < 30)
    light = _patches(batch).double().mean(1)  # [B, h, w]
    inside = (table.joints_img[:, joint] > 12).all(1) & (
        table.joints_img[:, joint] < [width - 13, height - 13]
    ).all(1)
    assert inside.sum() > 20
    for person in np.flatnonzero(inside):
        v, u = np.mgrid[: PATCH.height, : PATCH.width]
        weight = light[person].numpy()
        centroid = np.array([(u * weight).sum(), (v * weight).sum()]) / weight.sum()
        label = labels[person, twin if batch.flip[person] else joint, :2].numpy()
        np.testing.assert_allclose((label + 0.5) * [PATCH.width, PATCH.height], centroid, rtol=0, atol=0.05)


def test_a_region_holds_all_that_its_warp_sees() -> None:
    table = random_table(30)
    batch = _mix(table, augment=AUGMENT)[0, range(30)]
    image_size = table.image.image_size(0)
    assert int(batch.sizes.prod(1).min()) < 0.5 * image_size[0] * image_size[1]  # no whole images
    patches = _patches(batch)
    assert isinstance(table.image, ArrayImages)
    for person in range(30):
        whole = cv2.warpAffine(
            table.image.images[person].astype(np.float32),
            batch.img_to_patch[person].numpy(),
            (PATCH.width, PATCH.height),
            flags=cv2.INTER_LINEAR,
        )
        whole = np.clip(whole @ batch.color[person, :, :3].numpy().T, 0, 255).transpose(2, 0, 1)
        # OpenCV rounds coordinates; a whole column of the region missing would be tens of levels.
        assert np.abs(patches[person].numpy() - whole).mean() < 0.5
        assert np.abs(patches[person].numpy() - whole).max() < 30


def test_a_reduced_image_lands_where_the_full_one_does() -> None:
    count, (height, width) = 6, (360, 480)
    # Slopes, which averaging and interpolation leave alone: only a shift would show (half a data pixel as 2
    # levels).
    ramps = np.zeros((count, height, width, 3), np.uint8)
    ramps[..., 0], ramps[..., 1] = np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None]
    boxes = np.tile([160.0, 84.0, 160.0, 192.0], (count, 1))
    table = dataclasses.replace(random_table(count, (height, width), images=ramps), boxes_xywh=boxes)
    augment = AugmentConfig(scale=0.1, rotation=10.0, color=0.0)
    full = _mix(table, augment=augment)[0, range(count)]
    reduced = _mix(dataclasses.replace(table, image=Reduced(ramps)), augment=augment)[0, range(count)]
    assert reduced.pixels.numel() < 0.1 * full.pixels.numel()
    assert torch.equal(full.img_to_patch, reduced.img_to_patch)
    assert _patches(full).amin((0, 2, 3))[:2].min() > 10  # no border of the image in sight
    assert (_patches(full) - _patches(reduced)).abs().max() <= 1


def test_touched_region() -> None:
    affine = crop_affine(np.array([80.0, 60.0, 40.0, 48.0]), (48, 40))
    assert touched_region(affine, (48, 40), (120, 160)) == (Region(59, 35, 42, 50), 1.0)
    affine = crop_affine(np.array([80.0, 60.0, 80.0, 96.0]), (48, 40))
    assert touched_region(affine, (48, 40), (120, 160)) == (Region(38, 10, 83, 99), 0.5)


def test_colour_that_is_a_factor_of_each_channel_changes_no_bit() -> None:
    """Without the options of tone, patches are what the operator makes of three factors."""
    batch = _mix(random_table(8), augment=AUGMENT)[1, range(8)]
    regions = batch.pixels, batch.offsets, batch.sizes, batch.patch_to_region
    factors = batch.color[:, :, :3].diagonal(dim1=1, dim2=2).contiguous()
    assert batch.gamma is None and (factors - 1).abs().max() > 0.1
    assert torch.equal(_patches(batch), ops.warp_patch(*regions, PATCH.size, *PLAIN, factors))


def test_gamma_reaches_the_patches() -> None:
    plain, toned = (
        _mix(random_table(8), augment=dataclasses.replace(COLORLESS, gamma=gamma))[1, range(8)]
        for gamma in (0.0, 0.5)
    )
    assert toned.gamma is not None and toned.gamma.shape == (8,)
    expected = 255 * (_patches(plain) / 255) ** toned.gamma[:, None, None, None]
    torch.testing.assert_close(_patches(toned), expected, rtol=0, atol=4)


@pytest.mark.parametrize("augment", [None, COLORLESS], ids=["centred", "augmented"])
def test_antialiased_regions_hold_all_that_is_averaged(augment: AugmentConfig | None) -> None:
    """Patches of the regions are those of whole images, up to the last row: 8 image px per patch px."""
    table = random_table(10, (360, 480))
    boxes = np.tile([160.0, 84.0, 160.0, 192.0], (10, 1))
    table, patch = dataclasses.replace(table, boxes_xywh=boxes), PatchConfig(height=30, width=25)
    smooth = dataclasses.replace(patch, antialias=True)
    batch = _mix(table, augment=augment, patch=smooth)[2, range(10)]
    patches = batch_to_patches(batch, patch.size, *PLAIN, antialias=True)
    assert isinstance(table.image, ArrayImages)
    images = table.image.images
    whole = (
        torch.from_numpy(images).flatten(),
        torch.arange(10) * images[0].size,
        torch.tensor([images.shape[1:3]] * 10, dtype=torch.int32),
        torch.from_numpy(invert_affine(batch.img_to_patch.numpy())).float(),
    )
    expected = ops.warp_patch(*whole, patch.size, *PLAIN, antialias=True)
    torch.testing.assert_close(patches, expected, rtol=0, atol=0.1)
    plain = batch_to_patches(batch, patch.size, *PLAIN)
    assert plain.std() > patches.std() + 5  # the mean of 8 x 8 px in the place of one of them
    # A region of the plain warp would not have been enough.
    narrow = _mix(table, augment=augment, patch=patch)[2, range(10)]
    assert (narrow.sizes <= batch.sizes).all() and narrow.sizes.sum() < batch.sizes.sum()


def test_labels_of_a_mirrored_sample_are_the_originals() -> None:
    golden = np.load(GOLDEN / "patch" / "fliplr_joints.npz")
    width, joints, weight = int(golden["width"]), golden["joints"], golden["vis"]
    table = random_table(1)
    batch = _mix(table)[0, [0]]._replace(
        joints_img=torch.from_numpy(joints[None, :, :2]),
        depth=torch.from_numpy(joints[None, :, 2]),
        weight=torch.from_numpy(weight[None]).float(),
        flip=torch.tensor([True]),
        depth_scale=torch.tensor([1 / width], dtype=torch.float64),
        # A patch of the whole image, moved so that the mirrored column 0 is column 0 of the patch.
        img_to_patch=torch.from_numpy(
            crop_affine(np.array([width / 2 - 1, width / 2, width, width]), (width, width), flip=True)
        )[None],
    )
    labels, mirrored_weight = batch_labels(batch, (width, width), table.skeleton)
    norm = labels[0].double().numpy() * width + [width / 2, width / 2, 0]
    seen = golden["out_vis"] > 0
    np.testing.assert_allclose(norm[seen], golden["out_joints"][seen], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(mirrored_weight[0].numpy(), golden["out_vis"])


def test_flip_twice_is_the_identity() -> None:
    """The mirrored picture of the mirrored person, mirrored by the warp, is the plain sample."""
    table = random_table(10)
    assert isinstance(table.image, ArrayImages)
    order, width = list(table.skeleton.flip_permutation), table.image.images.shape[2]
    x, y, box_width, box_height = table.boxes_xywh.T
    mirror = np.array([-1.0, 1.0])
    other = dataclasses.replace(
        table,
        image=ArrayImages(table.image.images[:, :, ::-1]),
        boxes_xywh=np.stack([width - 1 - x - box_width, y, box_width, box_height], 1),
        joints_img=(table.joints_img * mirror + [width - 1, 0])[:, order],
        depth=table.depth[:, order],
        weight=table.weight[:, order],
    )
    plain = _mix(table, augment=dataclasses.replace(AUGMENT, flip=0.0))[1, range(10)]
    twice = _mix(other, augment=dataclasses.replace(AUGMENT, flip=1.0))[1, range(10)]
    assert twice.flip.all() and not plain.flip.any()
    torch.testing.assert_close(_patches(plain), _patches(twice), rtol=0, atol=0.02)
    for a, b in zip(
        batch_labels(plain, PATCH.size, table.skeleton),
        batch_labels(twice, PATCH.size, table.skeleton),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------- order and epochs


@FEW_CORES
def test_the_same_batches_whatever_the_workers() -> None:
    tables = random_table(12), random_table(7, seed=1)
    alone, crowd = _loader(*tables), _loader(*tables, workers=2)
    for epoch in (0, 1):
        batches = _epoch(alone, epoch)
        assert len(batches) == len(alone) == 4
        assert all(_same(a, b) for a, b in zip(batches, _epoch(crowd, epoch), strict=True))


@FEW_CORES
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_was_left_goes_on_behind_its_last_batch(workers: int) -> None:
    """Whatever the workers have read ahead."""
    loader = _loader(random_table(24), workers=workers)
    whole = _epoch(loader, 1)
    loader.sampler.set_epoch(1)
    started = iter(loader)
    assert all(_same(next(started), batch) for batch in whole[:2])
    loader.sampler.set_epoch(1, done=2)
    assert all(_same(a, b) for a, b in zip(loader, whole[2:], strict=True))


@FEW_CORES
def test_a_worker_hands_over_one_piece_of_memory() -> None:
    for batch in _loader(random_table(12), workers=2):
        assert len({tensor.untyped_storage().data_ptr() for tensor in tensors(batch)}) == 1
        assert batch.pixels.untyped_storage().is_shared()


def test_a_resumed_run_sees_the_same_batches() -> None:
    table = random_table(12)
    whole, resumed = _loader(table), _loader(table, epoch=2)
    epochs = [_epoch(whole, epoch) for epoch in range(3)]
    assert all(_same(a, b) for a, b in zip(epochs[2], resumed, strict=True))
    assert not any(_same(a, b) for a, b in zip(epochs[1], epochs[2], strict=True))


def test_a_rows_sample_is_the_same_in_any_batch() -> None:
    mix = _mix(random_table(12))
    many, one = mix[4, [8, 3, 5]], mix[4, [3]]
    assert torch.equal(many.img_to_patch[1], one.img_to_patch[0])
    assert torch.equal(_patches(many)[1], _patches(one)[0])
    assert not torch.equal(mix[5, [3]].img_to_patch, one.img_to_patch)


def test_tables_do_not_share_their_draws() -> None:
    table = random_table(12)
    batch = _mix(table, table, augment=AUGMENT)[0, [3, 12 + 3]]
    assert batch.table.tolist() == [0, 1] and batch.row.tolist() == [3, 3]
    assert not torch.equal(batch.color[0], batch.color[1])


def test_every_row_of_every_table_once_per_epoch() -> None:
    loader = _loader(random_table(12), random_table(7, seed=1))
    expected = [(0, row) for row in range(12)] + [(1, row) for row in range(7)]
    orders = []
    for epoch in range(3):
        batches = _epoch(loader, epoch)
        assert {len(batch.row) for batch in batches} == {4, 5}
        orders.append(
            [pair for batch in batches for pair in zip(batch.table.tolist(), batch.row.tolist(), strict=True)]
        )
        assert sorted(orders[-1]) == expected
    assert orders[0] != orders[1] != orders[2]


def test_evaluation_is_in_order_and_centred() -> None:
    table = random_table(12)
    batches = list(_loader(table, augment=None, train=False))
    assert torch.cat([batch.row for batch in batches]).tolist() == list(range(12))
    assert all(torch.equal(color, torch.eye(3, 4)) for batch in batches for color in batch.color)
    assert all(batch.gamma is None for batch in batches)
    labels = torch.cat([batch_labels(batch, PATCH.size, table.skeleton)[0] for batch in batches])
    joints = (labels[..., :2].double().numpy() + 0.5) * [PATCH.width, PATCH.height]
    # The padded box holds every joint, and the raw box fills 1 / 1.25 of its longer side.
    span = (joints.max(1) - joints.min(1)) / [PATCH.width, PATCH.height]
    np.testing.assert_allclose(span.max(1), 0.8, atol=1e-6)


def test_sampler_seeds_differ() -> None:
    orders = [
        np.concatenate([rows for _, rows in EpochSampler([50], 8, seed, MixConfig())]) for seed in (0, 0, 1)
    ]
    assert np.array_equal(orders[0], orders[1]) and not np.array_equal(orders[0], orders[2])


# ----------------------------------------------------------------------------------------------------- errors


@FEW_CORES
@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named(workers: int) -> None:
    table = dataclasses.replace(random_table(6), image=Broken(random_images(6, (120, 160))))
    with pytest.raises(ValueError, match="row 2 of table 1, picture 2: OSError: truncated file") as caught:
        list(_loader(random_table(4), table, workers=workers))
    traceback.clear_frames(caught.tb)  # else torch's workers live, and delay, until a garbage collection


def test_a_crop_outside_the_image_is_named() -> None:
    table = random_table(6)
    boxes = table.boxes_xywh.copy()
    boxes[4, 0] += 1000
    with pytest.raises(ValueError, match=r"row 4 of table 0, picture 4: .*outside the image of 160 x 120 px"):
        list(_loader(dataclasses.replace(table, boxes_xywh=boxes)))


def test_tables_that_do_not_fit_are_refused() -> None:
    table, empty = random_table(6), random_table(0)
    with pytest.raises(ValueError, match="no tables"):
        _mix()
    with pytest.raises(ValueError, match="table 1 is empty"):
        _mix(table, empty)
    with pytest.raises(ValueError, match="table 1 has the skeleton 'mpii_16', table 0 'h36m_18'"):
        _mix(table, random_table(6, skeleton="mpii_16"))
    pixels = random_table(6, depth_unit="px")
    with pytest.raises(ValueError, match="table 1 has depth in px, but the depth rule 'rect3d' takes mm"):
        _mix(table, pixels)
    flat = dataclasses.replace(pixels, weight=pixels.weight * [1, 1, 0])
    assert len(_mix(table, flat)) == 12  # a depth that does not count may have any unit


def test_bad_rows_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large table that reads all labels, from the disk."""
    looked: list[int] = []
    original = loader.faulty_rows
    for module in (loader, faults):
        monkeypatch.setattr(
            module, "faulty_rows", lambda table: (looked.append(len(table)), original(table))[1]
        )
    make_loader(
        [random_table(5), random_table(7)], PATCH, DepthConfig(), None, batch=4, workers=0, seed=0, train=True
    )
    assert looked == [5, 7]
