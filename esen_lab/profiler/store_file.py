"""The SQLite file that points are in: ours and sound, or moved aside; never waited for long.

A connection lives for one operation, so none is ever shared by threads or inherited by a forked process; an operation
takes about a millisecond and there are at most some hundred per job. The file is in write-ahead mode: readers never
wait for a writer.

A file is ours and sound when it has our table and nothing else: no view or trigger that something could be hidden
behind. Every operation has a deadline; after one that was missed the next ones wait only a moment, so that a file that
somebody keeps locked costs a job seconds and not minutes.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import stat
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from esen_lab.errors import Cancelled
from esen_lab.profiler.machine_lock import MachineLock
from esen_lab.terminal import visible

SCHEMA_VERSION = 2  # 2: the column "readings"; files of version 1 are given it when they are first written to
APPLICATION_ID = 0x4553454E  # "ESEN": tells our files from other programs' SQLite files
BUSY_S = 5.0  # how long an operation may wait for other processes, and take
BUSY_AGAIN_S = 0.05  # the same once that was not enough
MOST_BYTES = 256_000_000  # some 200,000 points
_MOST_ROWS = 200_000

_OBJECTS = [("table", "points"), ("index", "sqlite_autoindex_points_1")]
COLUMNS = (
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
KEYS = ("fingerprint", "example", "device", "versions", "units")
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
_GET = f"SELECT {', '.join(COLUMNS)} FROM points WHERE {' AND '.join(f'{key} = ?' for key in KEYS)}"  # noqa: S608  constants
_CURVES = "SELECT fingerprint, example, units, median_s FROM points WHERE device = ? AND versions = ?"
_GET_FROM_1 = _GET.replace("readings", "'{}'", 1)
_UPGRADE_1 = "ALTER TABLE points ADD COLUMN readings TEXT NOT NULL DEFAULT '{}'"
_PUT = (
    f"INSERT OR REPLACE INTO points ({', '.join(KEYS + COLUMNS)}) "  # noqa: S608  constants
    f"VALUES ({', '.join('?' * (len(KEYS) + len(COLUMNS)))})"
)
_EXPECTED = [
    (name, kind, "NOT NULL" in line, KEYS.index(name) + 1 if name in KEYS else 0)
    for line in _SCHEMA.splitlines()[2:-2]
    for name, kind, *_ in [line.strip(" ,").split()]
]
_T = TypeVar("_T")
# What is no fault of the file: it is as it is because of others, or of the disk.
_NO_DAMAGE = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_ABORT,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
}
_LATE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_PROTOCOL}
_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}


class StoreFile:
    """The file, whether it is there yet or not; nothing is read or made before the first operation.

    Not locked: its owner lets one thread at a time in.

    Args:
        path: Where it is; its folder is made when needed.

    Attributes:
        notes: What has happened to it, for people, each said once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: dict[str, None] = {}
        self._trouble: dict[str, str] = {}  # what cannot be done at present -> note
        self._checked: tuple[int, int] | None = None  # the file that was found sound
        self._patience_s = BUSY_S

    @property
    def trouble(self) -> tuple[str, ...]:
        """What cannot be done at present, for people."""
        return tuple(self._trouble.values())

    def row(self, keys: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The `COLUMNS` under these `KEYS`; None where there is no such row, or no file yet.

        Raises:
            sqlite3.Error, OSError, ValueError, Cancelled: It cannot be read; see `attempt`.
        """

        def select(connection: sqlite3.Connection, version: int) -> tuple[Any, ...] | None:
            row: tuple[Any, ...] | None = connection.execute(_GET if version > 1 else _GET_FROM_1, keys).fetchone()
            return row

        return self._again_if_damaged(lambda: self._read(select, None))

    def curve_rows(self, device: str, versions: str) -> list[tuple[Any, ...]]:
        """(fingerprint, example, units, median_s) of all rows of a device; raises as `row` does."""

        def select(connection: sqlite3.Connection, _: int) -> list[tuple[Any, ...]]:
            return connection.execute(_CURVES, (device, versions)).fetchmany(_MOST_ROWS)

        return self._again_if_damaged(lambda: self._read(select, []))

    def write(self, rows: list[tuple[Any, ...]]) -> None:
        """Write rows of `KEYS` and `COLUMNS`, all or none, into the file or a new one; raises as `row` does."""
        self._again_if_damaged(lambda: self._write(rows))

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """What goes wrong with the file inside is not raised but said in `trouble`, until the same thing goes well.

        Args:
            what: What cannot be done where it goes wrong, for people.
        """
        try:
            yield
        except (sqlite3.Error, OSError, ValueError, OverflowError, Cancelled) as problem:
            reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
            self._trouble[what] = f"{what} ({str(self.path)!r}: {reason})."
            if isinstance(problem, Cancelled) or (isinstance(problem, sqlite3.Error) and _code(problem) in _LATE):
                self._patience_s = BUSY_AGAIN_S
        else:
            self._trouble.pop(what, None)
            self._patience_s = BUSY_S

    def _read(self, select: Callable[[sqlite3.Connection, int], _T], absent: _T) -> _T:
        try:
            if self._file().st_size == 0:
                return absent
        except FileNotFoundError:
            return absent
        try:
            with self._connected("rw") as (connection, version):
                return select(connection, version)
        except sqlite3.OperationalError as problem:
            if _code(problem) not in _UNWRITABLE:
                raise
        # A file in write-ahead mode is opened for writing even to read it. On a medium that nobody can write,
        # nothing changes either, and SQLite may be told so.
        with self._connected("ro&immutable=1") as (connection, version):
            return select(connection, version)

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._file()
        with self._connected("rwc") as (connection, _):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_PUT, rows)
            connection.execute("COMMIT")

    def _file(self) -> os.stat_result:
        """What is at the path.

        Raises:
            FileNotFoundError: Nothing is.
            OSError: It is not a file, or cannot be looked at.
            _Damaged: It cannot be a store.
        """
        info = self.path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise OSError(f"it is not an ordinary file but {stat.filemode(info.st_mode)}")
        if info.st_size > MOST_BYTES:
            raise _Damaged(f"it has {info.st_size:,} bytes")
        for part in self._beside():
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISREG(part.lstat().st_mode):
                    raise _Damaged(f"{part.name} is not an ordinary file")
        return info

    def _beside(self) -> tuple[Path, ...]:
        """The files that SQLite keeps beside it."""
        return tuple(self.path.with_name(self.path.name + suffix) for suffix in ("-wal", "-shm", "-journal"))

    @contextmanager
    def _connected(self, mode: str) -> Iterator[tuple[sqlite3.Connection, int]]:
        address = f"{self.path.absolute().as_uri()}?mode={mode}"
        may_write = mode != "ro&immutable=1"
        deadline = time.monotonic() + self._patience_s
        with contextlib.closing(
            sqlite3.connect(address, uri=True, timeout=self._patience_s, isolation_level=None)
        ) as connection:
            # Also through what the file itself makes SQLite do: none of it goes on for ever.
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2**20)
            connection.text_factory = _text
            connection.execute("PRAGMA trusted_schema = OFF")
            version = _prepare(connection, deadline, may_write=may_write)
            if version < 1:
                raise _Damaged(f"it says that it has schema {version}")
            if version > SCHEMA_VERSION:
                raise _NotOurs(version)
            _check_schema(connection, version)
            at = self.path.stat()
            if self._checked != (at.st_dev, at.st_ino):
                problem = connection.execute("PRAGMA quick_check(1)").fetchone()
                if problem != ("ok",):
                    raise _Damaged(str(problem[0]))
                self._checked = (at.st_dev, at.st_ino)
            yield connection, version

    def _again_if_damaged(self, operation: Callable[[], _T]) -> _T:
        before = self._identity()
        try:
            return operation()
        except sqlite3.DatabaseError as problem:
            blameless = isinstance(problem, (_NotOurs, sqlite3.ProgrammingError))
            if blameless or (not isinstance(problem, _Damaged) and _code(problem) in _NO_DAMAGE):
                raise
            self._move_aside(" ".join(str(problem).split()), before or self._identity())
        return operation()

    def _identity(self) -> tuple[int, int] | None:
        try:
            info = self.path.stat()
        except (OSError, ValueError):
            return None
        return info.st_dev, info.st_ino

    def _move_aside(self, why: str, damaged: tuple[int, int] | None) -> None:
        """Rename a damaged file, unless another process has done so meanwhile."""
        self._checked = None
        repair = MachineLock(self.path.with_name(f"{self.path.name}.repair"))
        with repair.held(_Patience(self._patience_s)):
            if damaged is None or self._identity() != damaged:
                return
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
            # What SQLite keeps beside it goes too: it would replay that into the new file.
            for part in (*self._beside(), self.path):
                if os.path.lexists(part):
                    part.rename(aside.with_name(aside.name + part.name.removeprefix(self.path.name)))
        note = (
            f"The profile store {str(self.path)!r} was damaged ({why}). It was moved to {str(aside)!r} and a new one "
            "was started: points stored before are measured again."
        )
        self.notes[note] = None
        with contextlib.suppress(UserWarning):  # where warnings are errors it is still said in the notes
            warnings.warn(visible(note), stacklevel=2)


class _Patience(threading.Event):
    """An order to stop waiting that comes by itself."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._until = time.monotonic() + seconds

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for some time; true once the patience is at its end."""
        return super().wait(timeout) or time.monotonic() > self._until


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


def _prepare(connection: sqlite3.Connection, deadline: float, *, may_write: bool) -> int:
    """Set a connection up, making the table in an empty file, adding to that of an older one; returns its version.

    Raises:
        _NotOurs: Another program made it.
    """
    version = _version(connection)
    if version is None and may_write:
        _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone(), deadline)
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
            _check_schema(connection, 1)
            connection.execute(_UPGRADE_1)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            version = SCHEMA_VERSION
        connection.execute("COMMIT")
    if version is None:
        raise _NotOurs(0)
    return version


def _check_schema(connection: sqlite3.Connection, version: int) -> None:
    """Whether the file has our table and nothing else.

    Raises:
        _Damaged: It has not.
    """
    objects = connection.execute("SELECT type, name, tbl_name FROM sqlite_master LIMIT 20").fetchall()
    objects = [(kind, name) for kind, name, _ in objects if not str(name).startswith("sqlite_stat")]
    if sorted(map(str, objects)) != sorted(map(str, _OBJECTS)):
        raise _Damaged(f"it holds something else than points: {objects}")
    (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'points'").fetchone()
    columns = connection.execute("PRAGMA table_xinfo(points)").fetchmany(40)
    expected = [column for column in _EXPECTED if version > 1 or column[0] != "readings"]
    if [(name, kind, bool(needed), key) for _, name, kind, needed, _, key, _ in columns] != expected:
        raise _Damaged("its table has other columns")
    if any(column[-1] for column in columns) or re.search(
        r"\b(CHECK|GENERATED|COLLATE|CONFLICT)\b", str(sql), re.IGNORECASE
    ):
        raise _Damaged("its table has rules that are not ours")


def _version(connection: sqlite3.Connection) -> int | None:
    """The schema version of our file, None for an empty one.

    Raises:
        _NotOurs: Another program made it.
    """
    with _at_one_moment(connection):
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM (SELECT 1 FROM sqlite_master LIMIT 1)").fetchone()
    if application == APPLICATION_ID:
        return int(version)
    if tables or application or version:
        raise _NotOurs(0)
    return None


@contextmanager
def _at_one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """Let several questions be answered as if at once: another process may be making the file just now."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        with contextlib.suppress(sqlite3.Error):  # a file that is none ends it by itself
            connection.execute("ROLLBACK")


def _patiently(operation: Callable[[], _T], deadline: float) -> _T:
    """Try until it is not locked: a change of the journal mode does not wait by itself."""
    while True:
        try:
            return operation()
        except sqlite3.OperationalError as problem:
            if _code(problem) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _text(data: bytes) -> str | None:
    """A text of the file; None where it is none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _code(problem: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where the error is not SQLite's own."""
    return getattr(problem, "sqlite_errorcode", 0) & 0xFF
