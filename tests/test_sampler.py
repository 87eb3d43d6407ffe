"""Rows of an epoch: proportions, reach, order, and the same whoever asks, whenever."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from ipr import config, engine, runlog
from ipr.config import ConfigError
from ipr.loader import EpochSampler, Mix
from ipr.sampler import MixConfig, counts, coverage, epoch_rows
from tests.data import AUGMENT, random_table
from tests.runs import tiny_run

SIZES = (40, 300, 7)
SHARES = MixConfig(kind="shares", weights=(2, 5, 1), people=160)
ORIGINAL = MixConfig(kind="eccv2018")


def sets(rows: np.ndarray) -> np.ndarray:
    """The set of each row."""
    return np.searchsorted(np.cumsum(SIZES), rows % sum(SIZES), side="right")


@pytest.mark.parametrize("mix", [MixConfig(), SHARES, ORIGINAL], ids=lambda mix: mix.kind)
@pytest.mark.parametrize("even", [False, True])
def test_an_epoch_has_its_counts_and_its_own_order(mix: MixConfig, even: bool) -> None:
    mix = dataclasses.replace(mix, even=even)
    epochs = [epoch_rows(SIZES, mix, 5, epoch) for epoch in range(3)]
    for rows in epochs:
        assert np.bincount(sets(rows), minlength=3).tolist() == counts(SIZES, mix)
        assert len(np.unique(rows)) == len(rows)  # a row's second appearance is told from its first
    assert np.array_equal(epochs[1], epoch_rows(SIZES, mix, 5, 1))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], epoch_rows(SIZES, mix, 6, 0))


def test_counts() -> None:
    assert counts(SIZES, MixConfig()) == [40, 300, 7]
    assert counts(SIZES, SHARES) == [40, 100, 20]
    assert counts(SIZES, ORIGINAL) == [40, 40, 40]
    assert counts((3, 9), MixConfig(kind="shares", weights=(1, 1))) == [6, 6]
    assert sorted(counts(SIZES, MixConfig(kind="shares", weights=(1, 1, 1), people=100))) == [33, 33, 34]


def test_every_row_is_reached_before_any_comes_again() -> None:
    """300 rows, 100 per epoch: three epochs have each once. 7 rows, 20 per epoch: two passes and the ends."""
    used = np.zeros(sum(SIZES), int)
    for epoch in range(3):
        rows = epoch_rows(SIZES, SHARES, 0, epoch) % sum(SIZES)
        np.add.at(used, rows, 1)
        assert set(np.bincount(rows[sets(rows) == 2] - 340)) <= {2, 3, 4}
        found = [float((used[part] > 0).mean()) for part in (slice(0, 40), slice(40, 340), slice(340, 347))]
        assert coverage(SIZES, SHARES, epoch + 1) == pytest.approx(found)
    assert set(used[:40]) == {3} and set(used[40:340]) == {1} and set(used[340:]) <= {8, 9}


def test_the_originals_subset_is_always_the_same() -> None:
    first, second = (np.sort(epoch_rows(SIZES, ORIGINAL, 0, epoch)) for epoch in (0, 9))
    assert np.array_equal(first, second)
    assert first[:40].tolist() == list(range(40))  # the first set whole
    assert coverage(SIZES, ORIGINAL, 100) == [1.0, 40 / 300, 1.0]
    assert coverage(SIZES, MixConfig(), 1) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("world", [1, 2])
def test_fixed_shares_inside_each_batch(world: int) -> None:
    """2 : 5 : 1 of 16 people are 4, 10 and 2, in each process's part 2, 5 and 1."""
    mix = dataclasses.replace(SHARES, even=True)
    ranks = [EpochSampler(SIZES, 16 // world, 0, mix, rank, world) for rank in range(world)]
    batches = list(zip(*ranks, strict=True))
    assert len(batches) == len(ranks[0]) == 10
    for _, rows in itertools.chain.from_iterable(batches):
        assert np.bincount(sets(rows), minlength=3).tolist() == [4 // world, 10 // world, 2 // world]
    loose = [sets(rows) for _, rows in EpochSampler(SIZES, 16, 0, SHARES)]
    assert len({tuple(np.bincount(batch, minlength=3)) for batch in loose}) > 1


def test_uneven_shares_are_off_by_a_person() -> None:
    mix = MixConfig(kind="shares", weights=(1, 2, 4.3), people=200, even=True)
    share = np.array(counts(SIZES, mix)) / 200
    for _, rows in EpochSampler(SIZES, 12, 0, mix):
        assert np.abs(np.bincount(sets(rows), minlength=3) - share * len(rows)).max() < 1.5


def test_a_rows_second_appearance_is_augmented_anew() -> None:
    run, table = tiny_run(), random_table(5)
    mix = Mix([table], run.patch, run.depth, AUGMENT, seed=0)
    batch = mix[0, [3, 3 + len(mix)]]
    assert batch.row.tolist() == [3, 3]
    assert not np.array_equal(batch.img_to_patch[0], batch.img_to_patch[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.mix.weights=[1]"], "data.mix.weights: (1.0,) given, must be left out with kind: rows"),
        (["data.mix.kind=shares"], "data.mix.weights: () given, must be one for each set"),
        (["data.mix.kind=shares", "data.mix.weights=[1, 2]"], "data.mix: 2 weights given for 1 sets"),
        (["data.mix={kind: shares, weights: [-1]}"], "data.mix.weights: (-1.0,) given, must be positive"),
        (["data.mix.people=5"], "data.mix.people: 5 given, must be left out"),
        (["data.mix.kind=eccv"], "did you mean 'eccv2018'"),
    ],
)
def test_wrong_mixes(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        config.load(None, words)
    assert said in str(error.value)


def test_a_mixed_run_says_its_coverage(tmp_path: Path) -> None:
    second = "{name: synthetic, split: train, count: 30, seed: 1}"
    run = tiny_run(
        f"data.train=[{{name: synthetic, split: train, count: 8}}, {second}]",
        "data.mix={kind: shares, weights: [1, 1], people: 24, even: true}",
    )
    engine.train(run, tmp_path)
    start, *epochs = [record for record in runlog.read(tmp_path) if record["kind"] in ("run", "epoch")]
    assert start["config"]["data"]["mix"]["people"] == 24
    assert [record["step"] for record in epochs] == [2, 4]  # 24 people in batches of 12
    assert [record["coverage data.train.0"] for record in epochs] == [1.0, 1.0]
    assert [record["coverage data.train.1"] for record in epochs] == [12 / 30, 24 / 30]
