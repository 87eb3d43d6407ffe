"""The protocol card: everything that a number depends on besides the network."""

from __future__ import annotations

import dataclasses

import pytest

from ipr import protocol
from ipr.datasets import h36m, h36m_challenge
from tests.data import random_table
from tests.runs import tiny_run


def test_boxes_and_sampling_of_a_data_set() -> None:
    run = tiny_run()
    valid = h36m.Config(split="validmin", boxes="detector", detector="maskRCNN")
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, valid=valid))
    card = protocol.card(run, random_table(4), flip=True, networks=3, ensemble="inverse_variance")
    assert (card["data"], card["split"], card["rows"]) == ("h36m", "validmin", "4")
    assert card["sampling"].startswith("that of the split with ") and "seed 0" in card["sampling"]
    assert card["boxes"] == "detector maskRCNN, padded x 1.25, fit: grow"
    assert card["flip test"].startswith("on") and card["ensemble"] == "inverse-variance mean of 3 networks"
    line = protocol.text(card)
    assert "\n" not in line and all(f"{name}: {value}" in line for name, value in card.items())
    assert "protocol" not in line.lower()


def test_without_a_camera_no_ground_truth_is_used() -> None:
    run = tiny_run("metrics=[{name: mpjpe_rescaled}, {name: cps}]")
    valid = h36m_challenge.Config(split="Val")
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, valid=valid))
    table = dataclasses.replace(random_table(4), camera=None, root_depth=None)
    card = protocol.card(run, table)
    assert card["ground truth used"] == "none: the scale is by bone length"
    assert "MPJPE-rescaled" in card["alignment"] and "CPS: similarity" in card["alignment"]
    assert card["joints"].count("17 joints") == 1  # both metrics say the same


def test_an_unknown_ensemble_has_no_words() -> None:
    with pytest.raises(KeyError):
        protocol.card(tiny_run(), random_table(4), networks=2, ensemble="median")
