"""What a run writes down while it trains: ``log.jsonl``, TensorBoard scalars and the progress bar.

``log.jsonl`` holds one JSON object per line. ``kind`` is ``run`` (versions, device, operators, configuration;
one per start), ``step`` (lr, loss and images/s since the last record), ``epoch`` (the same, the scores, and
how many rows could not be loaded since the start of the run) or ``failure`` (one of the first of these).
``seconds`` counts from the start of the run, time between stop and resume left out.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from ipr import checkpoint

FILE = "log.jsonl"


def read(folder: Path) -> list[dict[str, Any]]:
    """The records of a run; a last line cut short by a crash is dropped."""
    path = folder / FILE
    records = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class RunLog:
    """Appends to the log of ``folder``. On a resume at ``step``, later records are dropped first."""

    def __init__(self, folder: Path, *, step: int, images: int, images_total: int) -> None:
        from torch.utils.tensorboard import (
            SummaryWriter,
        )  # takes a second to import, which only training should pay

        kept = [record for record in read(folder) if record.get("step", 0) <= step] if step else []
        checkpoint.write_atomic(folder / FILE, "".join(map(_line, kept)).encode())
        self._file = open(folder / FILE, "a", buffering=1)  # noqa: SIM115 - closed by __exit__
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._interactive = sys.stderr.isatty()
        self.bar = tqdm(
            total=images_total,
            initial=images,
            unit="img",
            unit_scale=True,
            dynamic_ncols=self._interactive,
            mininterval=0.2 if self._interactive else 30.0,  # a log file needs no animation
            smoothing=0.05,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        self._board.close()
        self._file.close()

    def write(self, kind: str, **record: Any) -> None:
        self._file.write(_line({"kind": kind, **record}))
        if kind == "run":
            self._board.add_text("run", f"```\n{json.dumps(record, indent=1)}\n```", record["step"])
            return
        for name, value in record.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{kind}/{name}", value, record["step"])

    def say(self, text: str) -> None:
        """A line on stderr, above the progress bar."""
        if self._interactive:
            self.bar.write(text, file=sys.stderr)
        else:
            print(f"\n{text}", file=sys.stderr, flush=True)


class Silence:
    """The log of a process that is not the main one."""

    def __init__(self) -> None:
        self.bar = tqdm(disable=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, kind: str, **record: Any) -> None:
        pass

    def say(self, text: str) -> None:
        pass


def _line(record: dict[str, Any]) -> str:
    return json.dumps(_finite(record)) + "\n"


def _finite(value: Any) -> Any:
    """JSON knows no NaN: such numbers become null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
