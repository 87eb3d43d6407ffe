"""The schema of a run (frozen dataclasses; the defaults are the embedded run) and its strict YAML reader.

An unknown or repeated key, a wrong type or a value out of range is a ``ConfigError`` that names file and line
(or the command-line override), the dotted path, the value and what would be right.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from ipr import choices
from ipr.sampler import MixConfig
from ipr.skeleton import SKELETONS
from ipr.types import DepthRule

Dataset = Annotated[Any, choices.Choice("datasets")]
Backbone = Annotated[Any, choices.Choice("backbones")]
Head = Annotated[Any, choices.Choice("heads")]
Loss = Annotated[Any, choices.Choice("losses")]
Metric = Annotated[Any, choices.Choice("metrics")]


class ConfigError(ValueError):
    """A configuration that cannot be used as it stands."""


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """Raise the ValueError ``name: ...`` of a field out of range; the reader makes ``name`` a dotted path."""
    if not holds:
        raise ValueError(f"{name}: {value!r} given, must be {wanted}")


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
    cache: bool = True  # render a procedural set once into a file and train from that

    def __post_init__(self) -> None:
        require(len(self.train) >= 1, "train", self.train, "a list of at least one dataset")
        self.mix.check(len(self.train))
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        require(self.workers >= 0, "workers", self.workers, "at least 0")

    def located(self, dataset: Any) -> Any:
        """The dataset's Config with its folder under ``root``; one without a folder comes back as it is."""
        if not hasattr(dataset, "root"):
            return dataset
        return dataclasses.replace(dataset, root=os.path.join(self.root, dataset.root))


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The draw of a training sample: the ECCV 2018 code's distributions, there 0.25, 30, 0.6, 0.5 and 0.2."""

    scale: float = 0.1  # crop size x (1 + scale * clip(N(0, 1), -1, 1))
    rotation: float = 0.0  # degrees x clip(N(0, 1), -2, 2)
    rotation_probability: float = 0.6
    flip: float = 0.5  # probability
    color: float = 0.1  # each channel x U(1 - color, 1 + color)

    def __post_init__(self) -> None:
        require(0 <= self.scale < 1, "scale", self.scale, "in 0..1, below 1")
        require(0 <= self.rotation <= 180, "rotation", self.rotation, "in 0..180 degrees")
        for name in ("rotation_probability", "flip", "color"):
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
    origins = _Origins()
    config = RunConfig() if path is None else _build(RunConfig, _read(path, origins), (), origins)
    config = override(config, overrides, origins)
    root = config.data.root or os.environ.get("IPR_DATA", "")
    return dataclasses.replace(config, data=dataclasses.replace(config.data, root=root))


def override(config: RunConfig, overrides: Sequence[str], origins: _Origins | None = None) -> RunConfig:
    """``config`` with the values of ``dotted.key=value`` words put in."""
    origins, tree = _Origins() if origins is None else origins, to_dict(config)
    for word in overrides:
        _assign(tree, word, origins)
    return typing.cast(RunConfig, _build(RunConfig, tree, (), origins))


def to_dict(config: Any) -> dict[str, Any]:
    """Plain dicts, lists and scalars, every field spelled out; choices carry their ``name``."""
    fields = {item.name: _to_plain(getattr(config, item.name)) for item in dataclasses.fields(config)}
    return fields if (name := choices.name_of(config)) is None else {"name": name, **fields}


def from_dict(tree: dict[str, Any], origin: str = "") -> RunConfig:
    """The run that ``to_dict`` wrote, checked like a file; ``origin`` is what messages call it."""
    return typing.cast(RunConfig, _build(RunConfig, tree, (), _Origins({(): origin})))


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return [_to_plain(item) for item in value] if isinstance(value, tuple) else value


_Path = tuple[str, ...]


class _Origins(dict[_Path, str]):
    """Where values came from: "file:line", or the override."""

    def error(self, path: _Path, message: str) -> ConfigError:
        place = next((self[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self), "")
        return ConfigError(": ".join(part for part in (place, ".".join(path), message) if part))


def _build(hint: Any, value: Any, path: _Path, origins: _Origins) -> Any:
    """``value`` of plain types as the type ``hint``, or a ConfigError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _build_choice(arguments[1].kind, value, path, origins)
    if dataclasses.is_dataclass(hint):
        return _build_section(hint, value, path, origins)
    if origin is Literal:
        if any(value == option and type(value) is type(option) for option in arguments):
            return value
        raise origins.error(path, f"{value!r} is no option, {choices.not_one_of(value, map(str, arguments))}")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise origins.error(path, f"expected a list, got {_shown(value)}")
        hints = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(value) != len(hints):
            raise origins.error(path, f"expected a list of {len(hints)} values, got {len(value)}: {value!r}")
        return tuple(_build(hints[i], item, (*path, str(i)), origins) for i, item in enumerate(value))
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:  # bool is a subclass of int, and True is no number of workers
        quote = ", write it in quotes" if hint is str and type(value) in (int, float, bool) else ""
        raise origins.error(path, f"expected {_TYPES[hint]}, got {_shown(value)}{quote}")
    if hint is float and not math.isfinite(value):
        raise origins.error(path, f"expected a finite number, got {value!r}")
    return value


_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _shown(value: Any) -> str:
    kind = {dict: "a mapping", list: "a list", **_TYPES}.get(type(value), type(value).__name__)
    return "nothing" if value is None else f"{kind} ({value!r})"


def _build_choice(kind: str, value: Any, path: _Path, origins: _Origins) -> Any:
    if not isinstance(value, dict) or "name" not in value:
        example = f"{{name: {choices.names(kind)[0]}, ...}}"
        raise origins.error(path, f"expected a choice of {kind} such as {example}, got {_shown(value)}")
    options = dict(value)
    name = _build(str, options.pop("name"), (*path, "name"), origins)
    try:
        module = choices.load(kind, name)
    except ValueError as error:
        raise origins.error((*path, "name"), str(error).removeprefix("name: ")) from None
    return _build_section(module.Config, options, path, origins)


def _build_section(cls: Any, value: Any, path: _Path, origins: _Origins) -> Any:
    if not isinstance(value, dict):
        raise origins.error(path, f"expected a mapping, got {_shown(value)}")
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {item.name: item for item in dataclasses.fields(cls) if item.init}
    for key in value:
        if key not in fields:
            raise origins.error((*path, str(key)), f"unknown key, {choices.not_one_of(key, fields)}")
    for key, item in fields.items():
        if key not in value and item.default is item.default_factory is dataclasses.MISSING:
            raise origins.error((*path, key), "missing, and it has no default")
    arguments = {key: _build(hints[key], item, (*path, key), origins) for key, item in value.items()}
    try:
        return cls(**arguments)
    except ValueError as error:  # a range check in __post_init__; "field: ..." belongs to that field
        key, colon, rest = str(error).partition(": ")
        if colon and key in fields:
            raise origins.error((*path, key), rest) from None
        raise origins.error(path, str(error)) from None


class _Yaml(yaml.SafeLoader):
    """Scalars as in YAML 1.2: ``1e-3`` is a number; ``no``, ``1:30`` and ``010`` are text."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = {}


for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", list("tf")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _read(path: str | os.PathLike[str], origins: _Origins) -> Any:
    label = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"no UTF-8 text ({error.reason})"
        raise ConfigError(f"{label}: cannot read the configuration: {reason}") from None
    tree = _parse(text, lambda line: f"{label}:{line}", (), origins)
    return {} if tree is None else tree  # a file of comments alone is the default run


def _parse(text: str, place: Callable[[int], str], path: _Path, origins: _Origins) -> Any:
    """The plain values of a YAML text; the ``place`` of each value's line is entered into ``origins``."""
    seen: set[int] = set()

    def plain(node: yaml.Node, path: _Path) -> Any:
        origins[path] = place(node.start_mark.line + 1)
        if id(node) in seen:
            raise origins.error(path, "write the value out, aliases (*name) are not read")
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            return [plain(item, (*path, str(i))) for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return loader.construct_object(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in result:
                origins[*path, key] = place(key_node.start_mark.line + 1)
                raise origins.error((*path, key), "the key is there a second time")
            result[key] = plain(value_node, (*path, key))
        return result

    try:
        loader = _Yaml(text)
        node = loader.get_single_node()
        return None if node is None else plain(node, path)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, KeyError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{place(mark.line + 1 if mark else 1)}: no valid YAML: {reason}") from None


def _assign(tree: Any, override: str, origins: _Origins) -> None:
    """Set one value of the tree by ``dotted.key=value``."""
    label = f"override {override!r}"
    key, _, text = override.partition("=")
    path = tuple(key.strip().split("."))
    if "=" not in override or not all(path):
        raise ConfigError(f"{label}: expected dotted.key=value")
    fresh = _Origins()
    value = _parse(text, lambda _line: label, path, fresh) if text.strip() else ""
    node: Any = [tree]
    slot: Any = 0
    for depth, part in enumerate(path):
        node = node[slot]
        if not isinstance(node, list | dict):
            raise ConfigError(f"{label}: {'.'.join(path[:depth])} is {_shown(node)} and has no {part!r}")
        known = node if isinstance(node, dict) else [str(i) for i in range(len(node))]
        if part not in known and (isinstance(node, list) or depth < len(path) - 1):
            raise ConfigError(f"{label}: unknown key {part!r}, {choices.not_one_of(part, known)}")
        slot = int(part) if isinstance(node, list) else part
    if slot == "name" and node.get("name", value) != value:
        node.clear()  # another part has other options
        path = path[:-1]
    node[slot] = value
    for stale in [old for old in origins if old[: len(path)] == path]:
        del origins[stale]
    origins.update({path: label} | fresh)
