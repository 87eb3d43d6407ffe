"""An unrelated distribution, `ipr` on PyPI, imports as ``ipr`` too; beside it, ours cannot work."""

from __future__ import annotations

from importlib import metadata


def refuse_foreign() -> None:
    """ImportError where the unrelated distribution `ipr` is installed beside ours (`integral-pose`)."""
    try:
        foreign = metadata.distribution("ipr")
    except metadata.PackageNotFoundError:
        return
    raise ImportError(
        f"The unrelated distribution 'ipr' {foreign.version} in {foreign.locate_file('')} imports as 'ipr' "
        "too, and its files hide or overwrite those of integral-pose. Run `pip uninstall ipr integral-pose`, "
        "then `pip install .` in the source folder of integral-pose."
    )
