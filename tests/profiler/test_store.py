"""Stored points: found again, shared by processes, never lost silently."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esen_lab.devices import DeviceIdentity
from esen_lab.errors import StoreError, UsageError
from esen_lab.profiler.records import Point
from esen_lab.profiler.store import (
    PointKey,
    ProfileStore,
    default_store_path,
    library_versions,
)

ROOT = Path(__file__).parents[2]
KEY = PointKey(fingerprint="f", example="float32[1, 64]", device="{}", versions="torch 2", units=3)
POINT = Point(
    name="wide",
    units=3,
    median_s=0.1,
    spread_s=0.01,
    quantile_90_s=0.12,
    repeats=12,
    warmups=6,
    settled=True,
    peak_memory_bytes=123_456_789_012,
    measured_at="2026-01-02T03:04:05+00:00",
    budget_s=1.0,
)


def in_process(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return out


def test_a_stored_point_is_found_again_and_says_that_it_is_reused(store: ProfileStore) -> None:
    store.put(KEY, POINT)
    assert ProfileStore(store.path).get(KEY) == replace(POINT, reused=True)
    assert store.notes == ()


def test_absent_memory_stays_absent(store: ProfileStore) -> None:
    store.put(KEY, replace(POINT, peak_memory_bytes=None))
    found = store.get(KEY)
    assert found is not None
    assert found.peak_memory_bytes is None


@pytest.mark.parametrize(
    "other",
    [{"fingerprint": "g"}, {"example": "float32[2, 64]"}, {"device": "[]"}, {"versions": "torch 3"}, {"units": 4}],
    ids=lambda other: next(iter(other)),
)
def test_a_point_of_anything_else_is_not_found(store: ProfileStore, other: dict[str, object]) -> None:
    store.put(KEY, POINT)
    assert store.get(replace(KEY, **other)) is None


def test_all_curves_of_a_device_are_found_at_once(store: ProfileStore) -> None:
    assert store.curves("{}", "torch 2") == {}
    for name, units, median_s in (("f", 1, 0.3), ("f", 3, 0.1), ("g", 1, 0.5)):
        store.put(replace(KEY, fingerprint=name, units=units), replace(POINT, units=units, median_s=median_s))
    store.put(replace(KEY, device="another"), POINT)
    store.put(replace(KEY, versions="torch 3"), POINT)
    example = KEY.example
    assert store.curves("{}", "torch 2") == {("f", example): {1: 0.3, 3: 0.1}, ("g", example): {1: 0.5}}
    assert store.curves("{}", "torch 3") == {("f", example): {3: 0.1}}


def test_curves_include_what_could_not_be_written_and_leave_out_what_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = ProfileStore(tmp_path / "file" / "profiles.sqlite3")
    nowhere.put(KEY, POINT)
    nowhere.put(replace(KEY, units=1), replace(POINT, units=1, median_s=0.0))
    assert nowhere.curves("{}", "torch 2") == {("f", KEY.example): {3: 0.1}}


def test_a_second_measurement_replaces_the_first(store: ProfileStore) -> None:
    store.put(KEY, POINT)
    store.put(KEY, replace(POINT, median_s=0.2))
    found = store.get(KEY)
    assert found is not None
    assert found.median_s == 0.2


def test_a_store_stays_the_same_file_wherever_the_process_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = ProfileStore("profiles.sqlite3")
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.put(KEY, POINT)
    assert (tmp_path / "profiles.sqlite3").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("path", [5, b"profiles", "", "a\0b"])
def test_a_store_that_cannot_be_a_file_is_refused_at_once(path: Any) -> None:
    with pytest.raises(UsageError, match="file"):
        ProfileStore(path)


def test_asking_an_absent_store_makes_no_file(store: ProfileStore) -> None:
    assert store.get(KEY) is None
    assert not store.path.parent.exists()
    assert store.notes == ()


def test_names_with_quotes_are_only_text(store: ProfileStore) -> None:
    key = replace(KEY, fingerprint="'; DROP TABLE points; --", example='"\n\\')
    store.put(key, POINT)
    store.put(KEY, POINT)
    assert store.get(key) is not None


def test_a_path_with_odd_characters_is_only_a_path(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "50% of #1? données" / "pro files.sqlite3")
    store.put(KEY, POINT)
    assert store.path.exists()
    assert ProfileStore(store.path).get(KEY) is not None


def test_several_processes_fill_one_new_store_at_once(store: ProfileStore) -> None:
    code = """if True:
        import sys
        from dataclasses import replace
        sys.path.insert(0, "tests/profiler")
        from test_store import KEY, POINT
        from esen_lab.profiler.store import ProfileStore
        store = ProfileStore(sys.argv[1])
        for units in range(1, 21):
            store.put(replace(KEY, fingerprint=sys.argv[2], units=units), replace(POINT, units=units))
        print(store.unsaved, store.notes)
    """
    processes = [in_process(code, store.path, name) for name in "abcdef"]
    assert [output_of(process) for process in processes] == ["0 ()\n"] * 6
    found = [store.get(replace(KEY, fingerprint=name, units=units)) for name in "abcdef" for units in range(1, 21)]
    assert None not in found


def test_a_process_killed_while_it_stores_leaves_a_sound_store(store: ProfileStore) -> None:
    code = """if True:
        import sys
        from dataclasses import replace
        sys.path.insert(0, "tests/profiler")
        from test_store import KEY, POINT
        from esen_lab.profiler.store import ProfileStore
        store = ProfileStore(sys.argv[1])
        units = 0
        while True:
            units += 1
            store.put(replace(KEY, units=units), POINT)
            print(units, flush=True)
    """
    process = in_process(code, store.path)
    assert process.stdout is not None
    stored = [process.stdout.readline() for _ in range(30)]
    process.kill()
    process.communicate(timeout=60)
    assert [store.get(replace(KEY, units=int(line))) is not None for line in stored] == [True] * 30
    store.put(replace(KEY, fingerprint="later"), POINT)
    assert (store.unsaved, store.notes) == (0, ())


# --- damage ---------------------------------------------------------------------------------------------------------


def overwritten(path: Path) -> None:
    path.write_bytes(b"this is no database at all" * 100)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def scribbled(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = random.Random(0).randbytes(len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [overwritten, cut, scribbled])
def test_a_damaged_store_is_moved_aside_with_a_warning_and_a_new_one_works(store: ProfileStore, damage: object) -> None:
    store.put(KEY, POINT)
    damage(store.path)  # type: ignore[operator]
    before = store.path.read_bytes()
    again = ProfileStore(store.path)
    with pytest.warns(UserWarning, match=r"was damaged .* moved to .*measured again"):
        assert again.get(KEY) is None
    (aside,) = store.path.parent.glob("*.damaged-*")
    assert aside.read_bytes() == before
    assert str(aside) in again.notes[0]
    again.put(KEY, POINT)
    assert ProfileStore(store.path).get(KEY) is not None
    assert len(again.notes) == 1


def test_damage_that_happens_under_an_open_store_loses_no_new_point(store: ProfileStore) -> None:
    store.put(KEY, POINT)
    overwritten(store.path)
    with pytest.warns(UserWarning, match="damaged"):
        store.put(replace(KEY, units=4), POINT)
    assert store.unsaved == 0
    assert ProfileStore(store.path).get(replace(KEY, units=4)) is not None


def test_processes_that_find_the_damage_together_move_it_aside_once(store: ProfileStore) -> None:
    store.put(KEY, POINT)
    overwritten(store.path)
    code = """if True:
        import sys, warnings
        from dataclasses import replace
        sys.path.insert(0, "tests/profiler")
        from test_store import KEY, POINT
        from esen_lab.profiler.store import ProfileStore
        warnings.simplefilter("ignore")
        store = ProfileStore(sys.argv[1])
        store.put(replace(KEY, fingerprint=sys.argv[2]), POINT)
        print(store.unsaved)
    """
    assert [output_of(p) for p in [in_process(code, store.path, name) for name in "abcd"]] == ["0\n"] * 4
    assert len(list(store.path.parent.glob("*.damaged-*"))) == 1
    assert None not in [store.get(replace(KEY, fingerprint=name)) for name in "abcd"]


@pytest.mark.parametrize("spoilt", ["median_s = -1", "readings = 'nonsense'"])
def test_a_point_that_somebody_spoilt_is_not_believed(store: ProfileStore, spoilt: str) -> None:
    store.put(KEY, POINT)
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute(f"UPDATE points SET {spoilt}")
        connection.commit()
    assert store.get(KEY) is None


# --- files that are not ours to change --------------------------------------------------------------------------------


def test_a_store_of_a_newer_version_is_left_alone(store: ProfileStore) -> None:
    store.put(KEY, POINT)
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    newer = ProfileStore(store.path)
    assert newer.get(KEY) is None
    newer.put(KEY, POINT)
    assert newer.get(KEY) == replace(POINT, reused=True)
    assert newer.unsaved == 1
    assert all("newer version of esen_lab made it, schema 99" in note for note in newer.notes)
    with closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)


def made_by_version_1(path: Path) -> None:
    """A store as it was before it kept readings, with one point."""
    ProfileStore(path).put(KEY, POINT)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE points DROP COLUMN readings")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()


def test_a_store_of_the_version_before_keeps_its_points_and_takes_readings(store: ProfileStore) -> None:
    made_by_version_1(store.path)
    again = ProfileStore(store.path)
    assert again.get(KEY) == replace(POINT, reused=True)
    read = replace(POINT, readings={"sm_percent": 61.5, "dram_percent": "Not Supported"})
    again.put(KEY, read)
    assert ProfileStore(store.path).get(KEY) == replace(read, reused=True)
    assert again.notes == ()


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bookmarks.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (address TEXT)")
        connection.commit()
    before = path.read_bytes()
    store = ProfileStore(path)
    store.put(KEY, POINT)
    assert store.get(KEY) is not None
    assert "another program made it" in store.notes[0]
    assert path.read_bytes() == before


def test_a_store_under_a_file_keeps_points_in_memory_and_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = ProfileStore(tmp_path / "file" / "profiles.sqlite3")
    for units in range(1, 4):
        store.put(replace(KEY, units=units), POINT)
    assert store.unsaved == 3
    assert store.get(replace(KEY, units=2)) is not None
    (note,) = [note for note in store.notes if "stay in memory" in note]
    assert "profiles.sqlite3" in note


def test_points_kept_in_memory_are_written_once_that_is_possible_again(tmp_path: Path) -> None:
    obstacle = tmp_path / "folder"
    obstacle.write_text("in the way")
    store = ProfileStore(obstacle / "profiles.sqlite3")
    store.put(KEY, POINT)
    assert store.unsaved == 1
    obstacle.unlink()
    store.close()
    assert (store.unsaved, store.notes) == (0, ())
    assert ProfileStore(store.path).get(KEY) is not None


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[Path]:
    """A folder for tests of what is forbidden; a superuser, to whom nothing is, becomes an ordinary user meanwhile."""
    if os.geteuid() != 0:
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="esen-test-"))
    os.chown(folder, 65534, 65534)
    os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_read_only_store_is_read_and_new_points_stay_in_memory(unprivileged: Path) -> None:
    folder = unprivileged / "shared"
    store = ProfileStore(folder / "profiles.sqlite3")
    store.put(KEY, POINT)
    store.path.chmod(0o444)
    folder.chmod(0o555)
    try:
        reader = ProfileStore(store.path)
        assert reader.get(KEY) is not None
        reader.put(replace(KEY, units=4), POINT)
        assert reader.unsaved == 1
        assert reader.get(replace(KEY, units=4)) is not None
        assert ["stay in memory" in note for note in reader.notes] == [True]
    finally:
        folder.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
def test_a_full_disk_loses_no_point(store: ProfileStore) -> None:
    # A limit on the size of files stands for the full disk: writing fails in the middle in the same way.
    code = """if True:
        import resource, sys
        from dataclasses import replace
        sys.path.insert(0, "tests/profiler")
        from test_store import KEY, POINT
        from esen_lab.profiler.store import ProfileStore
        store = ProfileStore(sys.argv[1])
        store.put(KEY, POINT)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
        keys = [replace(KEY, fingerprint="x" * 500, units=units) for units in range(1, 101)]
        for key in keys:
            store.put(key, POINT)
        print(store.unsaved > 0, all(store.get(key) for key in keys), ["stay in memory" in n for n in store.notes])
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.close()
        print(store.unsaved, store.notes)
    """
    assert output_of(in_process(code, store.path)) == "True True [True]\n0 ()\n"
    assert store.get(KEY) is not None
    assert store.get(replace(KEY, fingerprint="x" * 500, units=100)) is not None


# --- keys -------------------------------------------------------------------------------------------------------------


def test_equal_devices_have_equal_keys_whatever_the_order_of_their_details() -> None:
    one = DeviceIdentity(kind="cpu", name="n", units=2, unit="core", details={"a": "1", "b": "2"})
    two = DeviceIdentity(kind="cpu", name="n", units=2, unit="core", details={"b": "2", "a": "1"})
    assert one.key == two.key
    assert one.key != replace(one, simulated=True).key
    assert json.loads(one.key) == one.to_dict()


def test_the_versions_name_torch_without_loading_it_and_python() -> None:
    code = "import sys; from esen_lab.profiler.store import library_versions as v; print(v(), 'torch' in sys.modules)"
    assert output_of(in_process(code)) == f"{library_versions()} False\n"
    import torch

    assert f"torch {torch.__version__}" in library_versions()
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}," in library_versions()


def test_a_user_without_a_home_is_told_what_to_set() -> None:
    with pytest.raises(StoreError, match="Set ESEN_LAB_HOME"):
        default_store_path({"ESEN_LAB_HOME": "~no-such-user-here/esen"})


@pytest.mark.parametrize(
    ("environment", "platform", "path"),
    [
        ({"ESEN_LAB_HOME": "/data/esen", "XDG_CACHE_HOME": "/x"}, "linux", "/data/esen/profiles.sqlite3"),
        ({"XDG_CACHE_HOME": "/x"}, "linux", "/x/esen_lab/profiles.sqlite3"),
        ({"XDG_CACHE_HOME": "/x"}, "darwin", "/x/esen_lab/profiles.sqlite3"),
        ({"XDG_CACHE_HOME": "relative"}, "linux", "~/.cache/esen_lab/profiles.sqlite3"),
        ({}, "linux", "~/.cache/esen_lab/profiles.sqlite3"),
        ({}, "darwin", "~/Library/Caches/esen_lab/profiles.sqlite3"),
        ({"ESEN_LAB_HOME": "~/mine"}, "linux", "~/mine/profiles.sqlite3"),
    ],
)
def test_the_default_path_follows_the_systems_customs(environment: dict[str, str], platform: str, path: str) -> None:
    assert default_store_path(environment, platform) == Path(path).expanduser()
