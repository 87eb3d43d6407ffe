"""How sure the network's volumes are, and how many joints lie at their edge: telemetry, not accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ipr.config import require
from ipr.metrics._rooted import check_rows
from ipr.types import Poses, PoseTable


@dataclass(frozen=True, kw_only=True)
class Config:
    edge: float = 0.05  # a joint nearer than this share of the volume to one of its sides is clipped

    def __post_init__(self) -> None:
        require(0 < self.edge < 0.5, "edge", self.edge, "in 0..0.5")

    def build(self) -> Metric:
        return Metric(self.edge)


class Metric:
    """Needs a head with a volume.

    An expectation over a volume cannot leave it, and a joint outside pulls it to the side: hence ``clipped``.
    """

    higher_is_better = False
    of_pictures = True

    def __init__(self, edge: float) -> None:
        self.edge = edge
        self.protocol = {
            "joints": "localisation: all joints of the skeleton",
            "alignment": f"localisation: none; clipped: nearer than {edge:g} of the volume to its side",
        }

    def __call__(self, poses: Poses, table: PoseTable) -> dict[str, float]:
        """Names -> px, mm, 0..1 and percent."""
        check_rows(poses, table)
        if poses.margin is None or np.isnan(poses.sigma).any() or np.isnan(poses.score).any():
            raise ValueError(
                "localisation is for heads with a volume, and these poses know no sigma, score or margin"
            )
        x, y, z = poses.sigma.mean((0, 1))
        clipped = 100 * (poses.margin < self.edge)
        scores = {
            "clipped %": float(clipped.mean()),
            "sigma x px": float(x),
            "sigma y px": float(y),
            "sigma z mm": float(z),
            "peak": float(poses.score.mean()),
        }
        for joint, name in enumerate(table.skeleton.joints):
            scores[f"clipped %/joint/{name}"] = float(clipped[:, joint].mean())
        return scores
