"""The reader accepts exactly the schema, and says of everything else where it is and what would be right."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from ipr import choices, config
from ipr.config import ConfigError, DataConfig, DepthConfig, RunConfig, ScheduleConfig


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IPR_DATA", raising=False)


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def error_of(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        config.load(path, overrides)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_no_file_is_the_default_run() -> None:
    assert config.load(None) == RunConfig()


def test_a_file_sets_what_it_names(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        seed: 7
        patch: {height: 128, std: [1, 2, 3.5]}
        data:
          train:
            - {name: mpii, boxes: joints}
            - {name: h36m, split: act_05}
        model:
          head: {name: direct}
          channels_last: false
        optimizer: {lr: 1e-4}
        schedule: {kind: milestones, epochs: 30, milestones: [20, 25]}
        """,
    )
    run = config.load(path)
    assert (run.seed, run.patch.size, run.patch.std) == (7, (128, 64), (1.0, 2.0, 3.5))
    assert run.data.train == (
        choices.load("datasets", "mpii").Config(boxes="joints"),
        choices.load("datasets", "h36m").Config(split="act_05"),
    )
    assert run.model.head == choices.load("heads", "direct").Config()
    assert run.model.backbone == RunConfig().model.backbone  # what a section leaves out stays at the default
    assert run.model.channels_last is False
    assert run.optimizer.lr == 1e-4
    assert run.schedule.milestones == (20, 25)


def test_a_choice_starts_from_its_own_defaults(tmp_path: Path) -> None:
    run = config.load(write(tmp_path, "model: {backbone: {name: resnet, depth: 50}}"))
    assert run.model.backbone == choices.load("backbones", "resnet").Config(depth=50)
    assert run.model.backbone.width == 64  # the default run's 32 belongs to the default run's trunk


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        (
            "patch: {hieght: 256}",
            1,
            ["patch.hieght: unknown key", "did you mean 'height'", "known: height, width"],
        ),
        ("seed: 1\n\nsede: 2", 3, ["sede: unknown key", "did you mean 'seed'"]),
        ("model:\n  head: {name: direct, depth_bins: 8}", 2, ["model.head.depth_bins: unknown key"]),
        ("seed: 1\npatch: {}\nseed: 2", 3, ["seed: the key is there a second time"]),
        ("patch:\n  width: 64\n  width: 64", 3, ["patch.width: the key is there a second time"]),
        ("data:\n  batch: many", 2, ["data.batch: expected a whole number, got text ('many')"]),
        ("data: {batch: 32.0}", 1, ["data.batch: expected a whole number, got a number (32.0)"]),
        ("data: {workers: true}", 1, ["data.workers: expected a whole number, got true or false (True)"]),
        ("optimizer: {lr: false}", 1, ["optimizer.lr: expected a number, got true or false (False)"]),
        ("optimizer: {lr: 1e999}", 1, ["optimizer.lr: expected a finite number"]),
        ("optimizer: {lr: .inf}", 1, ["optimizer.lr: expected a number"]),
        ("seed: 010", 1, ["seed: expected a whole number, got text ('010')"]),
        ("model: {channels_last: yes}", 1, ["model.channels_last: expected true or false, got text ('yes')"]),
        ("data: {cache: false}", 1, ["data.cache: expected text, got true or false (False), write it in"]),
        ("data: {cache: 'false'}", 1, ["data.cache: 'false' given, must be '', 'off' or a directory"]),
        (
            "data: {root: 2017}",
            1,
            ["data.root: expected text, got a whole number (2017), write it in quotes"],
        ),
        ("patch:", 1, ["patch: expected a mapping, got nothing"]),
        ("patch: [64, 64]", 1, ["patch: expected a mapping, got a list ([64, 64])"]),
        ("- seed", 1, ["expected a mapping, got a list"]),
        ("patch:\n  mean: [1, 2]", 2, ["patch.mean: expected a list of 3 values, got 2"]),
        ("patch: {mean: 120}", 1, ["patch.mean: expected a list, got a whole number (120)"]),
        ("patch: {mean: [1, 2, red]}", 1, ["patch.mean.2: expected a number, got text ('red')"]),
        ("depth: {rule: rect_3d}", 1, ["depth.rule: 'rect_3d' is no option", "did you mean 'rect3d'"]),
        ("model: {precision: fp16}", 1, ["model.precision: 'fp16' is no option", "known: auto, fp32, bf16"]),
        (
            "model:\n  head:\n    name: intergal",
            3,
            ["model.head.name: 'intergal' is not in heads", "'integral'"],
        ),
        (
            "model: {head: integral}",
            1,
            ["model.head: expected a choice of heads such as {name: direct, ...}"],
        ),
        ("model: {head: {depth_bins: 8}}", 1, ["model.head: expected a choice of heads"]),
        (
            "data:\n  train:\n  - {name: mpii}\n  - {name: h36m, split: vaild}",
            4,
            ["data.train.1.split: 'vaild'", "'valid'"],
        ),
        ("data: {train: []}", 1, ["data.train: () given, must be a list of at least one dataset"]),
        ("data: {batch: 0}", 1, ["data.batch: 0 given, must be at least 1"]),
        ("patch: {width: -1}", 1, ["patch.width: -1 given, must be at least 1 px"]),
        ("augment:\n  flip: 1.5", 2, ["augment.flip: 1.5 given, must be in 0..1"]),
        ("augment: {rotation_probability: -0.1}", 1, ["augment.rotation_probability: -0.1 given"]),
        (
            "augment: {occlusion: {probability: 2}}",
            1,
            ["augment.occlusion.probability: 2.0 given, must be in 0..1"],
        ),
        ("augment: {occlusion: {most: 0}}", 1, ["augment.occlusion.most: 0 given, must be in 1..100"]),
        ("augment: {occlusion: {scale: [1, 0.5]}}", 1, ["augment.occlusion.scale: (1.0, 0.5) given"]),
        ("augment: {occlusion: {scale: [0, 1]}}", 1, ["augment.occlusion.scale: (0.0, 1.0) given"]),
        ("augment: {occlusion: {objects: ''}}", 1, ["augment.occlusion.objects: '' given"]),
        ("augment: {scale: 1}", 1, ["augment.scale: 1.0 given, must be in 0..1, below 1"]),
        ("augment: {gamma: 1}", 1, ["augment.gamma: 1.0 given, must be in 0..1, below 1"]),
        ("data: {max_failures: 2}", 1, ["data.max_failures: 2.0 given, must be a share in 0..1"]),
        ("optimizer: {lr: 0}", 1, ["optimizer.lr: 0.0 given, must be positive"]),
        ("schedule: {epochs: 0}", 1, ["schedule.epochs: 0 given, must be at least 1"]),
        (
            "schedule: {milestones: [3]}",
            1,
            ["schedule.milestones: (3,) given, must be left out with kind: cosine"],
        ),
        (
            "schedule: {kind: milestones, epochs: 9}",
            1,
            ["schedule.milestones: () given, must be some of", "1..9"],
        ),
        (
            "schedule: {kind: milestones, epochs: 9, milestones: [5, 10]}",
            1,
            ["schedule.milestones: (5, 10) given"],
        ),
        ("schedule: {kind: milestones, epochs: 9, milestones: [5, 5]}", 1, ["must be increasing epochs"]),
        ("skeleton: h36m", 1, ["skeleton: 'h36m' given, must be one of h36m_18, h36m_17"]),
        ("patch: {height: 64", 1, ["no valid YAML"]),
        ("seed: 1\n\tpatch: 2", 2, ["no valid YAML"]),
        ("seed: !!python/object/apply:os.getpid []", 1, ["seed: expected a whole number, got a list"]),
        ("seed: !!python/name:os.getpid", 1, ["no valid YAML"]),
        ("patch: &p {width: 8}\ndepth: *p", 1, ["aliases (*name) are not read"]),
        ("patch: &p\n  mean: [*p, 1, 1]", 1, ["aliases (*name) are not read"]),
        ("seed: 1\n---\nseed: 2", 2, ["no valid YAML"]),
    ],
)
def test_bad_file(tmp_path: Path, text: str, line: int, parts: list[str]) -> None:
    path = write(tmp_path, text)
    message = error_of(path)
    assert message.startswith(f"{path}:{line}: ")
    for part in parts:
        assert part in message


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert error_of(missing) == f"{missing}: cannot read the configuration: No such file or directory"
    assert "Is a directory" in error_of(tmp_path)
    binary = tmp_path / "weights.yaml"
    binary.write_bytes(b"PK\x03\x04\xff\xfe")
    assert "no UTF-8 text" in error_of(binary)
    binary.write_bytes(b"seed: \x01")
    assert "no valid YAML" in error_of(binary)


def test_overrides() -> None:
    run = config.load(
        None,
        [
            "seed=3",
            "optimizer.lr=1e-3",
            "data.train.0.count=5",
            "data.root=/some where/with=sign",
            "data.valid={name: synthetic, split: valid, count: 4}",
            "data.valid.count=6",
            "model.weights=",
            "schedule.kind=milestones",
            "schedule.milestones=[3, 4]",
        ],
    )
    assert run.seed == 3
    assert run.optimizer.lr == 1e-3
    assert run.data.root == "/some where/with=sign"
    assert (run.data.train[0].count, run.data.valid.count) == (5, 6)
    assert run.data.train[0] == dataclasses.replace(RunConfig().data.train[0], count=5)
    assert run.schedule.milestones == (3, 4)


def test_override_of_a_name_replaces_the_choice() -> None:
    h36m = ["data.valid.name=h36m", "data.valid.split=validmin"]
    run = config.load(None, ["model.head.name=direct", *h36m])
    assert run.model.head == choices.load("heads", "direct").Config()
    assert run.data.valid == choices.load("datasets", "h36m").Config(split="validmin")
    same = config.load(None, ["model.head.name=integral"])
    assert same == RunConfig()  # the same name changes nothing


def test_overrides_come_after_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 1\noptimizer: {lr: 1e-4, weight_decay: 0.1}")
    run = config.load(path, ["optimizer.lr=2e-4"])
    assert (run.seed, run.optimizer.lr, run.optimizer.weight_decay) == (1, 2e-4, 0.1)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("seed", ["expected dotted.key=value"]),
        ("=3", ["expected dotted.key=value"]),
        ("data..batch=3", ["expected dotted.key=value"]),
        ("dta.batch=3", ["unknown key 'dta'", "did you mean 'data'"]),
        ("data.bacth=3", ["data.bacth: unknown key", "did you mean 'batch'"]),
        ("data.train.1.count=3", ["unknown key '1', known: 0"]),
        ("data.train.first.count=3", ["unknown key 'first', known: 0"]),
        ("seed.value=3", ["seed is a whole number (0) and has no 'value'"]),
        ("seed=[", ["no valid YAML"]),
        ("data.batch=", ["data.batch: expected a whole number, got text ('')"]),
        ("data.train.0.name=", ["data.train.0.name: '' is not in datasets"]),
        ("data.valid={name: synthetic, cuont: 4}", ["data.valid.cuont: unknown key", "did you mean 'count'"]),
        ("name=resnet", ["name: unknown key"]),
        ("schedule.epochs=0", ["schedule.epochs: 0 given, must be at least 1"]),
    ],
)
def test_bad_override(override: str, parts: list[str]) -> None:
    message = error_of(None, override)
    assert message.startswith(f"override {override!r}: ")
    for part in parts:
        assert part in message


def test_an_error_names_the_override_that_replaced_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "data:\n  valid: {name: h36m, split: valid}\n  batch: 8")
    replaced = error_of(path, "data.valid={name: mpii, split: no}")
    assert replaced.startswith("override 'data.valid={name: mpii, split: no}': data.valid.split: 'no'")
    assert error_of(path, "data.batch=0").startswith("override 'data.batch=0': data.batch: 0")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data.root='010'", "model.weights='null'", "optimizer.lr=1e-7"],
        ["model.head.name=direct", "depth.rule=box", "patch.height=96"],
        ["data.train=[{name: mpii}, {name: coco}, {name: h36m, boxes: detector, detector: mask}]"],
        [
            "schedule={kind: milestones, epochs: 5, milestones: [2, 4]}",
            "optimizer.lr=0.1",
            "seed=12345678901",
        ],
    ],
)
def test_round_trip(tmp_path: Path, overrides: list[str]) -> None:
    run = config.load(None, overrides)
    tree = config.to_dict(run)
    assert config.from_dict(tree) == run
    assert config.from_dict(json.loads(json.dumps(tree))) == run  # plain types only
    assert config.load(write(tmp_path, yaml.safe_dump(tree))) == run
    assert tree["model"]["head"]["name"] == choices.name_of(run.model.head)


def test_from_dict_is_strict() -> None:
    tree = config.to_dict(RunConfig())
    tree["data"]["train"][0]["colour"] = 1
    with pytest.raises(ConfigError, match=r"^data\.train\.0\.colour: unknown key"):
        config.from_dict(tree)
    with pytest.raises(ConfigError, match=r"^run/latest\.pt: data\.train\.0\.colour: unknown key"):
        config.from_dict(tree, "run/latest.pt")


def test_a_cache_of_an_earlier_version_was_on_or_off() -> None:
    for before, now in ((True, ""), (False, "off")):
        tree = config.to_dict(RunConfig())
        tree["data"]["cache"] = before
        assert config.from_dict(tree).data.cache == now
        assert tree["data"]["cache"] is before


def test_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPR_DATA", "/data")
    assert config.load(None).data.root == "/data"
    assert config.load(None, ["data.root=/mine"]).data.root == "/mine"
    assert RunConfig().data.root == ""  # the schema itself knows no environment
    assert config.from_dict(config.to_dict(RunConfig())).data.root == ""


def test_located() -> None:
    datasets = config.load(None, ["data.train=[{name: h36m}, {name: mpii, root: /else/where}]"]).data.train
    data = DataConfig(root="/data", train=datasets)
    assert [data.located(dataset).root for dataset in data.train] == ["/data/hm36", "/else/where"]
    assert data.located(data.valid) == data.valid  # the synthetic set has no folder


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1  # type: ignore[misc]


def test_depth_rule() -> None:
    assert DepthConfig(extent_mm=1500).build() == ("rect3d", 1500.0)
    assert DepthConfig(rule="box").build().name == "box"


def test_milestones_may_reach_the_last_epoch() -> None:
    assert ScheduleConfig(kind="milestones", epochs=6, milestones=(2, 6)).milestones == (2, 6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("h36m", {"split": "act_15"}, "split: 'act_15' is no split"),
        ("h36m", {"split": "test"}, "split: 'test' is no split"),
        ("mpii", {"split": "val"}, "split: 'val' is no split, did you mean 'valid'"),
        ("coco", {"split": "val2018"}, "split: 'val2018' is no split, did you mean 'val2017'"),
        ("h36m_challenge", {"split": "train"}, "split: 'train' is no split, did you mean 'Train'"),
        ("h36m", {"boxes": "detector"}, "detector: empty"),
        ("h36m_challenge", {"detector": "mask_rcnn"}, "detector: 'mask_rcnn' is not used with boxes: joints"),
    ],
)
def test_bad_options_of_a_dataset(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        choices.load("datasets", name).Config(**options)


def test_box_rules() -> None:
    """Padding and fit of the ECCV 2018 code's boxes."""

    def rule(name: str, **options: str) -> tuple[float, str]:
        return tuple(choices.load("datasets", name).Config(**options).box_rule)

    assert rule("h36m", boxes="rect3d") == (1.0, "square")
    assert rule("h36m", boxes="joints") == rule("h36m_challenge", boxes="joints") == (1.25, "grow")
    assert rule("h36m", boxes="detector", detector="d") == (1.25, "grow")
    assert rule("h36m_challenge", boxes="detector", detector="d") == (1.1, "grow")
    assert rule("h36m_challenge", boxes="full") == (1.0, "height")
    assert rule("mpii", boxes="scale") == (1.25, "height")
    assert rule("coco") == rule("mpii", boxes="joints") == (1.25, "grow")
    assert rule("coco", boxes="detector", detections="d.json") == (1.25, "grow")
