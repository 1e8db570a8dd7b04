"""Finished points on disk: one SQLite file that any number of notebooks read and write at once.

A connection lives for one operation, so none is ever shared by threads or inherited by a forked process; an operation
takes about a millisecond and there are at most some hundred per job. The file is in write-ahead mode: readers never
wait for a writer.

What can go wrong, and what becomes of the points:

    damaged file                      moved aside whole (never deleted), said in `notes` and as a warning; a new one
    made by a newer version, foreign  left alone; points stay in memory
    read-only, full disk, locked      points stay in memory and are written with the next ones that can be
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from esen_lab.devices import DeviceIdentity
from esen_lab.profiling.machine_lock import MachineLock
from esen_lab.profiling.records import Point

SCHEMA_VERSION = 2  # 2: the column "readings"; files of version 1 are given it when they are first written to
APPLICATION_ID = 0x4553454E  # "ESEN": tells our files from other programs' SQLite files
MEASURING_VERSION = 1  # raised when `timing.measure` changes what a figure means: old points are then not reused
BUSY_S = 5.0

_COLUMNS = (
    "name",
    "median_s",
    "spread_s",
    "quantile_90_s",
    "repeats",
    "warmups",
    "settled",
    "peak_memory_bytes",
    "measured_at",
    "budget_s",
    "readings",
)
_KEYS = ("fingerprint", "example", "device", "versions", "units")
_SCHEMA = """
CREATE TABLE points (
    fingerprint TEXT NOT NULL,
    example TEXT NOT NULL,
    device TEXT NOT NULL,
    versions TEXT NOT NULL,
    units INTEGER NOT NULL,
    name TEXT NOT NULL,
    median_s REAL NOT NULL,
    spread_s REAL NOT NULL,
    quantile_90_s REAL NOT NULL,
    repeats INTEGER NOT NULL,
    warmups INTEGER NOT NULL,
    settled INTEGER NOT NULL,
    peak_memory_bytes INTEGER,
    measured_at TEXT NOT NULL,
    budget_s REAL NOT NULL,
    readings TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (fingerprint, example, device, versions, units)
)
"""
_GET = f"SELECT {', '.join(_COLUMNS)} FROM points WHERE {' AND '.join(f'{key} = ?' for key in _KEYS)}"  # noqa: S608  constants
_CURVES = "SELECT fingerprint, example, units, median_s FROM points WHERE device = ? AND versions = ?"
_GET_FROM_1 = _GET.replace("readings", "'{}'", 1)
_UPGRADE_1 = "ALTER TABLE points ADD COLUMN readings TEXT NOT NULL DEFAULT '{}'"
_PUT = (
    f"INSERT OR REPLACE INTO points ({', '.join(_KEYS + _COLUMNS)}) "  # noqa: S608  constants
    f"VALUES ({', '.join('?' * (len(_KEYS) + len(_COLUMNS)))})"
)
_T = TypeVar("_T")
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}


@dataclass(frozen=True, slots=True, kw_only=True)
class PointKey:
    """What a point was measured on. Points with equal keys stand for each other.

    Attributes:
        fingerprint: Of the sub-model: weights, structure, source.
        example: What its example looks like, as `str(TreeSpec)`.
        device: The device's identity, as canonical JSON (see `device_key`).
        versions: Of the libraries that change latencies (see `library_versions`).
        units: The share.
    """

    fingerprint: str
    example: str
    device: str
    versions: str
    units: int


def device_key(identity: DeviceIdentity) -> str:
    """A device's identity as text: equal for equal devices, whatever the order of its details."""
    return json.dumps(identity.to_dict(), sort_keys=True, separators=(",", ":"))


def library_versions() -> str:
    """The versions that stored points depend on: torch's, and that of our way of measuring."""
    try:
        torch = importlib.metadata.version("torch")
        # A wheel called 2.13.0 may hold 2.13.0+cu130. Read, since importing takes seconds.
        where = importlib.util.find_spec("torch")
        text = Path(where.origin).with_name("version.py").read_text(encoding="utf-8") if where and where.origin else ""
        said = re.search(r"^__version__ = ['\"]([^'\"]+)", text, re.MULTILINE)
        torch = said[1] if said else torch
    except importlib.metadata.PackageNotFoundError:
        torch = "unknown"
    except OSError:
        pass  # a torch without that file: its own name for itself stands
    return f"torch {torch}, measuring {MEASURING_VERSION}"


def default_store_path(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where points are kept when nobody says otherwise.

    In `$ESEN_LAB_HOME`, else in the folder `esen_lab` of `$XDG_CACHE_HOME` (where that is absolute, as its
    specification demands), of `~/Library/Caches` on macOS, of `~/.cache` elsewhere.
    """
    home = environment.get("ESEN_LAB_HOME", "")
    if home:
        return Path(home).expanduser() / "profiles.sqlite3"
    caches = Path(environment.get("XDG_CACHE_HOME", ""))
    if not caches.is_absolute():
        caches = Path.home() / ("Library/Caches" if platform == "darwin" else ".cache")
    return caches / "esen_lab" / "profiles.sqlite3"


class ProfileStore:
    """Stored points. May be used from several threads, and several processes may use one file.

    No method raises because of the file: what cannot be written is kept in memory for the life of this object, and
    `notes` says why. Nothing is read or made before the first `get`, `curves` or `put`.

    Args:
        path: The file; its folder is made when needed. None for `default_store_path()`.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = default_store_path() if path is None else Path(path)
        self._lock = threading.Lock()
        self._unsaved: dict[PointKey, Point] = {}
        self._notes: dict[str, None] = {}
        self._trouble: dict[str, str] = {}  # what cannot be done at present -> note
        self._checked = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about this store: what happened to it, then what cannot be done at present."""
        with self._lock:
            return (*self._notes, *self._trouble.values())

    @property
    def unsaved(self) -> int:
        """How many points are in memory only."""
        with self._lock:
            return len(self._unsaved)

    def get(self, key: PointKey) -> Point | None:
        """The point stored under `key`, marked as reused; None where there is none."""
        with self._lock:
            if key in self._unsaved:
                return replace(self._unsaved[key], reused=True)
            row = None
            with self._trouble_noted("Stored points cannot be read"):
                row = self._again_if_damaged(lambda: self._read(lambda connection: _select(connection, key), None))
        return None if row is None else _point(row, key.units)

    def curves(self, device: str, versions: str) -> dict[tuple[str, str], dict[int, float]]:
        """All medians of one device.

        Args:
            device: Its identity (see `device_key`).
            versions: Of the libraries (see `library_versions`).

        Returns:
            For each (fingerprint, example), seconds by share in units.
        """

        def select(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(_CURVES, (device, versions)).fetchall()

        with self._lock:
            rows: list[tuple[Any, ...]] = []
            with self._trouble_noted("Stored points cannot be read"):
                rows = self._again_if_damaged(lambda: self._read(select, []))
            for key, point in self._unsaved.items():
                if (key.device, key.versions) == (device, versions):
                    rows.append((key.fingerprint, key.example, key.units, point.median_s))
        found: dict[tuple[str, str], dict[int, float]] = {}
        for fingerprint, example, units, median_s in rows:
            if isinstance(median_s, float) and math.isfinite(median_s) and median_s > 0 and units >= 1:
                found.setdefault((fingerprint, example), {})[units] = median_s
        return found

    def put(self, key: PointKey, point: Point) -> None:
        """Store `point`, and earlier ones that could not be written; one under the same key is replaced."""
        with self._lock:
            self._unsaved[key] = point
            self._save()

    def close(self) -> None:
        """Try once more to write what is in memory only. The store may be used again afterwards."""
        with self._lock:
            self._save()

    def _save(self) -> None:
        if self._unsaved:
            with self._trouble_noted("New points cannot be stored and stay in memory"):
                self._again_if_damaged(self._write)
                self._unsaved.clear()

    # --- one operation each, in its own connection ------------------------------------------------------------------

    def _read(self, select: Callable[[sqlite3.Connection], _T], absent: _T) -> _T:
        try:
            if self.path.stat().st_size == 0:
                return absent
        except FileNotFoundError:
            return absent
        try:
            with self._connected("rw") as connection:
                return select(connection)
        except sqlite3.OperationalError as problem:
            if _code(problem) not in _UNWRITABLE:
                raise
        # A file in write-ahead mode is opened for writing even to read it. On a medium that nobody can write,
        # nothing changes either, and SQLite may be told so.
        with self._connected("ro&immutable=1") as connection:
            return select(connection)

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            (*(getattr(key, name) for name in _KEYS), *(_written(point, name) for name in _COLUMNS))
            for key, point in self._unsaved.items()
        ]
        with self._connected("rwc") as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_PUT, rows)
            connection.execute("COMMIT")

    @contextmanager
    def _connected(self, mode: str) -> Iterator[sqlite3.Connection]:
        address = f"{self.path.absolute().as_uri()}?mode={mode}"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)) as connection:
            version = _prepare(connection, may_write=mode != "ro&immutable=1")
            if version not in ({1, SCHEMA_VERSION} if mode == "ro&immutable=1" else {SCHEMA_VERSION}):
                raise _NotOurs(version)
            if not self._checked:
                problem = connection.execute("PRAGMA quick_check(1)").fetchone()
                if problem != ("ok",):
                    raise _Damaged(problem[0])
                self._checked = True
            yield connection

    # --- trouble ----------------------------------------------------------------------------------------------------

    def _again_if_damaged(self, operation: Callable[[], _T]) -> _T:
        try:
            return operation()
        except sqlite3.DatabaseError as problem:
            if not (isinstance(problem, _Damaged) or _code(problem) in _DAMAGE):
                raise
            self._move_aside(" ".join(str(problem).split()))
        return operation()

    def _move_aside(self, why: str) -> None:
        """Rename a damaged file, unless another process has done so meanwhile."""
        self._checked = False
        repair = MachineLock(self.path.with_name(f"{self.path.name}.repair"))
        with repair.held(threading.Event()):
            if not _is_damaged(self.path):
                return
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
            # The write-ahead files go too: SQLite would replay them into the new file.
            for suffix in ("-wal", "-shm", ""):
                part = self.path.with_name(self.path.name + suffix)
                if part.exists():
                    part.rename(aside.with_name(aside.name + suffix))
        note = (
            f"The profile store {str(self.path)!r} was damaged ({why}). It was moved to {str(aside)!r} and a new one "
            "was started: points stored before are measured again."
        )
        self._notes[note] = None
        warnings.warn(note, stacklevel=2)

    @contextmanager
    def _trouble_noted(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
            self._trouble[what] = f"{what} ({str(self.path)!r}: {reason})."
        else:
            self._trouble.pop(what, None)


class _Damaged(sqlite3.DatabaseError):
    """SQLite's own check found damage."""


class _NotOurs(sqlite3.DatabaseError):
    """The file was made by something else."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"a newer version of esen_lab made it, schema {version}"
            if version > SCHEMA_VERSION
            else "another program made it"
        )


def _prepare(connection: sqlite3.Connection, *, may_write: bool) -> int:
    """Set a connection up, making the table in an empty file; returns the schema version, 0 for a foreign file."""
    version = _version(connection)
    if version is None and may_write:
        _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone())
        connection.execute("BEGIN IMMEDIATE")
        version = _version(connection)  # again: another process may have been faster
        if version is None:
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            version = SCHEMA_VERSION
        connection.execute("COMMIT")
    if version == 1 and may_write:
        connection.execute("BEGIN IMMEDIATE")
        version = _version(connection)  # again: another process may have been faster
        if version == 1:
            connection.execute(_UPGRADE_1)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            version = SCHEMA_VERSION
        connection.execute("COMMIT")
    return version or 0


def _version(connection: sqlite3.Connection) -> int | None:
    """The schema version of our file, 0 for a foreign file, None for an empty one."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID:
        return int(version)
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return None if not tables and not application and not version else 0


def _patiently(operation: Callable[[], _T]) -> _T:
    """Try until it is not locked: a change of the journal mode does not wait by itself."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return operation()
        except sqlite3.OperationalError as problem:
            if _code(problem) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _is_damaged(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_S)) as c:
            return bool(c.execute("PRAGMA quick_check(1)").fetchone() != ("ok",))
    except sqlite3.DatabaseError as problem:
        return _code(problem) in _DAMAGE


def _select(connection: sqlite3.Connection, key: PointKey) -> tuple[Any, ...] | None:
    ask = _GET_FROM_1 if _version(connection) == 1 else _GET
    row: tuple[Any, ...] | None = connection.execute(ask, tuple(getattr(key, name) for name in _KEYS)).fetchone()
    return row


def _point(row: tuple[Any, ...], units: int) -> Point | None:
    """The point in a row; None where its figures cannot be (a file that somebody edited)."""
    found = dict(zip(_COLUMNS, row, strict=True))
    seconds = (found["median_s"], found["spread_s"], found["quantile_90_s"])
    if not all(isinstance(value, float) and math.isfinite(value) and value >= 0 for value in seconds):
        return None
    found["settled"] = bool(found["settled"])
    try:
        found["readings"] = dict(json.loads(found["readings"]))
    except (TypeError, ValueError):
        return None
    return Point(units=units, reused=True, **found)


def _written(point: Point, name: str) -> Any:
    value = getattr(point, name)
    return json.dumps(dict(value), sort_keys=True) if name == "readings" else value


def _code(problem: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where the error is not SQLite's own."""
    return getattr(problem, "sqlite_errorcode", 0) & 0xFF


assert {field.name for field in fields(Point)} == {*_COLUMNS, "units", "reused"}
