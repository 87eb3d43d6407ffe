"""The schema of a run: frozen dataclasses, whose defaults are the embedded run; ``strict_yaml`` reads them.

An unknown or repeated key, a wrong type or a value out of range is a ``ConfigError`` that names file and line
(or the command-line override), the dotted path, the value and what would be right.
"""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ipr import choices
from ipr.occlusion import OcclusionConfig
from ipr.sampler import MixConfig
from ipr.skeleton import SKELETONS
from ipr.strict_yaml import ConfigError as ConfigError
from ipr.strict_yaml import Origins, assign, build, read
from ipr.strict_yaml import require as require
from ipr.strict_yaml import to_dict as to_dict
from ipr.types import DepthRule

Dataset = Annotated[Any, choices.Choice("datasets")]
Backbone = Annotated[Any, choices.Choice("backbones")]
Head = Annotated[Any, choices.Choice("heads")]
Loss = Annotated[Any, choices.Choice("losses")]
Metric = Annotated[Any, choices.Choice("metrics")]


def _part(kind: str, name: str, **options: Any) -> Callable[[], Any]:
    """A default that is a choice, imported when it is asked for: this module depends on no part."""
    return lambda: choices.load(kind, name).Config(**options)


_TRAIN: dict[str, Any] = {"split": "train", "count": 20000}
_TRUNK: dict[str, Any] = {"depth": 18, "width": 32, "stages": 3, "stem_pool": False}
_HEAD: dict[str, Any] = {"deconv_layers": 1, "filters": 64, "depth_bins": 16, "init": "scratch"}


@dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """The network's input: [3, height, width] RGB, (grey level - mean) / std with grey levels 0..255."""

    height: int = 64  # px
    width: int = 64  # px
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # ImageNet's
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    antialias: bool = False  # a px is the mean of the image px that it covers; off as in the ECCV 2018 code

    def __post_init__(self) -> None:
        require(self.height >= 1, "height", self.height, "at least 1 px")
        require(self.width >= 1, "width", self.width, "at least 1 px")
        require(min(self.std) > 0, "std", self.std, "positive")

    @property
    def size(self) -> tuple[int, int]:  # (height, width) px
        return self.height, self.width


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """How depth becomes norm units: see ``types.DepthRule``."""

    rule: Literal["rect3d", "box"] = "rect3d"
    extent_mm: float = 2000.0  # used by rect3d only

    def __post_init__(self) -> None:
        require(self.extent_mm > 0, "extent_mm", self.extent_mm, "positive")

    def build(self) -> DepthRule:
        return DepthRule(self.rule, self.extent_mm)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on, what is validated on, and how rows reach the network."""

    root: str = ""  # the folder of the datasets' folders; ``load`` fills it from the environment's IPR_DATA
    train: tuple[Dataset, ...] = field(default_factory=lambda: (_part("datasets", "synthetic", **_TRAIN)(),))
    mix: MixConfig = field(default_factory=MixConfig)
    valid: Dataset = field(default_factory=_part("datasets", "synthetic", split="valid", count=1000))
    batch: int = 64  # people per step of one process: N processes take steps of N x batch, at the same lr
    workers: int = 0  # loader processes; 0 reads in the training process
    # Where crops are stored once and read from: "" those of procedural sets in the run's own directory; a
    # directory those of all sets, for all runs that name it; "off" none. Tables of labels that were read from
    # files are stored with them, in the folder tables, and with "" in ~/.cache/ipr/tables.
    cache: str = ""
    # In training, a row that cannot be loaded is an error, or counted, logged and replaced by another of its
    # table. Evaluation, which has no other rows, always stops.
    on_error: Literal["raise", "skip"] = "skip"
    max_failures: float = 0.01  # share of all rows tried so far; skip, above it, stops the run

    def __post_init__(self) -> None:
        require(len(self.train) >= 1, "train", self.train, "a list of at least one dataset")
        self.mix.check(len(self.train))
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        require(self.workers >= 0, "workers", self.workers, "at least 0")
        require(0 <= self.max_failures <= 1, "max_failures", self.max_failures, "a share in 0..1")
        # What it was before it could be a directory; in quotes, as the reader wants text
        require(self.cache not in ("true", "false"), "cache", self.cache, "'', 'off' or a directory")

    def located(self, dataset: Any) -> Any:
        """The dataset's Config with its folder under ``root``; one without a folder comes back as it is."""
        if not hasattr(dataset, "root"):
            return dataset
        return dataclasses.replace(dataset, root=os.path.join(self.root, dataset.root))


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The draw of a training sample: the ECCV 2018 code's distributions, there 0.25, 30, 0.6, 0.5 and 0.2.

    The four of tone are not in that code. Colours change in the order of the fields, clipped to 0..255 once,
    before gamma.
    """

    scale: float = 0.1  # crop size x (1 + scale * clip(N(0, 1), -1, 1))
    rotation: float = 0.0  # degrees x clip(N(0, 1), -2, 2)
    rotation_probability: float = 0.6
    flip: float = 0.5  # probability
    color: float = 0.1  # each channel x U(1 - color, 1 + color)
    brightness: float = 0.0  # all channels x U(1 - brightness, 1 + brightness)
    contrast: float = 0.0  # distance from the grey level 127.5 x U(1 - contrast, 1 + contrast)
    saturation: float = 0.0  # distance from the pixel's own grey x U(1 - saturation, 1 + saturation)
    gamma: float = 0.0  # grey level / 255 to the power of U(1 - gamma, 1 + gamma)
    occlusion: OcclusionConfig = field(default_factory=OcclusionConfig)

    def __post_init__(self) -> None:
        require(0 <= self.scale < 1, "scale", self.scale, "in 0..1, below 1")
        require(0 <= self.rotation <= 180, "rotation", self.rotation, "in 0..180 degrees")
        require(0 <= self.gamma < 1, "gamma", self.gamma, "in 0..1, below 1")
        for name in ("rotation_probability", "flip", "color", "brightness", "contrast", "saturation"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in 0..1")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Trunk and head, and how they are run."""

    backbone: Backbone = field(default_factory=_part("backbones", "resnet", **_TRUNK))
    head: Head = field(default_factory=_part("heads", "integral", **_HEAD))
    weights: str = ""  # checkpoint of the whole network to start from; "" leaves it to the parts
    channels_last: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the device has matrix units for it


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam."""

    lr: float = 5e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", self.lr, "positive")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Length of the run and course of the learning rate."""

    epochs: int = 12
    kind: Literal["milestones", "cosine"] = "cosine"
    milestones: tuple[int, ...] = ()  # epochs, counted from 1, that already run with the lower rate
    factor: float = 0.1  # of the rate at each milestone
    warmup_steps: int = 200  # linear from 0 at the start of the run

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(0 < self.factor <= 1, "factor", self.factor, "in 0..1, above 0")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "at least 0")
        rising = all(a < b for a, b in zip((0, *self.milestones), self.milestones, strict=False))
        require(rising, "milestones", self.milestones, "increasing epochs, counted from 1")
        if self.kind == "milestones":
            inside = bool(self.milestones) and self.milestones[-1] <= self.epochs
            require(inside, "milestones", self.milestones, f"some of the run's epochs 1..{self.epochs}")
        else:
            require(not self.milestones, "milestones", self.milestones, f"left out with kind: {self.kind}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run."""

    skeleton: str = "h36m_18"  # joints that the network predicts: see ipr/skeleton.py
    seed: int = 0
    patch: PatchConfig = field(default_factory=PatchConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: Loss = field(default_factory=_part("losses", "l1_marginals"))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    metrics: tuple[Metric, ...] = field(default_factory=lambda: (_part("metrics", "mpjpe")(),))

    def __post_init__(self) -> None:
        require(self.skeleton in SKELETONS, "skeleton", self.skeleton, f"one of {', '.join(SKELETONS)}")
        require(0 <= self.seed < 2**63, "seed", self.seed, "in 0..2^63 - 1")
        require(len(self.metrics) >= 1, "metrics", self.metrics, "a list of at least one metric")


def load(path: str | os.PathLike[str] | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The run of a YAML file (None: the embedded default) with ``dotted.key=value`` overrides.

    The value is YAML, a number in the key a list's index; another ``name`` resets a choice's options. The
    environment's IPR_DATA fills an empty ``data.root``.
    """
    origins = Origins()
    config = RunConfig() if path is None else build(RunConfig, read(path, origins), (), origins)
    config = override(config, overrides, origins)
    root = config.data.root or os.environ.get("IPR_DATA", "")
    return dataclasses.replace(config, data=dataclasses.replace(config.data, root=root))


def override(config: RunConfig, overrides: Sequence[str], origins: Origins | None = None) -> RunConfig:
    """``config`` with the values of ``dotted.key=value`` words put in."""
    origins, tree = Origins() if origins is None else origins, to_dict(config)
    for word in overrides:
        assign(tree, word, origins)
    return typing.cast(RunConfig, build(RunConfig, tree, (), origins))


def from_dict(tree: dict[str, Any], origin: str = "") -> RunConfig:
    """The run that ``to_dict`` wrote, checked like a file; ``origin`` is what messages call it.

    Of an earlier version, ``data.cache`` is true or false, which are now "" and "off".
    """
    data = tree.get("data")
    if isinstance(data, dict) and isinstance(data.get("cache"), bool):
        tree = tree | {"data": data | {"cache": "" if data["cache"] else "off"}}
    return typing.cast(RunConfig, build(RunConfig, tree, (), Origins({(): origin})))
