"""What happens to rows that cannot be loaded: raised, or counted and listed up to a share."""

from __future__ import annotations

import pickle

import pytest

from ipr.images import ErrorPolicy, ImageError
from ipr.types import Failure


def _failures(*rows: int) -> list[Failure]:
    return [Failure(1, row, f"/data/{row}.jpg: is empty") for row in rows]


def test_raise_stops_at_the_first() -> None:
    policy = ErrorPolicy("raise")
    assert policy.count(8, []) == []
    with pytest.raises(ImageError, match=r"^row 5 of table 1, /data/5\.jpg: is empty$"):
        policy.count(8, _failures(5, 6))


def test_skip_counts_and_lists() -> None:
    policy = ErrorPolicy("skip", most=0.01, listed=3)
    assert policy.summary() == ""
    assert policy.count(100, _failures(1, 2)) == _failures(1, 2)
    assert policy.count(100, _failures(2, 3, 4)) == _failures(3)  # one is known, one more than are listed
    assert (policy.tried, policy.failed) == (200, 5)
    assert policy.summary().splitlines() == [
        "5 of 200 rows could not be loaded (2.50%)",
        *(f"  row {row} of table 1, /data/{row}.jpg: is empty" for row in (1, 2, 3)),
    ]
    assert pickle.loads(pickle.dumps(policy)).first == policy.first


def test_skip_stops_when_more_than_its_share_fails() -> None:
    policy = ErrorPolicy("skip", most=0.01)
    policy.count(10, _failures(*range(10)))  # all of the first 10, but 1 % of 1000
    with pytest.raises(
        ImageError, match=r"on_error: skip allows 1\.00%: 11 of 20 rows .*\n  row 0 of table 1"
    ):
        policy.count(10, _failures(10))
    policy = ErrorPolicy("skip", most=0.01)
    for _ in range(100):
        policy.count(100, _failures(7))  # exactly the share
    with pytest.raises(ImageError, match=r"102 of 10100 rows"):
        policy.count(100, _failures(7, 8))
    with pytest.raises(ImageError, match=r"allows 0\.00%: 1 of 5000"):
        ErrorPolicy("skip", most=0).count(5000, _failures(1))


def test_a_policy_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="on_error: 'ignore' given, must be 'raise' or 'skip'"):
        ErrorPolicy("ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"most: 5 given, must be a share in 0\.\.1"):
        ErrorPolicy("skip", most=5)
