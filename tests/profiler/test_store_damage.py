"""A store that somebody spoilt: moved aside or refused with a note; nothing is raised, nothing takes long."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from test_store import KEY, POINT, ROOT

from esen_lab.errors import UsageError
from esen_lab.files import database
from esen_lab.profiler.store import ProfileStore

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
COLUMNS = (
    "fingerprint, example, device, versions, units, name, median_s, spread_s, quantile_90_s, repeats, warmups, "
    "settled, peak_memory_bytes, measured_at, budget_s, readings"
)
NEW = replace(KEY, fingerprint="new")


@pytest.fixture
def filled(store: ProfileStore) -> Path:
    """A store with two points; its file is at rest."""
    store.put(KEY, POINT)
    store.put(replace(KEY, units=1), replace(POINT, units=1, median_s=0.3))
    return store.path


def spoil(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
        connection.commit()


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "name = CAST(x'ff' AS TEXT)",
        "name = CAST(x'610a62' AS BLOB)",
        "name = ''",
        "name = printf('%.*c', 100, 'x')",
        "measured_at = CAST(x'c328' AS TEXT)",
        "median_s = -1.0",
        "median_s = 0.0",
        "median_s = 9e999",
        "median_s = 1e300",
        "median_s = 'fast'",
        "spread_s = -1.0",
        "quantile_90_s = 9e999",
        "repeats = -1",
        "repeats = 'many'",
        "warmups = 9223372036854775807",
        "settled = 7",
        "settled = 'yes'",
        "peak_memory_bytes = -5",
        "peak_memory_bytes = 'much'",
        "budget_s = x'00'",
        "readings = CAST(x'ff' AS TEXT)",
        "readings = x'7b7d'",
        "readings = '[]'",
        "readings = '{\"a\": [1]}'",
        "readings = '{\"a\": NaN}'",
        "readings = '{\"a\": 1e999}'",
        f"readings = '{'[' * 50_000}'",
        "readings = '" + '{"a":' * 20_000 + "'",
    ],
    ids=lambda change: change[:30],
)
def test_a_row_that_cannot_be_is_as_if_it_were_not_there(filled: Path, change: str) -> None:
    spoil(filled, f"UPDATE points SET {change} WHERE units = 3")
    store = ProfileStore(filled)
    assert store.get(KEY) is None
    assert store.get(replace(KEY, units=1)) is not None
    assert 1 in store.curves("{}", "torch 2")["f", KEY.example]
    store.put(KEY, POINT)
    assert ProfileStore(filled).get(KEY) is not None
    assert store.notes == ()


@pytest.mark.parametrize(
    "change", ["units = 'x'", "units = -1", "units = 1e18", "median_s = 9e999", "fingerprint = CAST(x'ff' AS TEXT)"]
)
def test_a_row_that_cannot_be_is_no_part_of_any_curve(filled: Path, change: str) -> None:
    spoil(filled, f"UPDATE points SET {change} WHERE units = 3")
    assert ProfileStore(filled).curves("{}", "torch 2") == {("f", KEY.example): {1: 0.3}}


# --- the whole file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        f"ALTER TABLE points RENAME TO p; CREATE VIEW points AS {ENDLESS} SELECT p.* FROM p, n WHERE i < 0",
        f"DROP TABLE points; CREATE VIEW points AS {ENDLESS} SELECT "
        + ", ".join(f"i AS {name.strip()}" for name in COLUMNS.split(","))
        + " FROM n",
        "CREATE TRIGGER t AFTER INSERT ON points BEGIN DELETE FROM points WHERE units IN "
        f"({ENDLESS} SELECT i FROM n); END",
        "CREATE TRIGGER t BEFORE INSERT ON points BEGIN SELECT RAISE(ABORT, 'no'); END",
        "CREATE TRIGGER t AFTER INSERT ON points BEGIN DELETE FROM points; END",
        "DROP TABLE points",
        "DROP TABLE points; CREATE TABLE points (a, b)",
        f"DROP TABLE points; CREATE TABLE points ({COLUMNS})",
        "CREATE TABLE p AS SELECT * FROM points; DROP TABLE points; ALTER TABLE p RENAME TO points",
        "DROP TABLE points; CREATE VIRTUAL TABLE points USING fts5(a)",
        "CREATE TABLE other (a)",
        "CREATE UNIQUE INDEX i ON points (units)",
        "ALTER TABLE points DROP COLUMN readings",
        "ALTER TABLE points ADD COLUMN more TEXT",
        "ALTER TABLE points ADD COLUMN more AS (units + 1)",
        "PRAGMA user_version = 1",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = -3",
        "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = replace(sql, 'units INTEGER NOT NULL', "
        "'units INTEGER NOT NULL CHECK (units < 0)') WHERE name = 'points'",
    ],
    ids=lambda script: script[:40],
)
def test_a_store_that_is_built_otherwise_is_moved_aside_and_a_new_one_begun(filled: Path, script: str) -> None:
    spoil(filled, script)
    store = ProfileStore(filled)
    with at_most(3):
        with pytest.warns(UserWarning, match="was damaged .* moved to"):
            store.put(NEW, POINT)
        assert store.get(KEY) is None
        store.curves("{}", "torch 2")
        store.close()
    assert store.unsaved == 0
    assert ProfileStore(filled).get(NEW) is not None
    assert len(list(filled.parent.glob("*.damaged-*"))) == 1


def test_a_value_of_a_hundred_megabytes_moves_the_store_aside(filled: Path) -> None:
    spoil(filled, "UPDATE points SET readings = zeroblob(100000000)")
    with pytest.warns(UserWarning, match="damaged"):
        assert ProfileStore(filled).get(KEY) is None


def test_a_store_larger_than_any_is_moved_aside_unread(filled: Path) -> None:
    with open(filled, "ab") as file:
        file.truncate(10**12)  # a hole: nothing is written
    store = ProfileStore(filled)
    with at_most(3), pytest.warns(UserWarning, match="1,000,000,000,000 bytes"):
        store.put(NEW, POINT)
    assert ProfileStore(filled).get(NEW) is not None


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("what", ["noise", "folder", "pipe"])
def test_what_sqlite_keeps_beside_the_store_may_be_anything(filled: Path, suffix: str, what: str) -> None:
    beside = filled.with_name(filled.name + suffix)
    if what == "noise":
        beside.write_bytes(b"\xaa" * 4096)
    elif what == "folder":
        beside.mkdir()
    else:
        os.mkfifo(beside)
    store = ProfileStore(filled)
    with at_most(3):
        if what == "noise":
            store.put(NEW, POINT)
        else:
            with pytest.warns(UserWarning, match="not an ordinary file"):
                store.put(NEW, POINT)
    assert ProfileStore(filled).get(NEW) is not None


@pytest.mark.skipif(sys.platform == "win32", reason="special files of POSIX")
@pytest.mark.parametrize("what", ["folder", "pipe", "socket", "loop", "device"])
def test_what_is_no_file_is_refused_with_a_note_and_points_stay_in_memory(store: ProfileStore, what: str) -> None:
    path = store.path
    path.parent.mkdir(parents=True)
    if what == "folder":
        path.mkdir()
        (path / "mine").write_text("precious")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as made, in_folder(path.parent):
            made.bind(path.name)
    else:
        path.symlink_to(path.name if what == "loop" else "/dev/zero")
    with at_most(3):
        store.put(KEY, POINT)
        assert store.get(KEY) == replace(POINT, reused=True)
        assert store.get(NEW) is None
        assert store.curves("{}", "torch 2") == {("f", KEY.example): {3: 0.1}}
        store.close()
    assert store.unsaved == 1
    assert any("stay in memory" in note for note in store.notes)
    assert path.is_symlink() or path.exists()


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)  # the name of a socket may have about a hundred bytes
    try:
        yield
    finally:
        os.chdir(before)


def test_a_name_that_no_file_can_have_is_one_note(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none that is zero"):
        ProfileStore(tmp_path / "a\0b")
    for name in ("x" * 300, "\ud800"):
        store = ProfileStore(tmp_path / name)
        store.put(KEY, POINT)
        assert store.get(KEY) is not None
        if name != "\ud800":
            assert store.unsaved == 1
            assert store.notes


def test_a_store_that_somebody_keeps_locked_costs_one_wait(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.5)
    code = """if True:
        import sqlite3, sys, time
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        print("locked", flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", code, str(filled)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        store = ProfileStore(filled)
        with at_most(8):
            for units in range(1, 31):
                store.put(replace(NEW, units=units), replace(POINT, units=units))
                assert store.get(replace(NEW, units=units)) is not None
            store.close()
        assert store.unsaved == 30
        assert any("locked" in note for note in store.notes)
        process.kill()
    store.close()
    assert (store.unsaved, store.notes) == (0, ())


# --- points that no file holds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"median_s": float("nan")},
        {"median_s": -1.0},
        {"spread_s": float("inf")},
        {"repeats": 10**30},
        {"peak_memory_bytes": 2**70},
        {"name": "\ud800"},
    ],
    ids=str,
)
def test_a_point_that_no_file_holds_stays_in_memory_and_keeps_no_other_from_it(
    filled: Path, change: dict[str, object]
) -> None:
    store = ProfileStore(filled)
    store.put(NEW, replace(POINT, **change))
    store.put(replace(NEW, units=2), replace(POINT, units=2))
    assert store.unsaved == 1
    assert any("no file holds its figures" in note for note in store.notes)
    assert ProfileStore(filled).get(replace(NEW, units=2)) is not None
    assert ProfileStore(filled).get(KEY) is not None


def test_readings_that_are_no_numbers_are_kept_as_words(store: ProfileStore) -> None:
    store.put(KEY, replace(POINT, readings={"a": float("nan"), "b": 1.5, "c": "why"}))
    found = ProfileStore(store.path).get(KEY)
    assert found is not None
    assert found.readings == {"a": "nan", "b": 1.5, "c": "why"}


@pytest.mark.parametrize("ask", [lambda store, key: store.get(key), lambda store, key: store.put(key, POINT)])
def test_a_key_that_is_no_text_finds_nothing(filled: Path, ask: Callable[[ProfileStore, object], object]) -> None:
    store = ProfileStore(filled)
    ask(store, replace(KEY, example="\ud800"))
    ask(store, replace(KEY, units=2**80))
    ask(store, replace(KEY, example="x" * 3_000_000))
    ask(store, replace(KEY, device=object()))
    assert ProfileStore(filled).get(KEY) is not None
