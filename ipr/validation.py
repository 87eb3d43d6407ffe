"""The tables of a run, what networks say of their rows, and the scores: for training and evaluation alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from ipr import choices, config, faults, loader, table_cache
from ipr.cache import CacheableSource, CropCache
from ipr.config import AugmentConfig, ConfigError, PatchConfig, RunConfig
from ipr.decode import decode
from ipr.distributed import ALONE, Group
from ipr.images import FileImages
from ipr.retarget import to_skeleton
from ipr.skeleton import by_name
from ipr.types import Batch, NetworkOutput, Poses, PoseTable, Skeleton

# How much wider than its crop a procedural image is stored, because training turns and enlarges the crop. The
# corners of the largest warps stay black: to show them all would take half as many pixels again.
TRAIN_MARGIN, VALID_MARGIN = 0.5, 0.1
# Stored px per patch px of a file's crop, and those that are left where training enlarges it most. With 1,
# patches are up to 8 dB worse than from the file, because they are resampled twice; with these, never worse.
FILE_DENSITY, LEAST_DENSITY = 1.5, 1.125
MEASURED = Path(__file__).parent / "datasets"


class RunError(ValueError):
    """The run cannot start or go on."""


class Data(NamedTuple):
    train: tuple[PoseTable, ...]
    valid: PoseTable


def pick_device() -> torch.device:
    """The GPU where there is one and the operators have kernels for it, otherwise the CPU."""
    compiled = torch._C._dispatch_has_kernel_for_dispatch_key("ipr::softmax_integral", "CUDA")
    return torch.device("cuda" if compiled and torch.cuda.is_available() else "cpu")


def settle(run: RunConfig) -> RunConfig:
    """The run with what depends on this machine decided, so that its checkpoints say what was used.

    ``precision: auto`` becomes bf16 on GPUs from Ampere on and on processors with AMX, else fp32: without
    matrix units, bf16 slows narrow trunks down.
    """
    if run.model.precision != "auto":
        return run
    if pick_device().type == "cuda":
        native = torch.cuda.get_device_capability() >= (8, 0)
    else:
        native = torch.cpu._is_amx_tile_supported()
    return replace(run, model=replace(run.model, precision="bf16" if native else "fp32"))


def load_data(run: RunConfig, cache: Path) -> Data:
    """``cache``: where the crops of procedural sets are stored, unless ``data.cache`` says otherwise."""
    train = (
        load_table(run, dataset, f"data.train.{i}", run.augment, cache)
        for i, dataset in enumerate(run.data.train)
    )
    return Data(tuple(train), load_valid(run, cache))


def load_valid(run: RunConfig, cache: Path) -> PoseTable:
    return load_table(run, run.data.valid, "data.valid", None, cache)


def read_table(run: RunConfig, dataset: Any, name: str) -> PoseTable:
    """The rows of one dataset with the run's joints and its own images; ``name`` is its dotted path.

    That of a dataset with ``sources()`` comes from the table cache (unless ``data.cache`` is "off"), which is
    in the directory ``data.cache``, or else in the user's own.
    """
    located = run.data.located(dataset)

    def build() -> PoseTable:
        table: PoseTable = located.build()
        if len(table) == 0:
            raise RunError(f"{name} is empty: {config.to_dict(dataset)} has no rows")
        try:
            return to_skeleton(table, by_name(run.skeleton))
        except ValueError as error:
            raise ConfigError(f"{name}, skeleton: {error}") from None

    if run.data.cache == "off" or not hasattr(located, "sources"):
        table = build()
    else:
        folder = Path(run.data.cache) / "tables" if run.data.cache else None
        table = table_cache.stored(build, located, by_name(run.skeleton), folder)
    if table.depth_unit != loader.DEPTH_UNITS[run.depth.rule] and table.weight[..., 2].any():
        raise ConfigError(
            f"depth.rule: {run.depth.rule} takes depth in {loader.DEPTH_UNITS[run.depth.rule]}, "
            f"but {name} has it in {table.depth_unit}"
        )
    return table


def load_table(
    run: RunConfig, dataset: Any, name: str, augment: AugmentConfig | None, cache: Path
) -> PoseTable:
    """:func:`read_table`, with stored crops for images; ``augment``: what its warps are drawn from.

    Where ``data.cache`` is "", the crops of procedural sets are stored in ``cache``; where it is a directory,
    those of all sets are stored there, in a folder per set and settings.
    """
    table = read_table(run, dataset, name)
    of_files = isinstance(table.image, FileImages)
    stored = run.data.cache != "off" and (run.data.cache or not of_files)
    if not stored or not hasattr(table.image, "fingerprint"):
        return table
    most_missing = run.data.max_failures if augment is not None and run.data.on_error == "skip" else 0.0
    faulty = faults.faulty_rows(table)
    if most_missing == 0:  # before many crops are stored for nothing
        faults.refuse_faulty(table, name, faulty)
    crops = faults.crops_of(table, run.patch.width / run.patch.height, faulty)
    margin, density = (VALID_MARGIN if augment is None else TRAIN_MARGIN), 1.0
    if of_files:
        margin, density = file_crops(run.patch, augment)
    size = round(max(run.patch.size) * (1 + margin) * density)
    settings = json.dumps([config.to_dict(run.data.located(dataset)), run.patch.size, margin, density])
    known = f"{choices.name_of(dataset) or 'crops'}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
    folder = Path(run.data.cache or cache) / known
    source = cast(CacheableSource, table.image)
    cached = CropCache(source, crops, size, margin, folder, most_missing=most_missing)
    return replace(table, image=cached)


def file_crops(patch: PatchConfig, augment: AugmentConfig | None) -> tuple[float, float]:
    """(margin, stored px per patch px) with which warps of stored crops are as good as those of the files.

    All that the largest warp sees is there, and a pixel around it.
    """
    if augment is None:
        return 4 / min(patch.size), FILE_DENSITY
    angle = np.radians(min(2 * augment.rotation, 45.0))  # at most; a square is widest at 45 degrees
    widest = (1 + augment.scale) * float(np.cos(angle) + np.sin(angle))
    return widest * (1 + 4 / min(patch.size)) - 1, max(FILE_DENSITY, LEAST_DENSITY / (1 - augment.scale))


def decoding_length(run: RunConfig, decoding: Mapping[str, Any]) -> float | None:
    """mm of the skeleton's bones in total, of use without a camera: a metric's own, or a checkpoint's."""
    for metric in run.metrics:
        if (stated := getattr(metric, "bone_length_mm", None)) is not None:
            return stated
    return decoding.get("mean_bone_length_mm")


def bone_length_mm(tables: Sequence[PoseTable]) -> float | None:
    """Mean over people of the skeleton's total length; None where no table has joints in camera space."""
    lengths = [
        np.linalg.norm(part - part[:, table.skeleton.parents], axis=-1).sum(1)
        for table in tables
        for part in _parts(table.joints_cam)
    ]
    return float(np.concatenate(lengths).mean()) if lengths else None


def _parts(joints_cam: np.ndarray | None) -> Iterator[np.ndarray]:
    """Some rows at a time: those of a large table are mapped, and arithmetic makes copies."""
    if joints_cam is not None:
        for first in range(0, len(joints_cam), 2**16):
            yield joints_cam[first : first + 2**16]


# ---------------------------------------------------------------------------------------- from rows to scores


def forward(
    networks: Sequence[nn.Module],
    batch: Batch,
    run: RunConfig,
    *,
    flip: bool = False,
    ensemble: str = "mean",
) -> NetworkOutput:
    """Coordinates of a batch: averaged over networks and, with ``flip``, patches and their mirror images.

    ``ensemble``: see :func:`average`; a network's patches and mirror images have the same weight.
    """
    patch = run.patch
    patches = loader.batch_to_patches(
        batch, patch.size, patch.mean, patch.std, patch.antialias, run.model.channels_last
    )
    outputs = []
    with torch.autocast(patches.device.type, torch.bfloat16, enabled=run.model.precision == "bf16"):
        for network in networks:
            output = network(patches)
            if flip:
                mirrored = mirror(network(patches.flip(-1)), run.patch.width, by_name(run.skeleton))
                output = average([output, mirrored])
            outputs.append(output)
    return average(outputs, ensemble)


def mirror(output: NetworkOutput, width: int, skeleton: Skeleton) -> NetworkOutput:
    """The output of mirrored patches, for the patches: x -> width - 1 - x px, left and right swapped."""
    twin = list(skeleton.flip_permutation)
    x, y, z = output.joints_norm[:, twin].unbind(-1)
    sigma = None if output.sigma_norm is None else output.sigma_norm[:, twin]
    score = None if output.score is None else output.score[:, twin]
    return NetworkOutput(torch.stack((-x - 1 / width, y, z), -1), sigma, score)


def average(outputs: Sequence[NetworkOutput], rule: str = "mean") -> NetworkOutput:
    """The mean of the coordinates; of sigma and score too where all outputs have them.

    With ``rule="inverse_variance"``, coordinates and sigmas are weighted with 1 / sigma^2, joint by joint and
    axis by axis: best where the outputs' errors are independent and sigma is their standard deviation.
    """
    if len(outputs) == 1:
        return outputs[0]
    joints_norm = torch.stack([output.joints_norm for output in outputs])
    sigma_norm = _stack([output.sigma_norm for output in outputs])
    score = _stack([output.score for output in outputs])
    if rule == "inverse_variance":
        if sigma_norm is None:
            raise RunError(
                "ensemble=inverse_variance needs the volumes' sigma, and a head here has no volume"
            )
        weight = sigma_norm.square().reciprocal()
        weight = weight / weight.sum(0)
        joints_norm, sigma_norm = (joints_norm * weight).sum(0), (sigma_norm * weight).sum(0)
    else:
        joints_norm = joints_norm.mean(0)
        sigma_norm = None if sigma_norm is None else sigma_norm.mean(0)
    return NetworkOutput(joints_norm, sigma_norm, None if score is None else score.mean(0))


def _stack(values: Sequence[Tensor | None]) -> Tensor | None:
    known = [value for value in values if value is not None]
    return torch.stack(known) if len(known) == len(values) else None


@torch.inference_mode()
def predict(
    networks: Sequence[nn.Module],
    table: PoseTable,
    run: RunConfig,
    *,
    flip: bool = False,
    ensemble: str = "mean",
    mean_bone_length_mm: float | None = None,
    group: Group = ALONE,
) -> Poses:
    """Poses of all rows of the table, in its order; each process of the group computes some, all get all."""
    device = next(networks[0].parameters()).device
    for network in networks:
        network.eval()
    batches = loader.make_loader(
        [table],
        run.patch,
        run.depth,
        None,
        batch=run.data.batch,
        workers=run.data.workers,
        seed=run.seed,
        train=False,
        group=group,
        device=device,
    )
    own = []
    for batch in batches:
        output = forward(networks, batch, run, flip=flip, ensemble=ensemble)
        found = (  # marginals are for losses, and large
            *(batch.row, output.joints_norm, output.sigma_norm, output.score),
            *(batch.img_to_patch, batch.depth_scale),
        )
        # Copies: a tensor of the batch would keep all of it, with its pixels.
        own.append([None if value is None else value.to("cpu", copy=True) for value in found])
    parts = [part for parts in group.gather(own) for part in parts]
    rows, joints_norm, sigma_norm, scores, maps, scales = map(_cat, zip(*parts, strict=True))
    assert rows is not None and joints_norm is not None and maps is not None and scales is not None
    order = rows.argsort()  # each row once: the processes' shares are disjoint
    joints_norm, maps, scales = joints_norm[order], maps[order], scales[order]
    output = NetworkOutput(
        joints_norm,
        None if sigma_norm is None else sigma_norm[order],
        None if scores is None else scores[order],
    )
    if bad := int((~output.joints_norm.isfinite().all(2).all(1)).sum()):
        raise group.error(
            RunError(
                f"the network's coordinates are not finite for {bad} of {len(table)} people: "
                "its weights are broken (in training, a lower optimizer.lr may help)"
            )
        )
    return decode(
        output,
        maps,
        scales,
        run.patch.size,
        table.skeleton,
        camera=table.camera,
        root_depth=table.root_depth,
        mean_bone_length_mm=mean_bone_length_mm,
        depth_unit=table.depth_unit,
    )


def _cat(values: Sequence[Tensor | None]) -> Tensor | None:
    known = [value for value in values if value is not None]
    return torch.cat(known) if len(known) == len(values) else None


def score(poses: Poses, table: PoseTable, run: RunConfig) -> dict[str, float]:
    """The numbers of all metrics of the run; the first one is what the best checkpoint is chosen by."""
    scores: dict[str, float] = {}
    for index, metric in enumerate(run.metrics):
        found = metric.build()(poses, table)
        if twice := sorted(scores.keys() & found.keys()):
            raise ConfigError(f"metrics.{index}: an earlier metric says {twice[0]!r} already")
        scores |= found
    return scores


def to_minimize(scores: Mapping[str, float], run: RunConfig) -> float:
    """The first score, with its sign changed where more is better."""
    first = next(iter(scores.values()))
    return -first if run.metrics[0].build().higher_is_better else first


# -------------------------------------------------------------------------------------------------- baselines


def baselines(data: Data, run: RunConfig) -> dict[str, dict[str, float]]:
    """What predictors reach that see less than the picture, by name: scores as of :func:`score`."""
    found = {}
    if data.valid.joints_cam is not None and any(table.joints_cam is not None for table in data.train):
        judges = tuple(metric for metric in run.metrics if not metric.build().of_pictures)
        if judges:
            found["mean pose"] = score(mean_pose(data), data.valid, replace(run, metrics=judges))
    return found | measured_baselines(run)


def mean_pose(data: Data) -> Poses:
    """The mean of the training poses, in camera axes from the root, said of all validation people."""
    known = [table for table in data.train if table.joints_cam is not None]
    total = sum(
        (part - part[:, [table.skeleton.root]]).sum(0) for table in known for part in _parts(table.joints_cam)
    )
    num_people, num_joints = data.valid.depth.shape
    joints_rel = np.broadcast_to(total / sum(map(len, known)), (num_people, num_joints, 3))
    unknown = np.full_like(joints_rel, np.nan)
    return Poses(
        joints_img=unknown[..., :2],
        joints_rel=joints_rel,
        joints_cam=None,
        sigma=unknown,
        score=unknown[..., 0],
        box_index=np.arange(num_people),
        scale_source="intrinsics",
    )


def saved_baselines(state: Mapping[str, Any], run: RunConfig) -> dict[str, dict[str, float]]:
    """Those of a checkpoint, where ``run`` has its rows and metrics; otherwise the measured ones."""
    own, asked = state.get("config", {}), config.to_dict(run)
    same_rows = own.get("data", {}).get("valid") == asked["data"]["valid"]
    if same_rows and own.get("metrics") == asked["metrics"]:
        return state["decoding"]["baselines"]
    return measured_baselines(run)


def measured_baselines(run: RunConfig, folder: Path = MEASURED) -> dict[str, dict[str, float]]:
    """Those of ``<folder>/<name>_baselines.json``: networks fed less than the picture, measured once.

    The file: {"valid": the dataset's options, "measured": provenance, "baselines": {name: scores}}. It
    answers for no other rows than its own, and only for the default metrics.
    """
    file = folder / f"{choices.name_of(run.data.valid)}_baselines.json"
    if not file.is_file() or run.metrics != RunConfig().metrics:
        return {}
    content = json.loads(file.read_text())
    return content["baselines"] if content["valid"] == config.to_dict(run.data.valid) else {}
