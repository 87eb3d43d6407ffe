"""Checks of options that several datasets have."""

from __future__ import annotations

from ipr.choices import not_one_of


def check_split(split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise ValueError(f"split: {split!r} is no split, {not_one_of(split, known)}")


def check_detector(boxes: str, detector: str) -> None:
    if boxes == "detector" and not detector:
        raise ValueError("detector: empty, but boxes: detector needs the name of a folder under detection/")
    if boxes != "detector" and detector:
        raise ValueError(f"detector: {detector!r} is not used with boxes: {boxes}, but with boxes: detector")
