"""Interchangeable parts are found by file name, and every one of them keeps the form of a part."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ipr import choices
from ipr.config import PatchConfig

PARTS = [(kind, name) for kind in choices.KINDS for name in choices.names(kind)]


def test_the_parts_are_the_files() -> None:
    assert {"synthetic", "h36m", "h36m_challenge", "mpii", "coco", "own"} <= set(choices.names("datasets"))
    assert "resnet" in choices.names("backbones")
    assert {"integral", "direct"} <= set(choices.names("heads"))
    assert "l1" in choices.names("losses")
    assert choices.names("metrics")
    assert not [name for _, name in PARTS if name.startswith("_")]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_part_has_a_config_that_builds(kind: str, name: str) -> None:
    config: Any = choices.load(kind, name).Config
    assert config.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(config))
    assert callable(config.build)
    assert choices.name_of(config()) == name


def test_a_plain_section_has_no_name() -> None:
    assert choices.name_of(PatchConfig()) is None


@pytest.mark.parametrize("name", ["intergal", "", "_options", "../config", "integral.py", "__init__"])
def test_unknown_part(name: str) -> None:
    with pytest.raises(ValueError, match="is not in heads") as error:
        choices.load("heads", name)
    assert "known: direct, integral" in str(error.value)


def test_unknown_part_suggests() -> None:
    with pytest.raises(ValueError, match="did you mean 'integral'"):
        choices.load("heads", "intergal")


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="'head' is no kind of part, did you mean 'heads'"):
        choices.load("head", "integral")
