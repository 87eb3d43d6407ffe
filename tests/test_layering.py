"""The house's rules that a program can check: no import points up, no text runs as code, files stay short."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "ipr").rglob("*.py"))

# From the bottom up. A module may import its own layer and those before it.
LAYERS = (
    {"_distribution", "types", "choices", "jpeg", "ops", "nn"},
    {
        "strict_yaml",
        "config",
        "skeleton",
        "geometry",
        "retarget",
        "images",
        "distributed",
        "sampler",
        "cutouts",
        "occlusion",
        "shard",
        "transfer",
        "faults",
    },
    {"datasets", "backbones", "heads", "losses", "metrics", "augment"},
    {"model", "loader", "cache", "table_cache", "decode", "checkpoint", "legacy"},
    {
        "engine",
        "resume",
        "validation",
        "protocol",
        "pose_files",
        "report",
        "runlog",
        "visualize",
        "cli",
        "findings",
        "checks",
        "geometry_checks",
        "image_checks",
    },
    {"train", "evaluate", "convert", "check", "occluders"},
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def part(path: Path) -> str:
    """The piece of ipr that a file belongs to: ``ops`` for ipr/ops/_library.py, ``model`` for model.py."""
    return path.relative_to(ROOT / "ipr").with_suffix("").parts[0]


def imported_parts(path: Path) -> set[str]:
    """The pieces of ipr that a file imports, wherever in it the import stands."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write from ipr..."
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    names = {module.split(".")[1] for module in modules if module.startswith("ipr.")}
    return names - {"__version__", "cmake_prefix_path"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    if path == ROOT / "ipr" / "__init__.py":
        assert imported_parts(path) <= {"_distribution", "model"}  # model: inside __getattr__
        return
    unplaced = {part(path), *imported_parts(path)} - set(LAYER)
    assert not unplaced, f"{sorted(unplaced)} have no layer: place them in LAYERS of this test"
    upward = {name for name in imported_parts(path) if LAYER[name] > LAYER[part(path)]}
    assert not upward, f"{path.relative_to(ROOT)} imports {sorted(upward)}, which lie above it"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_text_as_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"exec", "eval", "compile", "__import__"}, f"{path}:{node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("sys", "path"), f"{path}:{node.lineno}"


def test_files_stay_short() -> None:
    files = [*SOURCES, *(path for path in (ROOT / "csrc").rglob("*") if path.is_file())]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_choices_do_not_know_each_other() -> None:
    """A choice is a file of its own: it may lean on private siblings (_name), never on another choice."""
    kinds = {"datasets", "backbones", "heads", "losses", "metrics"}
    for path in (path for path in SOURCES if part(path) in kinds):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"ipr.{part(path)}."):
                names = str(node.module).split(".")[2:3] or [alias.name for alias in node.names]
                assert all(name.startswith("_") for name in names), f"{path}:{node.lineno} imports {names}"
