"""From tables to batches: what a worker reads, how rows are ordered, what the device makes of a batch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, cast

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ipr import ops, transfer
from ipr.augment import draw
from ipr.config import AugmentConfig, DepthConfig, PatchConfig
from ipr.distributed import ALONE, Group
from ipr.faults import crops_of, fault, faulty_rows, refuse_faulty, refuse_outside
from ipr.geometry import apply_affine, clip_region, img_to_norm, invert_affine
from ipr.images import ImageError
from ipr.sampler import MixConfig, counts, epoch_rows, replacements
from ipr.types import Batch, Failure, Pixels, PoseTable, Region, Skeleton, Warp

DEPTH_UNITS = {"rect3d": "mm", "box": "px"}  # what each depth rule takes
REPLACEMENTS = 10  # rows that are tried in the place of one that cannot be loaded


def touched_region(
    img_to_patch: np.ndarray, size: tuple[int, int], image_size: tuple[int, int], antialias: bool = False
) -> tuple[Region, float]:
    """The image's pixels that a warp reads, and the resolution it needs (data px per image px, <= 1).

    img_to_patch [2, 3]; both sizes (height, width) px. ``antialias`` samples all of each patch px, not its
    centre alone. ValueError where the warp sees nothing of the image.
    """
    low = -0.5 if antialias else 0.0
    right, bottom = size[1] - 1 - low, size[0] - 1 - low
    corners = np.array([[low, low], [right, low], [low, bottom], [right, bottom]])
    at = apply_affine(invert_affine(img_to_patch), corners)
    scale = min(1.0, float(np.linalg.norm(img_to_patch[:, :2], axis=1).max()))
    # One data pixel on each side: bilinear sampling of a reduced image looks 1/scale image pixels far.
    region = clip_region(at.min(0), at.max(0), image_size, margin=int(np.ceil(1 / scale)))
    # A turned patch may miss the image though the upright rectangle around it does not: then the image lies
    # on one side of it. Bilinear sampling mixes something in up to 1 px beyond the image.
    for (a, b, c), high in zip(img_to_patch.tolist(), (right, bottom), strict=True):
        along_x, along_y = (-a, a * image_size[1]), (-b, b * image_size[0])
        if c + max(along_x) + max(along_y) <= low or c + min(along_x) + min(along_y) >= high:
            raise ValueError(
                f"the crop, as it is turned, lies outside the image of {image_size[1]} x {image_size[0]} px "
                "(width x height)"
            )
    return region, scale


class _Sample(NamedTuple):
    table: int
    row: int
    warp: Warp
    data: np.ndarray  # uint8 [h, w, 3]
    patch_to_region: np.ndarray  # [2, 3]


class Mix(Dataset[Batch]):
    """The rows of several tables, end to end; ``mix[epoch, rows]`` is the batch of those rows.

    A row + its length is the same row, augmented in another way (see ``sampler``). A row that cannot be
    loaded is an error, one with a bad box or label at once. With ``on_error="skip"`` another row of its table
    takes its place, drawn by (seed, epoch, row), and ``Batch.failures`` says so.
    """

    def __init__(
        self,
        tables: Sequence[PoseTable],
        patch: PatchConfig,
        depth: DepthConfig,
        augment: AugmentConfig | None,
        seed: int,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        self.tables = tuple(tables)
        self.size, self.antialias = patch.size, patch.antialias
        self.depth_rule = depth.build()
        self.augment = augment
        self.seed = seed
        self.on_error = on_error
        if not self.tables:
            raise ValueError("no tables: a loader needs at least one")
        unit = DEPTH_UNITS[depth.rule]
        for index, table in enumerate(self.tables):
            if len(table) == 0:
                raise ValueError(f"table {index} is empty: it has no rows to load")
            if table.skeleton != self.tables[0].skeleton:
                raise ValueError(
                    f"table {index} has the skeleton {table.skeleton.name!r}, "
                    f"table 0 {self.tables[0].skeleton.name!r}: the tables of one loader need the same joints"
                )
            if table.depth_unit != unit and table.weight[..., 2].any():
                raise ValueError(
                    f"table {index} has depth in {table.depth_unit}, "
                    f"but the depth rule {depth.rule!r} takes {unit}"
                )
        aspect = patch.width / patch.height
        self.faulty = [faulty_rows(table) for table in self.tables]
        self.crops = []
        for index, (table, faulty) in enumerate(zip(self.tables, self.faulty, strict=True)):
            if on_error == "raise":
                refuse_faulty(table, f"table {index}", faulty)
            self.crops.append(crops_of(table, aspect, faulty))
        self.occlusion = None if augment is None else augment.occlusion.build(patch.size)
        self.first = np.cumsum([0, *(len(table) for table in self.tables)])

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, item: tuple[int, Sequence[int] | np.ndarray]) -> Batch:
        epoch, rows = item
        samples, failures = [], []
        for row in rows:
            sample, failed = self._sample(epoch, int(row))
            samples.append(sample)
            failures += failed
        batch = self._join(samples, tuple(failures))
        if self.occlusion is not None:
            over = [self.occlusion.draw(self.seed, epoch, int(row)) for row in rows]
            batch = batch._replace(occluders=self.occlusion.pack(over))
        return transfer.pack(batch).unpack()  # here, where the pixels are copied for the first time

    def _sample(self, epoch: int, row: int) -> tuple[_Sample, list[Failure]]:
        """The row of the mix, or what takes its place and which rows have failed before."""
        failed: list[Failure] = []
        for index, local in self._candidates(epoch, row):
            try:
                return self._load(epoch, row, index, local), failed
            except Exception as error:
                failure = self._failure(index, local, error)
                if self.on_error == "raise" or not isinstance(error, ValueError | OSError):
                    raise ValueError(str(failure)) from error
                failed.append(failure)
        others = len(failed) - 1
        also = (
            f"nor could {others} in its place, the last: {failed[-1]}" if others else "its table has no other"
        )
        raise ValueError(f"{failed[0]}; {also}")

    def _candidates(self, epoch: int, row: int) -> Iterator[tuple[int, int]]:
        """(table, row of it) to load for a row of the mix, the next where the last has failed."""
        index, local = self._place(row % len(self))
        yield index, local
        size = len(self.tables[index])
        for other in replacements(size, local, REPLACEMENTS, self.seed, epoch, row).tolist():
            yield index, other

    def _load(self, epoch: int, row: int, index: int, local: int) -> _Sample:
        """Row ``local`` of a table, augmented as ``row`` of the mix."""
        table = self.tables[index]
        if self.faulty[index][local]:
            raise ValueError(fault(table, local))
        image_size = table.image.image_size(local)
        refuse_outside(table.boxes_xywh[local], image_size)
        crop = self.crops[index][local]
        warp = draw(self.augment, self.seed, epoch, row, crop, self.size, self.depth_rule)
        region, scale = touched_region(warp.img_to_patch, self.size, image_size, self.antialias)
        read = table.image.read(local, region, scale)
        return _Sample(index, local, warp, read.data, _patch_to_region(warp, read))

    def _failure(self, index: int, local: int, error: Exception) -> Failure:
        if isinstance(error, ImageError):  # it names the file
            return Failure(index, local, str(error))
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        return Failure(index, local, f"{self.tables[index].image.name(local)}: {kind}{error}")

    def _place(self, row: int) -> tuple[int, int]:
        """(table, row of that table) of a row of the mix."""
        index = int(np.searchsorted(self.first, row, side="right")) - 1
        return index, row - int(self.first[index])

    def _join(self, samples: list[_Sample], failures: tuple[Failure, ...]) -> Batch:
        _, _, warps, pixels, maps = zip(*samples, strict=True)
        lengths = [data.size for data in pixels]
        rows = [(self.tables[sample.table], sample.row) for sample in samples]
        gamma = np.array([warp.gamma for warp in warps], np.float32)
        return Batch(
            pixels=cast(Tensor, transfer.Pieces(pixels)),
            offsets=torch.from_numpy(np.cumsum([0, *lengths[:-1]])),
            sizes=torch.tensor([data.shape[:2] for data in pixels], dtype=torch.int32),
            patch_to_region=torch.from_numpy(np.stack(maps).astype(np.float32)),
            color=torch.from_numpy(np.stack([warp.color for warp in warps]).astype(np.float32)),
            img_to_patch=torch.from_numpy(np.stack([warp.img_to_patch for warp in warps])),
            flip=torch.tensor([warp.flip for warp in warps]),
            depth_scale=torch.tensor([warp.depth_scale for warp in warps], dtype=torch.float64),
            joints_img=torch.from_numpy(np.stack([t.joints_img[i] for t, i in rows]).astype(np.float64)),
            depth=torch.from_numpy(np.stack([t.depth[i] for t, i in rows]).astype(np.float64)),
            weight=torch.from_numpy(np.stack([t.weight[i] for t, i in rows]).astype(np.float32)),
            row=torch.tensor([sample.row for sample in samples]),
            table=torch.tensor([sample.table for sample in samples]),
            gamma=torch.from_numpy(gamma) if (gamma != 1).any() else None,
            failures=failures,
        )


def _patch_to_region(warp: Warp, pixels: Pixels) -> np.ndarray:
    """[2, 3] patch px -> px of the data that was read."""
    affine = invert_affine(warp.img_to_patch)
    affine[:, 2] -= pixels.origin
    return affine * pixels.scale


class EpochSampler(Sampler[tuple[int, np.ndarray]]):
    """(epoch, rows) of each batch: the rows of the mix for (seed, epoch), or every row once in its order.

    Batches differ by at most one row in size, so that none is so small that it upsets the training. The
    batches of ``world`` processes are those of one process with ``world * batch``; each takes a part, and the
    parts differ by at most one row too. ``set_epoch`` takes effect when the next iteration starts; the epoch
    travels with the rows because workers outlive it.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch: int,
        seed: int,
        mix: MixConfig | None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """``sizes``: rows of each table; ``mix``: None for evaluation."""
        self.sizes, self.batch, self.seed, self.mix = tuple(sizes), batch, seed, mix
        self.rank, self.world = rank, world
        self.num_rows = sum(sizes if mix is None else counts(sizes, mix))
        self.epoch = self.done = 0

    def set_epoch(self, epoch: int, done: int = 0) -> None:
        """``done``: batches of the epoch that were trained on before; the iteration goes on behind them."""
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        """Batches of the whole epoch."""
        # One person per process at least: with batch = 1, even batches may otherwise be too small for that.
        return min(-(-self.num_rows // (self.batch * self.world)), max(1, self.num_rows // self.world))

    def people(self) -> list[int]:
        """Rows of each batch of an epoch, those of all processes together."""
        return [len(part) for part in np.array_split(np.arange(self.num_rows), len(self))]

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        epoch = self.epoch
        if self.mix is None:
            rows = np.arange(self.num_rows)
        else:
            rows = epoch_rows(self.sizes, self.mix, self.seed, epoch)
        for part in np.array_split(rows, len(self))[self.done :]:
            own = np.array_split(part, self.world)[self.rank]
            if len(own):  # there may be fewer rows to evaluate than processes
                yield epoch, own


def start_worker(_: int = 0) -> None:
    """One thread in each worker process: they are many already, and OpenMP's pool does not survive a fork."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    sys.excepthook = _unless_abandoned


def _unless_abandoned(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A thread that hands tensors over dies when Ctrl-C ends the other side: that needs no traceback."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


class Loader:
    """Batches on the device in the order of ``sampler``; ``len()`` is their number in a whole epoch."""

    def __init__(self, packed: DataLoader[Batch], sampler: EpochSampler, device: torch.device) -> None:
        self.packed, self.sampler, self.device = packed, sampler, device

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        return transfer.on_device(iter(self.packed), self.device)


def make_loader(
    tables: Sequence[PoseTable],
    patch: PatchConfig,
    depth: DepthConfig,
    augment: AugmentConfig | None,
    *,
    batch: int,
    workers: int,
    seed: int,
    train: bool,
    epoch: int = 0,
    group: Group = ALONE,
    mixed: MixConfig | None = None,
    device: torch.device | str = "cpu",
    on_error: Literal["raise", "skip"] = "raise",
) -> Loader:
    """Batches of at most ``batch`` rows on the ``device``, this process's share.

    ``train`` draws the rows as ``mixed`` says (None: each once); evaluation passes ``augment=None`` for
    centred warps and gets the rows in order.
    Before each further epoch call ``loader.sampler.set_epoch(epoch)``: the batches are a function of (seed,
    epoch), not of the number of workers. An error names the table's row and the image; see :class:`Mix` for
    ``on_error``.
    """
    mix = Mix(tables, patch, depth, augment, seed, on_error)
    drawn = (mixed or MixConfig()) if train else None
    sampler = EpochSampler(list(map(len, tables)), batch, seed, drawn, group.rank, group.world)
    if train and sampler.num_rows < group.world:
        raise ValueError(f"{sampler.num_rows} rows to train on are too few for {group.world} processes")
    sampler.set_epoch(epoch)
    device = torch.device(device)
    packed = DataLoader(
        mix,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        collate_fn=transfer.pack,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # of the workers' seeds: the run's own state is a checkpoint's business
    )
    return Loader(packed, sampler, device)


def batch_to_patches(
    batch: Batch,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    antialias: bool = False,
    channels_last: bool = False,
) -> Tensor:
    """The network's input, float32 [B, 3, h, w]; mean and std [3] in grey levels, on the batch's device.

    ``antialias`` as the batch was loaded with; ``channels_last``: memory as [B, h, w, 3].
    """
    regions = batch.pixels, batch.offsets, batch.sizes, batch.patch_to_region
    return ops.warp_patch(
        *(*regions, size, mean, std, batch.color),
        gamma=batch.gamma,
        occluders=batch.occluders,
        antialias=antialias,
        channels_last=channels_last,
    )


def batch_labels(batch: Batch, size: tuple[int, int], skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """joints_norm [B, J, 3] and weight [B, J, 3], float32; left and right swapped where mirrored."""
    joints_norm = img_to_norm(batch.joints_img, batch.depth, batch.img_to_patch, batch.depth_scale, size)
    own = torch.arange(skeleton.num_joints, device=batch.flip.device)
    twin = torch.tensor(skeleton.flip_permutation, device=batch.flip.device)
    order = torch.where(batch.flip[:, None], twin, own)[..., None].expand(-1, -1, 3)  # [B, J, 3]
    return joints_norm.float().gather(1, order), batch.weight.gather(1, order)
