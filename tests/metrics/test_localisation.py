"""Telemetry of volumes."""

from __future__ import annotations

import numpy as np
import pytest

from ipr.metrics.localisation import Config
from tests.data import random_table
from tests.metrics.poses import said


def test_means_and_share_at_the_edge() -> None:
    table = random_table(4)
    margin = np.full((4, 18), 0.3)
    margin[:2, 16] = [0.01, -0.2]  # a wrist, near a side and outside
    scores = Config().build()(said(table)._replace(margin=margin), table)
    assert scores["clipped %"] == pytest.approx(100 * 2 / 72)
    assert scores["clipped %/joint/right_wrist"] == 50 and scores["clipped %/joint/pelvis"] == 0
    assert [scores[name] for name in ("sigma x px", "sigma y px", "sigma z mm", "peak")] == [1, 2, 30, 0.25]
    assert Config(edge=0.4).build()(said(table), table)["clipped %"] == 100


def test_what_does_not_fit_is_refused() -> None:
    table = random_table(4)
    blind = said(table)._replace(sigma=np.full((4, 18, 3), np.nan))
    for poses in (blind, said(table)._replace(margin=None)):
        with pytest.raises(ValueError, match="for heads with a volume"):
            Config().build()(poses, table)
    with pytest.raises(ValueError, match="edge"):
        Config(edge=0.5)
