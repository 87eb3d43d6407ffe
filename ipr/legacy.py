"""Checkpoints of earlier projects: which network a file holds, and its weights under this package's names.

A file has one of ``LAYOUTS`` if, renamed, nothing is missing in it, unexpected or mis-shaped. No weight is
changed: the volumes of all these projects are joint-major and depth-minor, and what they read out of them is
the same:

* mks0601's Integral (github.com/mks0601/Integral-Human-Pose-Regression-for-3D-Human-Pose-Estimation) sums p
  (i + 1) and subtracts 1, 3DMPPE_POSENET (github.com/mks0601/3DMPPE_POSENET_RELEASE) sums p i: cells counted
  from 0. In both, x is the share cell / cells of the box's width, which is norm + 0.5, and depth is (cell /
  cells * 2 - 1) * 1000 mm, which is norm * 2000 mm: the rule ``rect3d``. POSENET's training does not divide
  depths by the scale that augments a crop, ours does; where nothing is augmented that scale is 1.
* EpipolarPose (github.com/mkocabas/EpipolarPose) has the original's formulas, with 2000 mm.

What differs is the input: mks0601's projects apply ImageNet's mean and deviation of levels 0..1 to levels
0..255 (POSENET's issue 69). ``patch.mean`` and ``patch.std`` say that exactly; the first convolution's
weights could not, because the zeros that it pads with would be another colour.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

import ipr
from ipr import config, loader
from ipr.backbones import resnet
from ipr.checkpoint import CheckpointError, ConfigMissing, some
from ipr.config import ConfigError, DepthConfig, ModelConfig, PatchConfig, RunConfig
from ipr.heads import direct, integral
from ipr.metrics import mpjpe_rescaled
from ipr.skeleton import SKELETONS

# Final layers with fewer channels give 2-D heat maps, one per joint; the smallest volumes known have 16 x 64.
LEAST_VOLUMES = 256
_JOINTS = ("h36m_18", "h36m_17", "mpii_16")  # of mks0601's and EpipolarPose's networks

_TRUNK = {
    f"{part}.": f"backbone.{part}." for part in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
}
_LAST = "head.features.last."  # its number depends on how many deconvolutions come before it
_DECONV = {"deconv_layers.": "head.features.", "final_layer.": _LAST}


def _under(prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    return {prefix + there: here for there, here in names.items()}


@dataclass(frozen=True)
class Layout:
    """How one project names its parameters."""

    name: str
    starts: Mapping[str, str]  # start of a name there -> here; "": has no place here
    holds: Literal["volumes or direct", "volumes", "heat maps", "trunk"]
    # Of a project whose networks have one input; with it go 64 bins, rect3d of 2000 mm and one of _JOINTS.
    input: PatchConfig | None = None


MKS = PatchConfig(height=256, width=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_OTHER_HEADS = ("neck.", "keypoint_head.", "head.fc.", "head.loss_module.")
LAYOUTS = (
    Layout("the original", {"backbone.": "backbone.", "head.": "head."}, "volumes or direct"),
    Layout(
        "mks0601's Integral or 3DMPPE_POSENET",
        {"backbone.": "backbone.", **_under("head.", _DECONV)},
        "volumes",
        MKS,
    ),
    Layout("EpipolarPose", {**_TRUNK, **_DECONV}, "volumes", PatchConfig(height=256, width=256)),
    Layout("simple-baselines", {**_TRUNK, **_DECONV}, "heat maps"),
    Layout("mmpose 0.x", {"backbone.": "backbone.", **_under("keypoint_head.", _DECONV)}, "heat maps"),
    Layout("mmpose 1.x", {"backbone.": "backbone.", **_under("head.", _DECONV)}, "heat maps"),
    Layout("torchvision", {**_TRUNK, "fc.": ""}, "trunk"),
    Layout("a trunk of mmpose", {"backbone.": "backbone.", **dict.fromkeys(_OTHER_HEADS, "")}, "trunk"),
)


@dataclass(frozen=True)
class Found:
    """What a file of another project holds."""

    layout: Layout
    weights: Mapping[str, Tensor]  # under this package's names, those that have a place here
    unused: tuple[str, ...]  # the file's names of the others
    backbone: resnet.Config
    head: integral.Config | direct.Config | None  # depth_bins is 1: the file does not say it
    channels: int  # of the last layer: joints x bins, 3 x joints, or 2-D heat maps; 0 without one

    @property
    def description(self) -> str:
        parts = [f"ResNet-{self.backbone.depth}"]
        if isinstance(self.head, integral.Config):
            parts.append(f"{self.head.deconv_layers} deconvolutions of {self.head.filters} channels")
        if self.layout.holds == "heat maps":
            parts.append(f"{self.channels} 2-D heat maps")
        elif self.head is not None:
            what = "coordinates" if self.head == direct.Config() else "channels of volumes"
            parts.append(f"{self.channels} {what}")
        return f"{self.layout.name}: {', '.join(parts)}"

    @property
    def untrained(self) -> tuple[str, ...]:
        """Starts of the network's names that the file has no weights for."""
        if self.layout.holds == "heat maps":
            assert isinstance(self.head, integral.Config)
            return (f"head.features.{3 * self.head.deconv_layers}.",)
        return ("head.",) if self.layout.holds == "trunk" else ()

    def run(self, path: str | os.PathLike[str]) -> RunConfig:
        """The configuration where the file and its project leave nothing open; ConfigMissing elsewhere."""
        skeleton = next((name for name in _JOINTS if SKELETONS[name].num_joints * 64 == self.channels), None)
        if self.layout.input is None or skeleton is None:
            raise ConfigMissing(
                f"{path} holds no configuration. It is a file of {self.description}. It does not say "
                f"{self._open()}: name a configuration that does (--config)"
            )
        assert isinstance(self.head, integral.Config)
        head = replace(self.head, depth_bins=64)
        return RunConfig(
            skeleton=skeleton,
            patch=self.layout.input,
            depth=DepthConfig(),
            model=ModelConfig(backbone=self.backbone, head=head),
        )

    def _open(self) -> str:
        """What only a configuration can say, with the values it can have."""
        size = "the patch's size (patch: {height, width})"
        if self.untrained:
            lacking = "a head" if self.head is None else "a last layer for volumes"
            return f"what to train, and lacks {lacking}; nor the skeleton nor {size}"
        rule = "the depth rule (depth: {rule: rect3d, extent_mm: ...} for mm, {rule: box} for px)"
        if self.head == direct.Config():
            joints = [s.name for s in SKELETONS.values() if 3 * s.num_joints == self.channels]
            return (
                f"the skeleton ({' or '.join(joints) or 'none known has as many joints'}), {rule} nor {size}"
            )
        splits = [
            f"{s.name} with model.head.depth_bins: {self.channels // s.num_joints}"
            for s in SKELETONS.values()
            if self.channels % s.num_joints == 0
        ]
        if self.layout.input is not None and self.channels % 64 == 0:
            splits.append(
                f"with its project's 64 bins they are {self.channels // 64} joints, as no known skeleton"
            )
        known = " or ".join(splits) or "no known skeleton divides them"
        return f"how the {self.channels} channels split into joints x depth ({known}), {rule} nor {size}"

    def check(self, run: RunConfig, path: str | os.PathLike[str]) -> None:
        """ConfigError where ``run`` contradicts what the project's networks always see and say."""
        wanted = self.layout.input
        if wanted is None:
            return
        if (run.patch.mean, run.patch.std) != (wanted.mean, wanted.std):
            raise ConfigError(
                f"patch.mean, patch.std: {list(run.patch.mean)}, {list(run.patch.std)} given, but {path} is "
                f"a file of {self.layout.name}, whose networks want patch.mean: {list(wanted.mean)} and "
                f"patch.std: {list(wanted.std)}"
            )
        if run.depth.rule != "rect3d":
            raise ConfigError(
                f"depth.rule: {run.depth.rule} given, but {path} is a file of {self.layout.name}, whose "
                "depth is in mm: {rule: rect3d, extent_mm: 2000}"
            )


def read(state: Mapping[str, Any], path: str | os.PathLike[str]) -> Found:
    """What the file ``path``, of which ``checkpoint.load`` made ``state``, holds.

    CheckpointError where it has none of the layouts: how it differs from the closest.
    """
    weights: dict[str, Tensor] = {}
    for name, value in state["network"].items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name} is {type(value).__name__}, must be a tensor")
        weights[name.removeprefix("module.")] = value  # DataParallel put it before every name
    if not weights:
        raise CheckpointError(f"{path} holds no weights")
    tried = [(_compare(layout, weights), layout) for layout in LAYOUTS]
    for (found, differences), layout in tried:
        if not any(differences) and _is_of(layout, found.channels):
            return found
    (_, (missing, unexpected, misshaped)), layout = min(
        tried, key=lambda one: (sum(map(len, one[0][1])), not _is_of(one[1], one[0][0].channels))
    )
    said = [f"missing are {some(missing)}"] if missing else []
    said += [f"unexpected are {some(unexpected)}"] if unexpected else []
    said += [f"mis-shaped are {some(misshaped)}"] if misshaped else []
    raise CheckpointError(
        f"{path} has no known layout. Closest is {layout.name}: {'; '.join(said) or 'its last layer'}. "
        f"Known are {', '.join(layout.name for layout in LAYOUTS)}"
    )


def decoding(state: Mapping[str, Any], run: RunConfig) -> dict[str, Any]:
    """That of a checkpoint; for a file of the original, what it lets its evaluation know."""
    if "config" in state:
        return state.get("decoding", {})
    rule = getattr(run.data.valid, "box_rule", None)  # procedural sets have theirs in the table
    challenge = run.depth.rule == "box" and run.skeleton == "h36m_18"
    return {
        "version": ipr.__version__,
        "skeleton": run.skeleton,
        "patch": config.to_dict(run.patch),
        "box_rule": None if rule is None else rule._asdict(),
        "depth_rule": run.depth.build()._asdict(),
        "depth_unit": loader.DEPTH_UNITS[run.depth.rule],
        "mean_bone_length_mm": mpjpe_rescaled.Config().bone_length_mm if challenge else None,
        "scores": {},
        "baselines": {},
    }


def _is_of(layout: Layout, channels: int) -> bool:
    """Whether a last layer is of the layout's kind: volumes and heat maps have the same names."""
    if layout.holds == "trunk":
        return True
    return (channels < LEAST_VOLUMES) == (layout.holds == "heat maps") or layout.holds == "volumes or direct"


def _compare(layout: Layout, weights: Mapping[str, Tensor]) -> tuple[Found, tuple[list[str], ...]]:
    """(the file read as one of this layout, its names that are (missing, unexpected, mis-shaped))"""
    deconvs = [int(m[1]) for name in weights if (m := re.search(r"deconv_layers\.(\d+)\.weight$", name))]
    last = f"head.features.{3 * (max(deconvs, default=-1) // 3 + 1)}."
    starts = {there: last if here == _LAST else here for there, here in layout.starts.items()}
    known: dict[str, Tensor] = {}
    unexpected, unused = [], []
    for name, tensor in weights.items():
        start = next((start for start in starts if name.startswith(start)), None)
        if start is None:
            unexpected.append(name)
        elif not starts[start]:
            unused.append(name)
        else:
            known[starts[start] + name.removeprefix(start)] = tensor
    backbone, head, channels = _trunk(known), *_head(known, layout)
    expected = _shapes(backbone, head, channels)
    counters = "num_batches_tracked"  # torch 0.4.0 kept none, and nothing reads them

    def there(name: str) -> str:
        fits = [start for start, here in starts.items() if here and name.startswith(here)]
        start = max(fits, key=lambda start: len(starts[start]))
        return start + name.removeprefix(starts[start])

    missing = [there(name) for name in expected if name not in known and not name.endswith(counters)]
    unexpected += [there(name) for name in known if name not in expected]
    misshaped = [
        f"{there(name)} {list(known[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in known and known[name].shape != shape
    ]
    if layout.holds == "heat maps":  # maps trained to be Gaussians are no logits, and have no depth
        dropped = [name for name in known if name.startswith(last)]
        unused += [there(name) for name in dropped]
        known = {name: tensor for name, tensor in known.items() if name not in dropped}
    found = Found(layout, known, tuple(unused), backbone, head, channels)
    return found, (missing, unexpected, misshaped)


def _trunk(weights: Mapping[str, Tensor]) -> resnet.Config:
    """The residual network that the names are most like."""
    blocks = [0, 0, 0, 0]
    for name in weights:
        if match := re.match(r"backbone\.layer([1-4])\.(\d+)\.", name):
            stage = int(match[1]) - 1
            blocks[stage] = max(blocks[stage], int(match[2]) + 1)
    stages = max((stage + 1 for stage in range(4) if blocks[stage]), default=4)
    depths = (50, 101, 152) if "backbone.layer1.0.conv3.weight" in weights else (18, 34)

    def unlike(depth: int) -> int:
        return sum(abs(a - b) for a, b in zip(blocks, resnet.BLOCKS[depth][:stages], strict=False))

    stem = weights.get("backbone.conv1.weight")
    width = stem.shape[0] if stem is not None and stem.dim() == 4 else 64
    return resnet.Config(depth=min(depths, key=unlike), width=width, stages=stages)


def _head(
    weights: Mapping[str, Tensor], layout: Layout
) -> tuple[integral.Config | direct.Config | None, int]:
    """(the head that shapes are most like, channels of its last layer)"""
    if layout.holds == "trunk":
        return None, 0
    linear = weights.get("head.fc.weight")
    if linear is not None and layout.holds == "volumes or direct":
        return direct.Config(), 3 * max(1, linear.shape[0] // 3)
    by_number = {
        int(name.split(".")[2]): tensor
        for name, tensor in weights.items()
        if re.fullmatch(r"head\.features\.\d+\.weight", name) and tensor.dim() == 4
    }
    last = max(by_number, default=9)
    final, first = by_number.get(last), by_number.get(0) if last > 0 else None
    head = integral.Config(
        deconv_layers=last // 3,
        filters=256 if first is None else first.shape[1],
        kernel=4 if first is None or first.shape[2] not in (2, 3, 4) else first.shape[2],
        final_kernel=3 if final is not None and final.shape[2] == 3 else 1,
        depth_bins=1,
    )
    return head, 18 * 64 if final is None else final.shape[0]


def _shapes(
    backbone: resnet.Config, head: integral.Config | direct.Config | None, channels: int
) -> dict[str, torch.Size]:
    with torch.device("meta"):
        trunk = backbone.build()
        parts = nn.ModuleDict({"backbone": trunk})
        if head is not None:
            joints = channels // 3 if isinstance(head, direct.Config) else channels
            parts["head"] = head.build(trunk.out_channels, joints)
    return {name: tensor.shape for name, tensor in parts.state_dict().items()}
