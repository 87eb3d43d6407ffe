"""A run in several processes: torchrun starts them on CPUs, they train as one, and they end together."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import ipr
from ipr import checkpoint, distributed, model, protocol, runlog, validation
from ipr.config import ConfigError
from ipr.distributed import ALONE, Group
from ipr.loader import EpochSampler, make_loader
from ipr.sampler import MixConfig
from tests.data import random_table
from tests.runs import TINY, tiny_run

ROOT = Path(__file__).parents[1]
# Neither 41 people nor 13 are evenly shared by two.
UNEVEN = (*TINY, "data.train.0.count=41", "data.valid.count=13")


class Ended(NamedTuple):
    code: int
    errors: list[str]  # what the processes said


def launch(processes: int, out: Path, *words: str, fault: str = "", save_every: int = 1000) -> Ended:
    """A training run whose batch normalisation stands still, in so many processes."""
    started = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [sys.executable, "-m", *(started if processes > 1 else []), "tests.frozen_train"]
    settings = {"OMP_NUM_THREADS": "1", "IPR_TEST_SAVE_EVERY": str(save_every)}
    done = subprocess.run(
        [*command, "--out", str(out), f"data.cache={out.parent / 'cache'}", *words],
        cwd=ROOT,
        env=os.environ | settings | ({"IPR_TEST_FAULT": fault} if fault else {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert "Warning" not in done.stderr, done.stderr
    # A message may follow a progress bar on its line; torchrun's summary is not ours.
    messages = [re.search(r"error( in process \d+)?: .*", line) for line in done.stderr.splitlines()]
    return Ended(done.returncode, [message[0] for message in messages if message])


def log(folder: Path) -> list[dict[str, Any]]:
    return [record for record in runlog.read(folder) if record["kind"] != "run"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in one process, and in two of half the batch each."""
    folder = tmp_path_factory.mktemp("distributed")
    assert launch(1, folder / "one", *UNEVEN, "data.batch=16") == (0, [])
    assert launch(2, folder / "two", *UNEVEN, "data.batch=8") == (0, [])
    return folder


def test_two_processes_are_one_with_the_double_batch(folder: Path) -> None:
    """Losses, scores and weights; sums in another order differ by rounding, which Adam enlarges."""
    one, two = log(folder / "one"), log(folder / "two")
    assert [record["kind"] for record in one] == ["step"] * 3 + ["epoch"] + ["step"] * 3 + ["epoch"]
    for ours, theirs in zip(two, one, strict=True):
        assert ours.keys() == theirs.keys()
        for name in set(ours) - {"seconds", "images_per_second", "kind"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-6)  # nothing has been enlarged yet
    ours, theirs = (checkpoint.load(folder / name / "latest.pt") for name in ("two", "one"))
    assert (ours["world"], theirs["world"]) == (2, 1)
    moved = 6 * 3e-3  # six steps of Adam
    for name, tensor in theirs["network"].items():
        torch.testing.assert_close(ours["network"][name], tensor, rtol=0, atol=0.01 * moved)
    assert runlog.read(folder / "two")[0]["processes"] == 2


def test_the_main_process_alone_writes(folder: Path) -> None:
    names = {"best.pt", "latest.pt", "val.png", "curve.png", "log.jsonl", "config.yaml", "tensorboard"}
    assert {path.name for path in (folder / "two").iterdir()} == names
    assert len(list((folder / "two" / "tensorboard").iterdir())) == 1
    assert [record["kind"] for record in runlog.read(folder / "two")].count("run") == 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("1:read:2", "error in process 1: row 3 of table 0, a.jpg: OSError: truncated file"),
        ("1:kill:2", "error: another process of this run has ended"),
        ("1:nan:2", "error: the loss is nan in epoch 1"),
        # 10 are 1 % of 1000, as which fewer rows count; 28 people were tried before and with these 11.
        ("1:bad11:2", "error: stopped, as on_error: skip allows 1.00%: 11 of 39 rows could not be loaded"),
    ],
)
def test_a_process_that_fails_ends_the_others(folder: Path, fault: str, said: str) -> None:
    ended = launch(2, folder / fault.replace(":", "-"), *UNEVEN, "data.batch=8", fault=fault)
    assert ended.code == 1
    assert len([line for line in ended.errors if line.startswith(said)]) == 1, ended.errors
    assert len(ended.errors) <= 2  # at most, the other says that it was left alone
    if "nan" in fault:
        record = json.loads((folder / "1-nan-2" / "nonfinite.json").read_text())
        assert len({person["row"] for person in record["batch"]}) in (13, 14)  # of both processes
        assert 6 <= sum(person["labels_finite"] for person in record["batch"]) <= 8
        assert len(ended.errors) == 1
    if "bad" in fault:
        assert len(ended.errors) == 1 and not log(folder / "1-bad11-2")[1:]


def test_rows_that_a_process_replaced_are_logged_by_the_main_one(folder: Path) -> None:
    out = folder / "replaced"
    assert launch(2, out, *UNEVEN, "data.batch=8", fault="1:bad9:2") == (0, [])
    records = [record for record in log(out) if record["kind"] == "failure"]
    assert [(record["row"], record["step"]) for record in records] == [(row, 2) for row in range(9)]
    assert [record["failures"] for record in log(out) if record["kind"] == "epoch"] == [9, 9]
    assert checkpoint.load(out / "latest.pt")["failures"]["tried"] == 2 * 41 + 9


def test_two_processes_evaluate_as_one(folder: Path) -> None:
    """Each person once, the poses of one process, and one table printed."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    words += ["ipr.evaluate", str(folder / "one" / "latest.pt")]
    files = ["--json", str(folder / "scores.json"), "--save", str(folder / "poses.npz")]
    done = subprocess.run(
        [*words, *files, "data.batch=4"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "scores.json").read_text())
    expected = checkpoint.load(folder / "one" / "latest.pt")["decoding"]["scores"]
    assert record["people"] == 13 and record["scores"] == pytest.approx(expected, rel=1e-5)
    assert done.stdout.count(protocol.text(record["protocol"])) == 1
    with np.load(folder / "poses.npz") as poses:
        np.testing.assert_array_equal(poses["box_index"], range(13))


def test_wrong_usage_is_said_once(tmp_path: Path) -> None:
    ended = launch(2, tmp_path / "run", "optimizer.lrr=1")
    assert ended.code == 1 and len(ended.errors) == 1 and "optimizer.lrr" in ended.errors[0]
    assert not (tmp_path / "run").exists()


def test_a_resume_inside_an_epoch(folder: Path) -> None:
    """Saved after step 4, failed in step 5 (the second of epoch 2): to the bit as if nothing had been."""
    out = folder / "halves"
    ended = launch(2, out, *UNEVEN, "data.batch=8", fault="1:read:5", save_every=1)
    assert ended.code == 1
    saved = checkpoint.load(out / "latest.pt")
    assert (saved["epoch"], saved["step"], saved["batch"]) == (1, 4, 1)
    assert launch(2, out, "--resume") == (0, [])
    ours, theirs = (checkpoint.load(path / "latest.pt") for path in (out, folder / "two"))
    assert all(torch.equal(tensor, theirs["network"][name]) for name, tensor in ours["network"].items())
    assert ours["decoding"]["scores"] == theirs["decoding"]["scores"]
    assert [record["loss"] for record in log(out)] == [record["loss"] for record in log(folder / "two")]


# ------------------------------------------------------------------------------------------- without torchrun


def test_it_is_this_package() -> None:
    assert Path(ipr.__file__).parents[1] == ROOT


@pytest.mark.parametrize(
    ("rows", "batch", "world"), [(41, 8, 2), (40, 8, 4), (5, 1, 4), (7, 64, 3), (9, 2, 4)]
)
def test_shares_of_a_batch(rows: int, batch: int, world: int) -> None:
    """Disjoint, together the batches of one process, none empty, and different by one person at most."""
    ranks = [EpochSampler([rows], batch, 3, MixConfig(), rank, world) for rank in range(world)]
    alone = EpochSampler([rows], batch * world, 3, MixConfig())
    for sampler in (*ranks, alone):
        sampler.set_epoch(4)
    shares = list(zip(*ranks, strict=True))
    assert len(shares) == len(ranks[0])
    assert sorted(np.concatenate([own for share in shares for _, own in share])) == list(range(rows))
    for share, people in zip(shares, ranks[0].people(), strict=True):
        sizes = [len(own) for _, own in share]
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1 and sum(sizes) == people
        assert {epoch for epoch, _ in share} == {4}
    if batch > 1:
        assert max(len(own) for share in shares for _, own in share) <= batch
        for share, (_, whole) in zip(shares, alone, strict=True):
            np.testing.assert_array_equal(np.concatenate([own for _, own in share]), whole)


def test_a_sampler_goes_on_inside_an_epoch() -> None:
    whole, rest = (EpochSampler([41], 8, 3, MixConfig(), 1, 2) for _ in range(2))
    whole.set_epoch(2)
    rest.set_epoch(2, done=2)
    for ours, theirs in zip(list(whole)[2:], rest, strict=True):
        np.testing.assert_array_equal(ours[1], theirs[1])
    assert len(rest) == len(whole) == 3


def test_too_few_rows_to_share() -> None:
    run = tiny_run()
    with pytest.raises(ValueError, match="3 rows to train on are too few for 4 processes"):
        make_loader(
            [random_table(3)],
            run.patch,
            run.depth,
            None,
            batch=2,
            workers=0,
            seed=0,
            train=True,
            group=Group(0, 4),
        )


class Share(Exception):
    """What a process would give to the others."""


@dataclasses.dataclass(frozen=True)
class Recorded(Group):
    """Processes one after the other: the last one gets the shares that the others raised."""

    others: tuple[Any, ...] = ()

    def gather(self, value: Any) -> list[Any]:
        if len(self.others) < self.world - 1:
            raise Share(value)
        return [*self.others, value]


@pytest.mark.parametrize("rows", [12, 2])
def test_shares_of_an_evaluation(rows: int) -> None:
    """The poses of one process, in the table's order; two people leave one of three processes idle."""
    run, table = tiny_run("data.batch=2"), random_table(rows)
    network = model.build(run)
    expected = validation.predict([network], table, run)
    others: tuple[Any, ...] = ()
    for rank in range(2):
        with pytest.raises(Share) as share:
            validation.predict([network], table, run, group=Recorded(rank, 3))
        others = (*others, share.value.args[0])
    assert sum(len(part[0]) for parts in others for part in parts) < rows or rows == 2
    for tensor in (tensor for parts in others for part in parts for tensor in part):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes  # not a batch's, with its pixels
    poses = validation.predict([network], table, run, group=Recorded(2, 3, others))
    np.testing.assert_allclose(poses.joints_img, expected.joints_img, rtol=0, atol=1e-3)
    np.testing.assert_allclose(poses.joints_rel, expected.joints_rel, rtol=0, atol=1e-2)


def test_alone_nothing_happens() -> None:
    network, tensor = torch.nn.Linear(1, 1), torch.ones(2)
    assert ALONE.is_main and ALONE.gather(3) == [3]
    assert ALONE.from_main(lambda: 4) == ALONE.main_first(lambda: 4) == 4
    assert ALONE.parallel(network) is network
    ALONE.average([tensor])
    assert ALONE.mean(tensor.sum()) == (2, False) and torch.equal(tensor, torch.ones(2))


def test_an_environment_that_torchrun_did_not_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(ConfigError, match=r"RANK.* not set: start with torchrun"),
        distributed.join(torch.device("cpu")),
    ):
        pass


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("WORLD_SIZE", "2"),
        ("RANK", "1"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "localhost"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(ConfigError, match=r"process 2 .* no GPU.*--nproc-per-node 1"),
        distributed.join(torch.device("cuda")),
    ):
        pass
