"""Files of earlier projects: true names and shapes are recognised, and the same joints come out."""

from __future__ import annotations

import dataclasses
import gzip
import io
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ipr
from ipr import checkpoint, config, geometry, legacy, model
from ipr.backbones import resnet
from ipr.checkpoint import CheckpointError, ConfigMissing
from ipr.config import ConfigError, DepthConfig, ModelConfig, PatchConfig, RunConfig
from ipr.decode import decode
from ipr.heads import direct, integral
from ipr.skeleton import by_name
from ipr.types import BoxRule, Camera
from tests.conftest import Tolerance

LAYOUTS = Path(__file__).parent / "golden" / "checkpoint" / "layouts"
ORIGINAL = LAYOUTS.parent / "state_dict_keys"
TRUNK = resnet.Config(depth=18, width=16)
HEAD = integral.Config(deconv_layers=3, filters=16, depth_bins=64)


def listed(path: Path) -> dict[str, Tensor]:
    """A state dict of a list's names and shapes, each tensor one number's memory."""
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    shapes = {name: () if shape == "scalar" else map(int, shape.split("x")) for name, shape, *_ in rows}
    return {name: torch.zeros(()).expand(tuple(shape)) for name, shape in shapes.items()}


def renamed(state: dict[str, Tensor], *pairs: tuple[str, str]) -> dict[str, Tensor]:
    """``state`` with the first start of each name that is among ``pairs`` replaced."""
    found = {}
    for name, tensor in state.items():
        start, other = next(((a, b) for a, b in pairs if name.startswith(a)), ("", ""))
        found[other + name.removeprefix(start)] = tensor
    return found


def flat_to(trunk: str, head: str) -> tuple[tuple[str, str], ...]:
    """From simple-baselines' names to those of a project that keeps trunk and head apart."""
    return ("deconv_layers.", f"{head}deconv_layers."), ("final_layer.", f"{head}final_layer."), ("", trunk)


SIMPLE = "simple_baselines_r152_coco_j17"
TORCHVISION = {
    **{k: v for k, v in listed(LAYOUTS / f"{SIMPLE}.txt.gz").items() if "_layer" not in k.partition(".")[0]},
    "fc.weight": torch.zeros(1000, 2048),
    "fc.bias": torch.zeros(1000),
}
IN_MMPOSE = renamed(TORCHVISION, ("fc.", "head.fc."), ("", "backbone."))
FILES: dict[str, tuple[dict[str, Any], str]] = {
    "mks0601_integral_r50_j18": (
        {"epoch": 16, "optimizer": {}, "scheduler": {}},
        "mks0601's Integral or 3DMPPE_POSENET: ResNet-50, 3 deconvolutions of 256 channels, 1152 channels of",
    ),
    "posenet_r50_j18": (
        {"epoch": 24, "optimizer": {}},
        "mks0601's Integral or 3DMPPE_POSENET: ResNet-50, 3 deconvolutions of 256 channels, 1152 channels of",
    ),
    "epipolarpose_r50_j17": (
        {"epoch": 140, "model": ("pose3d_resnet_50", "x"), "perf": np.float64(0.5)},
        "EpipolarPose: ResNet-50, 3 deconvolutions of 256 channels, 1088 channels of volumes",
    ),
    "epipolarpose_r18_mpii_j16": (
        {},
        "EpipolarPose: ResNet-18, 3 deconvolutions of 256 channels, 1024 channels of volumes",
    ),
    "simple_baselines_r50_mpii_j16": (
        {"epoch": 140, "perf": np.float64(88.5)},
        "simple-baselines: ResNet-50, 3 deconvolutions of 256 channels, 16 2-D heat maps",
    ),
    SIMPLE: ({}, "simple-baselines: ResNet-152, 3 deconvolutions of 256 channels, 17 2-D heat maps"),
}


@pytest.mark.parametrize("name", FILES)
def test_true_names_and_shapes(tmp_path: Path, name: str) -> None:
    others, description = FILES[name]
    state, path = listed(LAYOUTS / f"{name}.txt.gz"), tmp_path / "old.pth.tar"
    key = "network" if "scheduler" in others or "posenet" in name else "state_dict"
    torch.save({**others, key: state} if others else state, path)
    found = legacy.read(checkpoint.load(path), path)
    assert found.description.startswith(description)
    if found.layout.holds == "volumes":
        joints = int(name.rpartition("_j")[2])
        run = found.run(path)
        assert run.skeleton == {18: "h36m_18", 17: "h36m_17", 16: "mpii_16"}[joints]
        assert run.model.head == integral.Config() and run.model.backbone.width == 64
    maps = [] if found.layout.holds != "heat maps" else ["final_layer.weight", "final_layer.bias"]
    assert list(found.unused) == maps
    assert len(found.weights) + len(found.unused) == len(state)


@pytest.mark.parametrize("path", sorted(ORIGINAL.glob("*.txt.gz")), ids=lambda path: path.name)
@pytest.mark.parametrize("counters", [True, False], ids=["torch 1", "torch 0.4.0"])
def test_true_names_and_shapes_of_the_original(path: Path, counters: bool) -> None:
    state = listed(path)
    if not counters:
        state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    found = legacy.read({"network": state}, path)
    depth, bins = int(path.name[1:4].rstrip("_")), 72 if "_d72_" in path.name else 64
    last = "54 coordinates" if "direct" in path.name else f"{18 * bins} channels of volumes"
    assert found.description.startswith(f"the original: ResNet-{depth}, ") and last in found.description
    assert len(found.weights) == len(state) and not found.unused and not found.untrained


@pytest.mark.parametrize(
    ("state", "layout", "unused"),
    [
        (
            renamed(listed(LAYOUTS / f"{SIMPLE}.txt.gz"), *flat_to("backbone.", "keypoint_head.")),
            "mmpose 0.x: ResNet-152, 3 deconvolutions of 256 channels, 17 2-D heat maps",
            ("keypoint_head.final_layer.weight", "keypoint_head.final_layer.bias"),
        ),
        (
            renamed(listed(LAYOUTS / f"{SIMPLE}.txt.gz"), *flat_to("backbone.", "head.")),
            "mmpose 1.x: ResNet-152, 3 deconvolutions of 256 channels, 17 2-D heat maps",
            ("head.final_layer.weight", "head.final_layer.bias"),
        ),
        (TORCHVISION, "torchvision: ResNet-152", ("fc.weight", "fc.bias")),
        (IN_MMPOSE, "a trunk of mmpose: ResNet-152", ("head.fc.weight", "head.fc.bias")),
    ],
    ids=["mmpose 0.x", "mmpose 1.x", "torchvision", "mmpretrain"],
)
def test_trunks(state: dict[str, Tensor], layout: str, unused: tuple[str, ...]) -> None:
    found = legacy.read({"network": state}, "old.pth")
    assert (found.description, found.unused) == (layout, unused)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head.final_layer.bias": None}, "Closest is mks0601's .* missing are head.final_layer.bias"),
        ({"head.extra.weight": (3,)}, "Closest is mks0601's .* unexpected are head.extra.weight"),
        (
            {"backbone.conv1.weight": (64, 3, 3, 3)},
            r"Closest is mks0601's .* mis-shaped are backbone.conv1.weight \[64, 3, 3, 3\] instead of "
            r"\[64, 3, 7, 7\]",
        ),
        (
            {"head.deconv_layers.3.weight": (256, 256, 3, 3), "backbone.bn1.bias": None},
            r"missing are backbone.bn1.bias; mis-shaped are head.deconv_layers.3.weight",
        ),
    ],
)
def test_damaged(change: dict[str, Any], said: str) -> None:
    state = renamed(listed(LAYOUTS / "posenet_r50_j18.txt.gz"), ("module.", ""))
    for name, shape in change.items():
        if shape is None:
            del state[name]
        else:
            state[name] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=rf"old\.pth has no known layout\. {'.*' + said}"):
        legacy.read({"network": state}, "old.pth")


def test_no_network_of_these_projects() -> None:
    heads = listed(LAYOUTS / "epipolarpose_r50_depth_fc.txt.gz")
    with pytest.raises(CheckpointError, match=r"unexpected are depth_fc\.weight, depth_fc\.bias"):
        legacy.read({"network": heads}, "old.pth")
    lifting = {"w1.weight": torch.zeros(1024, 32), "w1.bias": torch.zeros(1024)}
    with pytest.raises(CheckpointError, match=r"missing are .* and \d+ more; unexpected are w1\.weight, w1"):
        legacy.read({"network": lifting}, "refiner.pth.tar")
    with pytest.raises(CheckpointError, match="holds no weights"):
        legacy.read({"network": {}}, "old.pth")
    with pytest.raises(CheckpointError, match=r"old\.pth: epoch is int, must be a tensor"):
        legacy.read({"network": {"epoch": 3}}, "old.pth")


# ------------------------------------------------------------------------------- the same joints come out


class Theirs:
    """A small network with weights of a project's names, and the plain way from its heat map to mm."""

    def __init__(self, project: str, joints: int) -> None:
        trunk, channels = TRUNK.build(), TRUNK.width * 8
        deconvs: list[nn.Module] = []
        for _ in range(3):
            deconvs += [nn.ConvTranspose2d(channels, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
            channels = 16
        self.parts = {"backbone": trunk, "deconv_layers": nn.Sequential(*deconvs)}
        self.parts["final_layer"] = nn.Conv2d(16, joints * 64, 1)
        for part in self.parts.values():
            for name, tensor in part.state_dict().items():
                if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
                    tensor.uniform_(0.5, 1.5)
                elif tensor.dim() == 1:
                    tensor.normal_(0, 0.2)
        self.project, self.joints = project, joints
        if project != "EpipolarPose":
            self.parts["backbone"].conv1.weight.data /= 255  # they see levels 255 times as large
        final = self.parts["final_layer"]
        final.weight.data *= 3 / self.volumes(self.patches(1)).std().item()  # neither flat nor one-hot

    @property
    def levels(self) -> tuple[list[float], list[float]]:
        """mean and standard deviation that it subtracts from and divides levels 0..255 by."""
        if self.project == "EpipolarPose":
            return [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
        return [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

    def patches(self, batch: int) -> Tensor:
        mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in self.levels)
        return (torch.randint(0, 256, (batch, 3, 256, 256)).double() - mean) / std

    def state(self) -> dict[str, Any]:
        flat = self.project == "EpipolarPose"
        prefix = {"backbone": "" if flat else "backbone."}
        weights = {
            f"module.{prefix.get(part, ('' if flat else 'head.') + part + '.')}{name}": tensor.clone()
            for part, module in self.parts.items()
            for name, tensor in module.state_dict().items()
        }
        return {"epoch": 1, "state_dict" if flat else "network": weights, "optimizer": {}}

    def volumes(self, patches: Tensor) -> Tensor:
        """[B,J,D,H,W] logits, in float64."""
        x = patches
        for module in self.parts.values():
            x = module.double().eval()(x)
        return x.reshape(len(x), self.joints, 64, *x.shape[-2:])

    def decoded(self, patches: Tensor, box_xywh: np.ndarray, root_depth: float, camera: Camera) -> np.ndarray:
        """[B,J,6] x, y px of the image, z mm from the root, and X, Y, Z mm of the camera's space."""
        volumes = self.volumes(patches)
        p = F.softmax(volumes.flatten(2), 2).view(volumes.shape)
        first = 1.0 if self.project == "Integral" else 0.0
        cells = [
            (p.sum(axes) * (torch.arange(p.shape[axis]) + first)).sum(-1) - first
            for axis, axes in ((4, (2, 3)), (3, (2, 4)), (2, (3, 4)))
        ]
        x, y, z = (value.numpy() for value in cells)
        height, width = volumes.shape[-2:]
        bx, by, bw, bh = box_xywh
        if self.project == "EpipolarPose":  # by way of the patch
            u, v = (x / width - 0.5 + 0.5) * 256, (y / height - 0.5 + 0.5) * 256
            px, py = u / 256 * bw + bx, v / 256 * bh + by
            mm = (z / 64 - 0.5) * 256 / 256 * 2000
        else:
            px, py = x / width * bw + bx, y / height * bh + by
            mm = (z / 64 * 2 - 1) * (2000 / 2)
        depth = mm + root_depth
        lifted = [(v - camera.center[0, i]) / camera.focal[0, i] * depth for i, v in enumerate((px, py))]
        return np.stack([px, py, mm, *lifted, depth], -1)


@pytest.mark.parametrize(
    ("project", "joints", "skeleton"),
    [("Integral", 18, "h36m_18"), ("POSENET", 18, "h36m_18"), ("EpipolarPose", 17, "h36m_17")],
)
def test_their_decoding_and_ours(
    tmp_path: Path, project: str, joints: int, skeleton: str, tolerance: Tolerance
) -> None:
    theirs, path = Theirs(project, joints), tmp_path / "old.pth.tar"
    torch.save(theirs.state(), path)
    found = legacy.read(checkpoint.load(path), path)
    run = found.run(path)
    assert (run.skeleton, run.patch.size) == (skeleton, (256, 256))
    assert run.depth == DepthConfig(rule="rect3d", extent_mm=2000)
    network = ipr.load_network(path).double()

    assert (list(run.patch.mean), list(run.patch.std)) == theirs.levels
    patches = theirs.patches(2)
    box, root_depth = np.array([310.5, 122.25, 402.0, 402.0]), 4321.0
    camera = Camera(
        focal=np.array([[1145.0, 1143.8]]),
        center=np.array([[512.5, 515.4]]),
        R=np.eye(3)[None],
        t=np.zeros((1, 3)),
    )
    with torch.no_grad():
        expected = theirs.decoded(patches, box, root_depth, camera)
        output = network(patches)
    assert expected[..., :3].std(0).mean() > 1 and np.ptp(expected[..., 2]) > 100
    crop = geometry.crop_box(box[None], BoxRule(pad=1.0), 1.0)[0]
    maps = np.stack([geometry.crop_affine(crop, run.patch.size)] * 2)
    scale = geometry.depth_scale(run.depth.build(), crop[2])
    poses = decode(
        output,
        torch.from_numpy(maps),
        torch.tensor([scale, scale], dtype=torch.float64),
        run.patch.size,
        by_name(skeleton),
        camera=Camera(*(None if v is None else np.repeat(v, 2, 0) for v in camera)),
        root_depth=np.array([root_depth, root_depth]),
    )
    assert poses.joints_cam is not None
    np.testing.assert_allclose(poses.joints_img, expected[..., :2], rtol=0, atol=tolerance.metric)
    np.testing.assert_allclose(poses.joints_cam[..., 2] - root_depth, expected[..., 2], rtol=0, atol=1e-6)
    np.testing.assert_allclose(poses.joints_cam, expected[..., 3:], rtol=0, atol=tolerance.metric)


@pytest.mark.parametrize("project", ["Integral", "EpipolarPose"])
def test_a_configuration_that_contradicts_the_file(tmp_path: Path, project: str) -> None:
    theirs = Theirs(project, 17)
    torch.save(theirs.state(), tmp_path / "old.pth.tar")
    right = legacy.read(checkpoint.load(tmp_path / "old.pth.tar"), "old").run("old")
    for field, other, said in (
        ("patch", PatchConfig(mean=(127.5, 127.5, 127.5)), r"patch\.mean.*127\.5.*want patch\.mean: \["),
        ("depth", DepthConfig(rule="box"), r"depth\.rule: box given.*rect3d"),
    ):
        with pytest.raises(ConfigError, match=said):
            ipr.load_network(tmp_path / "old.pth.tar", dataclasses.replace(right, **{field: other}))
    larger = dataclasses.replace(right.patch, height=320, width=256)
    ipr.load_network(tmp_path / "old.pth.tar", dataclasses.replace(right, patch=larger))


# ----------------------------------------------------------------------------- what a file cannot say


def of_original(head: Any, **trunk: Any) -> dict[str, Any]:
    run = RunConfig(model=ModelConfig(backbone=dataclasses.replace(TRUNK, **trunk), head=head))
    weights = model.build(run).state_dict()
    return {"epoch": 1, "network": {f"module.{name}": tensor for name, tensor in weights.items()}}


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (
            HEAD,
            r"the original: ResNet-18, 3 deconvolutions of 16 channels, 1152 channels of volumes\. It does "
            r"not say how the 1152 channels split into joints x depth \(h36m_18 with model\.head\.depth_bins:"
            r" 64 or mpii_16 with model\.head\.depth_bins: 72\), the depth rule .*rect3d.*box.* nor the "
            r"patch's size",
        ),
        (
            direct.Config(),
            r"54 coordinates\. It does not say the skeleton \(h36m_18\), the depth rule.*the patch's size",
        ),
    ],
)
def test_the_original_asks(tmp_path: Path, head: Any, said: str) -> None:
    torch.save(of_original(head), tmp_path / "old.pth.tar")
    with pytest.raises(ConfigMissing, match=r"old\.pth\.tar holds no configuration.*" + said) as caught:
        ipr.load_network(tmp_path / "old.pth.tar")
    assert "(--config)" in str(caught.value)


def test_joints_of_no_known_skeleton(tmp_path: Path) -> None:
    torch.save(Theirs("POSENET", 21).state(), tmp_path / "muco.pth.tar")
    with pytest.raises(ConfigMissing, match=r"1344 channels.* 64 bins.* 21 joints, as no known skel"):
        ipr.load_network(tmp_path / "muco.pth.tar")


# ------------------------------------------------------------------------------------ a start for training


def maps_state(width: int = 16) -> dict[str, Tensor]:
    trunk = dataclasses.replace(TRUNK, width=width).build().state_dict()
    net = (
        integral.Config(deconv_layers=3, filters=16, depth_bins=1).build(width * 8, 16).features.state_dict()
    )
    head = renamed(net, ("9.", "final_layer."), ("", "deconv_layers."))
    return {**trunk, **head}


@pytest.mark.parametrize("kind", ["heat maps", "trunk"])
def test_training_starts_from_what_the_file_has(tmp_path: Path, kind: str) -> None:
    state = maps_state() if kind == "heat maps" else {**TRUNK.build().state_dict(), "fc.bias": torch.zeros(9)}
    path = tmp_path / "old.pth"
    torch.save(state, path)
    run = RunConfig(model=ModelConfig(backbone=TRUNK, head=HEAD, weights=str(path)))
    network = model.build(run)
    assert torch.equal(network.backbone.conv1.weight, state["conv1.weight"])
    same = torch.equal(network.head.features[0].weight, state.get("deconv_layers.0.weight", torch.ones(())))
    assert same == (kind == "heat maps")
    assert network.head.features[9].weight.shape == (1152, 16, 1, 1)
    lacking = r"head\.features\.9\." if kind == "heat maps" else r"head\."
    with pytest.raises(CheckpointError, match=f"no trained weights for {lacking}: train"):
        ipr.load_network(path, run)
    with pytest.raises(ConfigMissing, match=r"lacks a (head|last layer for volumes)"):
        ipr.load_network(path)


# ------------------------------------------------------------------------------ how files are written


def test_torch_04_format(tmp_path: Path) -> None:
    path = tmp_path / "old.pth.tar"
    torch.save(of_original(HEAD), path, _use_new_zipfile_serialization=False)
    ipr.load_network(path, RunConfig(model=ModelConfig(backbone=TRUNK, head=HEAD)))


def test_tar_archives_of_older_torch(tmp_path: Path) -> None:
    path = tmp_path / "old.pth.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"1234"))
    with pytest.raises(CheckpointError, match=r"old\.pth\.tar is a tar archive, as torch before 0\.2"):
        checkpoint.load(path)


def test_objects_beside_the_weights_stay_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy's numbers and arrays, and the log that mmengine keeps: their classes are not even needed."""
    module = ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def mean(self) -> float:
            return 0.0

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    HistoryBuffer.mean.__module__ = module.__name__
    HistoryBuffer.mean.__qualname__ = "HistoryBuffer.mean"
    buffer = HistoryBuffer()
    buffer.history = np.arange(3.0)  # type: ignore[attr-defined]
    buffer.methods = {"mean": HistoryBuffer.mean, "bound": buffer.mean}  # type: ignore[attr-defined]
    state = {
        "meta": {"dataset_meta": {"sigmas": np.full(17, 0.1, np.float32), "seed": np.int64(3)}},
        "message_hub": {"log_scalars": {"train/loss": buffer}},
        "perf": np.float64(51.8),
        "state_dict": {"conv1.weight": torch.ones(3)},
    }
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mmengine", ModuleType("mmengine"))
        patch.setitem(sys.modules, "mmengine.logging", ModuleType("mmengine.logging"))
        patch.setitem(sys.modules, module.__name__, module)
        torch.save(state, tmp_path / "epoch_210.pth")
    found = checkpoint.load(tmp_path / "epoch_210.pth")
    assert torch.equal(found["network"]["conv1.weight"], torch.ones(3))
    assert type(found["perf"]) is type(found["meta"]["dataset_meta"]["sigmas"]) is checkpoint._Unread


def test_numbers_of_both_numpy_versions(tmp_path: Path) -> None:
    for name in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        torch.save(
            {"perf": np.float64(1), "network": {}}, tmp_path / "a.pth", _use_new_zipfile_serialization=False
        )
        data = (tmp_path / "a.pth").read_bytes()
        assert b"core.multiarray\nscalar" in data
        data = data.replace(b"numpy._core.multiarray\n", name + b"\n")
        (tmp_path / "a.pth").write_bytes(data)
        assert type(checkpoint.load(tmp_path / "a.pth")["perf"]) is checkpoint._Unread


def test_what_the_original_knew_of_bones() -> None:
    box, mm = RunConfig(depth=DepthConfig(rule="box")), RunConfig()
    assert legacy.decoding({}, box)["mean_bone_length_mm"] == 4502.881
    assert legacy.decoding({}, mm)["mean_bone_length_mm"] is None
    assert legacy.decoding({"config": {}, "decoding": {"a": 1}}, box) == {"a": 1}
    assert config.to_dict(box.patch) == legacy.decoding({}, box)["patch"]
