"""``python -m ipr.train`` with batch normalisation as in evaluation, and with what a test wants to go wrong.

Batch normalisation sees the people of its own process, so two processes of 8 are one process of 16 only
without it. ``IPR_TEST_FAULT=<rank>:<fault>:<step>`` plants a fault: ``read`` breaks an image, ``kill`` ends
the process without a word, ``nan`` spoils the labels, ``bad9`` reports nine rows that could not be loaded.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

import torch
from torch import nn

from ipr import cli, engine, train
from ipr.types import Batch, Failure


def frozen(module: nn.Module, _mode: bool = True) -> nn.Module:
    return nn.Module.train(module, False)


def plant(fault: str, when: int) -> None:
    steps = itertools.count(1)
    step = engine.Trainer.train_batch

    def faulty(trainer: engine.Trainer, batch: Batch, *arguments: Any) -> float:
        if next(steps) == when:
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "read":
                raise ValueError("row 3 of table 0, a.jpg: OSError: truncated file")
            if fault == "nan":
                batch = batch._replace(depth=batch.depth * torch.nan)
            if fault.startswith("bad"):
                rows = range(int(fault.removeprefix("bad")))
                batch = batch._replace(failures=tuple(Failure(0, row, "a.jpg: is empty") for row in rows))
        return step(trainer, batch, *arguments)

    engine.Trainer.train_batch = faulty  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    nn.BatchNorm2d.train = frozen  # type: ignore[method-assign,assignment]
    engine.LOG_EVERY, engine.SAVE_EVERY = 1, int(os.environ.get("IPR_TEST_SAVE_EVERY", "1000"))
    if "IPR_TEST_FAULT" in os.environ:
        rank, fault, when = os.environ["IPR_TEST_FAULT"].split(":")
        if rank == os.environ["RANK"]:
            plant(fault, int(when))
    sys.exit(cli.run(train.main))
