"""The table cache: what comes back, when it is built again, what it does where it cannot be written."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from ipr import table_cache, validation
from ipr.images import FileImages
from ipr.skeleton import by_name
from ipr.types import PoseTable
from tests.data import random_table
from tests.runs import tiny_run

ROWS = 40
TARGET = by_name("h36m_18")


@dataclasses.dataclass(frozen=True)
class Config:
    """People whose number and skeleton a file says; a line in the file ``log`` for each time it is read."""

    root: str
    seed: int = 0
    pause: float = 0

    def sources(self) -> list[Path]:
        return [Path(self.root) / "people.json"]

    def build(self) -> PoseTable:
        (source,) = self.sources()
        with open(Path(self.root) / "log", "a") as log:
            log.write("built\n")
        time.sleep(self.pause)
        said = json.loads(source.read_text())
        table = random_table(said["rows"], seed=self.seed, skeleton=said["skeleton"])
        rows = np.arange(len(table))
        assert table.camera is not None
        return dataclasses.replace(
            table,
            image=FileImages(
                [f"{self.root}/video {row % 3}/\udcff{row}.jpg" for row in rows], [[9, 16]] * ROWS
            ),
            camera=table.camera._replace(distortion=np.tile([0.1, 0, 0, 0.2, 0], (ROWS, 1))),
            weight=(rows[:, None, None] % 2) * np.ones((1, table.skeleton.num_joints, 3)),
            group={"action": np.array(["walk", "sit"])[rows % 2], "frame": rows.astype(np.int64)},
            extra={"head": rows / 7},
            description="people of tests",
        )


def dataset(folder: Path, skeleton: str = "h36m_18", **options: float) -> Config:
    folder.mkdir(exist_ok=True)
    (folder / "people.json").write_text(json.dumps({"rows": ROWS, "skeleton": skeleton}))
    return Config(str(folder), **options)


def load(people: Config, folder: Path | None) -> PoseTable:
    return table_cache.stored(people.build, people, TARGET, folder)


def times_built(people: Config) -> int:
    log = Path(people.root) / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def same(one: PoseTable, other: PoseTable) -> None:
    """Every field, to the last bit; weights whatever their type."""

    def flat(table: PoseTable) -> dict[str, object]:
        assert isinstance(table.image, FileImages)
        fields = vars(table) | {"names": [table.image.name(row) for row in range(len(table))]}
        fields["image"] = [table.image.image_size(row) for row in range(len(table))]
        fields["weight"] = table.weight.astype(np.float64)
        fields["camera"] = None if table.camera is None else table.camera._asdict()
        for name in ("camera", "group", "extra"):
            fields |= {f"{name}.{key}": value for key, value in (fields.pop(name) or {}).items()}
        return fields

    left, right = flat(one), flat(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == right[name].dtype, name  # type: ignore[attr-defined]
            np.testing.assert_array_equal(value, right[name], err_msg=name)
        else:
            assert value == right[name], name


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    people = dataset(tmp_path / "data")
    fresh = people.build()
    first, again = load(people, tmp_path / "tables"), load(people, tmp_path / "tables")
    same(fresh, first)
    same(fresh, again)
    assert times_built(people) == 2  # once here, once for the cache
    assert again.weight.dtype == np.uint8 and not again.joints_img.flags.writeable
    files = [path for path in (tmp_path / "tables").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".npy", ".json"}
    for path in files:
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


def test_fields_that_are_none_and_weights_between_0_and_1(tmp_path: Path) -> None:
    people = dataset(tmp_path / "data")
    table = people.build()
    bare = dataclasses.replace(
        table,
        **dict.fromkeys(("joints_cam", "camera", "root_depth", "group", "extra")),
        weight=table.weight / 2,
        image=FileImages([f"{row}.png" for row in range(ROWS)]),
    )
    same_image = dataclasses.replace(bare, image=table.image)  # the others' sizes would need files
    found = table_cache.stored(lambda: same_image, people, TARGET, tmp_path / "tables")
    same(found, same_image)
    assert found.weight.dtype == np.float64
    shutil.rmtree(tmp_path / "tables")
    unknown = dataclasses.replace(table, weight=np.where(table.weight > 0, 1, np.nan))
    same(table_cache.stored(lambda: unknown, people, TARGET, tmp_path / "tables"), unknown)
    shutil.rmtree(tmp_path / "tables")
    found = table_cache.stored(lambda: bare, people, TARGET, tmp_path / "tables")
    assert found.image.name(3) == "3.png"
    with pytest.raises(ValueError, match=r"3.png: cannot be read"):
        found.image.image_size(3)


def test_what_makes_it_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people, tables = dataset(tmp_path / "data"), tmp_path / "tables"
    (source,) = people.sources()
    load(people, tables)

    def built_again(people: Config = people, target: str = "h36m_18") -> bool:
        before = times_built(people)
        table_cache.stored(people.build, people, by_name(target), tables)
        return times_built(people) > before

    assert not built_again()
    os.utime(source, ns=(0, 12345))
    assert built_again() and not built_again()
    assert "is built again: its sources, options or reader have changed" in capsys.readouterr().err
    state = source.stat()
    source.write_text(source.read_text() + "\n")
    os.utime(source, ns=(0, state.st_mtime_ns))  # of another size
    assert built_again() and not built_again()
    assert built_again(dataclasses.replace(people, seed=1)) and built_again(target="h36m_17")
    assert not built_again()  # the other options and joints have places of their own


def test_another_reader_or_format_makes_it_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people, tables = dataset(tmp_path / "data"), tmp_path / "tables"
    load(people, tables)
    monkeypatch.setattr(table_cache, "_FORMAT", table_cache._FORMAT + 1)
    load(people, tables)
    assert times_built(people) == 2
    code = tmp_path / "reader.py"
    code.write_bytes(Path(__file__).read_bytes() + b"\n")
    found = table_cache.inspect.getfile
    monkeypatch.setattr(table_cache.inspect, "getfile", lambda of: str(code) if of is Config else found(of))
    load(people, tables)
    load(people, tables)
    assert times_built(people) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "deleted", "no index", "other index", "no arrays"])
def test_damage_is_built_again_with_one_line(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people, tables = dataset(tmp_path / "data"), tmp_path / "tables"
    fresh = load(people, tables)
    (index,), (folder,) = tables.glob("*.json"), (path for path in tables.iterdir() if path.is_dir())
    largest = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    if damage == "cut":
        largest.write_bytes(content[:-100])
    elif damage == "flipped":
        content[-5] ^= 1
        largest.write_bytes(content)
    elif damage == "deleted":
        largest.unlink()
    elif damage == "no arrays":
        shutil.rmtree(folder)
    else:
        text = index.read_text()
        index.write_text(text[:-9] if damage == "no index" else text.replace('"mm"', '"px"'))
    with_damage = load(people, tables)
    same(with_damage, people.build())
    assert fresh.depth_unit == with_damage.depth_unit
    (line,) = capsys.readouterr().err.splitlines()
    assert "is built again" in line and ("damaged" in line or "missing" in line)
    load(people, tables)
    assert times_built(people) == 3 and not capsys.readouterr().err  # one of them the comparison


def _load(arguments: tuple[Config, Path]) -> float:
    return float(load(*arguments).joints_img.sum())


def test_several_processes_build_at_once(tmp_path: Path) -> None:
    people, tables = dataset(tmp_path / "data", pause=0.3), tmp_path / "tables"
    with multiprocessing.get_context("fork").Pool(4) as pool:
        sums = pool.map(_load, [(people, tables)] * 4, chunksize=1)
    assert sums == [float(people.build().joints_img.sum())] * 4
    built = times_built(people)
    load(people, tables)
    assert times_built(people) == built
    assert len(list(tables.glob("*.json"))) == 1 and not list(tables.glob("*.tmp"))


def test_earlier_tables_are_deleted_when_nobody_uses_them(tmp_path: Path) -> None:
    people, tables = dataset(tmp_path / "data"), tmp_path / "tables"
    (source,) = people.sources()
    load(people, tables)
    (first,) = (path for path in tables.iterdir() if path.is_dir())
    os.utime(source, ns=(0, 1))
    load(people, tables)
    assert first.exists()  # perhaps a process has it mapped
    os.utime(first, (0, 0))
    os.utime(source, ns=(0, 2))
    load(people, tables)
    assert not first.exists()


def test_where_it_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = dataset(tmp_path / "data")
    (tmp_path / "file").write_text("")
    same(load(people, tmp_path / "file" / "tables"), people.build())
    (line,) = capsys.readouterr().err.splitlines()
    assert "the table is not stored" in line and str(tmp_path / "file") in line


def test_a_missing_source_is_the_readers_to_say(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"people\.json"):
        load(Config(str(tmp_path)), tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


def test_a_runs_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the user's folder, in ``data.cache``, or nowhere; stored with the run's joints."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    people = dataset(tmp_path / "data", "h36m_17")

    def read(*overrides: str) -> PoseTable:
        return validation.read_table(tiny_run(f"data.root={tmp_path}", *overrides), people, "data.valid")

    plain = read("data.cache=off")
    assert not (tmp_path / "user").exists() and plain.skeleton == TARGET
    for overrides, folder in (
        ((), "user/ipr/tables"),
        ((f"data.cache={tmp_path / 'shared'}",), "shared/tables"),
    ):
        before = times_built(people)
        same(read(*overrides), plain)
        same(read(*overrides), plain)
        assert times_built(people) == before + 1 and len(list((tmp_path / folder).glob("table-*.json"))) == 1
