"""docs/migration.md names keys, files and options that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipr import choices, config
from ipr.backbones import resnet
from ipr.config import ModelConfig, RunConfig
from ipr.datasets import h36m, mpii
from ipr.strict_yaml import to_dict

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "migration.md").read_text()
OURS = (
    "\n".join(line.split("|")[2] for line in TEXT.splitlines() if line.count("|") == 3)
    + TEXT.partition("## Ch")[2]
)
KEYS = sorted(
    set(
        re.findall(
            r"\b(?:data|patch|depth|augment|model|loss|optimizer|schedule)\.[a-z_]+(?:\.[a-z_]+)*", OURS
        )
    )
)
FULL = to_dict(
    RunConfig(
        model=ModelConfig(backbone=resnet.Config()), data=config.DataConfig(valid=h36m.Config(split="valid"))
    )
)


def test_keys_were_found() -> None:
    assert len(KEYS) > 30


@pytest.mark.parametrize("key", KEYS)
def test_key_exists(key: str) -> None:
    node = FULL
    for part in key.split("."):
        assert part in node, f"{key}: {part} is none of {', '.join(node)}"
        node = node[part]


@pytest.mark.parametrize("file", sorted(set(re.findall(r"configs/[a-z0-9_/]+\.yaml", TEXT))))
def test_configuration_loads(file: str) -> None:
    config.load(ROOT / file)


def test_four_configurations() -> None:
    assert len(set(re.findall(r"configs/[a-z0-9_/]+\.yaml", TEXT))) == 4


def test_names_of_choices() -> None:
    for kind, names in {"heads": ("integral", "direct"), "losses": ("l1", "l2")}.items():
        assert set(names) <= set(choices.names(kind))
    assert {"rect3d", "joints", "detector", "full"} <= set(h36m.BOX_RULES)
    assert {"scale", "joints"} <= set(mpii.BOX_RULES)
    assert "act_05" in h36m.SPLITS
