"""The marginals' cross-entropy alone: the share of ``l1_marginals``, and its push where L1 has none."""

from __future__ import annotations

import torch

from ipr.losses import l1, l1_marginals, marginals
from tests.losses.volumes import output_of


def test_it_is_the_share_of_l1_marginals() -> None:
    output, truth, weight = output_of(torch.randn(2, 3, 4, 5, 6)), torch.rand(2, 3, 3), torch.rand(2, 3, 3)
    alone = marginals.Config(sigma=0.8).build()(output, truth, weight)
    joined = l1_marginals.Config(marginals=0.3, sigma=0.8).build()(output, truth, weight)
    torch.testing.assert_close(joined, l1.Config().build()(output, truth, weight) + 0.3 * alone)


def test_a_volume_that_is_sure_of_another_place_moves() -> None:
    """The mean's gradient has faded there, that of the cross-entropy has not."""
    truth, weight = torch.full((1, 1, 3), 0.25), torch.ones(1, 1, 3)
    steepest = {}
    for name, loss in (("l1", l1.Config().build()), ("marginals", marginals.Config().build())):
        logits = torch.zeros(1, 1, 8, 8, 8)
        logits[..., 1, 1, 1] = 15.0
        logits.requires_grad_()
        loss(output_of(logits), truth, weight).backward()
        assert logits.grad is not None
        steepest[name] = logits.grad.abs().max().item()
    assert steepest["l1"] < 0.01 and steepest["marginals"] > 0.5
