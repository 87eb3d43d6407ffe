"""What the datasets share whose options are declared before their reader exists."""

from __future__ import annotations

from typing import NoReturn

from ipr.choices import not_one_of


def check_split(split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise ValueError(f"split: {split!r} is no split, {not_one_of(split, known)}")


def check_detector(boxes: str, detector: str) -> None:
    if boxes == "detector" and not detector:
        raise ValueError("detector: empty, but boxes: detector needs the name of a folder under detection/")
    if boxes != "detector" and detector:
        raise ValueError(f"detector: {detector!r} is not used with boxes: {boxes}, but with boxes: detector")


def no_reader(dataset: str, root: str) -> NoReturn:
    raise ValueError(
        f"{dataset} (root: {root}) is declared in this version of ipr, but cannot be read yet; "
        "to train on the synthetic set instead, give: 'data.train=[{name: synthetic, split: train}]' "
        "'data.valid={name: synthetic, split: valid}' depth.rule=rect3d"
    )
