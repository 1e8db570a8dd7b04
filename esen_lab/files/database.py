"""A SQLite file of ours: sound, or moved aside; never waited for long.

A connection lives for one operation, so none is ever shared by threads or inherited by a forked process; an operation
takes about a millisecond. The file is in write-ahead mode: readers never wait for a writer.

A file is ours and sound when it has the one table of its layout and nothing else: no view or trigger that something
could be hidden behind. Every operation has a deadline; after one that was missed the next ones wait only a moment, so
that a file that somebody keeps locked costs its user seconds and not minutes.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TypeVar

from esen_lab.errors import Cancelled
from esen_lab.files.machine_lock import MachineLock
from esen_lab.terminal import visible

BUSY_S = 5.0  # how long an operation may wait for other processes, and take
BUSY_AGAIN_S = 0.05  # the same once that was not enough
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseLayout:
    """What is in a file.

    Attributes:
        called: What the file is, for people: "profile store".
        holds: What its rows are, for people: "points".
        lost: What becomes of what was in one that was moved aside, as a half sentence.
        application_id: Tells these files from those of other programs.
        version: Of the schema; files say theirs.
        table: The name of the one table.
        schema: The statement that makes it.
        upgrades: By version, the statement that makes a file of that version one of the next.
        added: By column that upgrades have added, the first version that has it.
        most_bytes: A larger file is damaged.
    """

    called: str
    holds: str
    lost: str
    application_id: int
    version: int
    table: str
    schema: str
    upgrades: Mapping[int, str] = field(default_factory=dict)
    added: Mapping[str, int] = field(default_factory=dict)
    most_bytes: int = 256_000_000

    def columns(self, version: int) -> list[tuple[str, str, bool, int]]:
        """(name, type, never null, place in the key) of each column in files of a version."""
        return [column for column in _columns(self.schema, self.table) if self.added.get(column[0], 0) <= version]


@cache
def _columns(schema: str, table: str) -> list[tuple[str, str, bool, int]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(schema)
        found = connection.execute(f"PRAGMA table_xinfo({table})").fetchall()
    return [(name, kind, bool(needed), key) for _, name, kind, needed, _, key, _ in found]


class Database:
    """The file, whether it is there yet or not; nothing is read or made before the first operation.

    Not locked: its owner lets one thread at a time in.

    Args:
        path: Where it is; its folder is made when needed.
        layout: What is in it.

    Attributes:
        notes: What has happened to it, for people, each said once.
    """

    def __init__(self, path: Path, layout: DatabaseLayout) -> None:
        self.path = path
        self.layout = layout
        self.notes: dict[str, None] = {}
        self._trouble: dict[str, str] = {}  # what cannot be done at present -> note
        self._checked: tuple[int, int] | None = None  # the file that was found sound
        self._patience_s = BUSY_S

    @property
    def trouble(self) -> tuple[str, ...]:
        """What cannot be done at present, for people."""
        return tuple(self._trouble.values())

    def read(self, select: Callable[[sqlite3.Connection, int], _T], absent: _T) -> _T:
        """What `select` finds, given a connection and the schema version of the file; `absent` where there is no file.

        Raises:
            sqlite3.Error, OSError, ValueError, Cancelled: It cannot be read; see `attempt`.
        """
        return self._again_if_damaged(lambda: self._read(select, absent))

    def write(self, change: Callable[[sqlite3.Connection], _T]) -> _T:
        """What `change` returns, given a connection to the file or to a new one.

        It happens wholly or not at all; after damage it is called again. Raises as `read` does.
        """
        return self._again_if_damaged(lambda: self._write(change))

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

    def _write(self, change: Callable[[sqlite3.Connection], _T]) -> _T:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._file()
        with self._connected("rwc") as (connection, _):
            connection.execute("BEGIN IMMEDIATE")
            found = change(connection)
            connection.execute("COMMIT")
            return found

    def _file(self) -> os.stat_result:
        """What is at the path.

        Raises:
            FileNotFoundError: Nothing is.
            OSError: It is not a file, or cannot be looked at.
            _Damaged: It cannot be one of ours.
        """
        info = self.path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise OSError(f"it is not an ordinary file but {stat.filemode(info.st_mode)}")
        if info.st_size > self.layout.most_bytes:
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
            version = _prepare(connection, self.layout, deadline, may_write=may_write)
            if version < 1:
                raise _Damaged(f"it says that it has schema {version}")
            if version > self.layout.version:
                raise _NotOurs(version)
            _check_schema(connection, self.layout, version)
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
            f"The {self.layout.called} {str(self.path)!r} was damaged ({why}). It was moved to {str(aside)!r} and a "
            f"new one was started: {self.layout.lost}."
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
            f"a newer version of esen_lab made it, schema {version}" if version else "another program made it"
        )


def _prepare(connection: sqlite3.Connection, layout: DatabaseLayout, deadline: float, *, may_write: bool) -> int:
    """Set a connection up, making the table in an empty file, adding to that of an older one; returns its version.

    Raises:
        _NotOurs: Another program made it.
    """
    version = _version(connection, layout)
    if version is None and may_write:
        _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone(), deadline)
        connection.execute("BEGIN IMMEDIATE")
        version = _version(connection, layout)  # again: another process may have been faster
        if version is None:
            connection.execute(layout.schema)
            connection.execute(f"PRAGMA application_id = {layout.application_id}")
            version = _now_of(connection, layout.version)
        connection.execute("COMMIT")
    if version in layout.upgrades and may_write:
        connection.execute("BEGIN IMMEDIATE")
        version = _version(connection, layout)  # again: another process may have been faster
        while version is not None and version in layout.upgrades:
            _check_schema(connection, layout, version)
            connection.execute(layout.upgrades[version])
            version = _now_of(connection, version + 1)
        connection.execute("COMMIT")
    if version is None:
        raise _NotOurs(0)
    return version


def _now_of(connection: sqlite3.Connection, version: int) -> int:
    connection.execute(f"PRAGMA user_version = {version}")
    return version


def _check_schema(connection: sqlite3.Connection, layout: DatabaseLayout, version: int) -> None:
    """Whether the file has our table and nothing else.

    Raises:
        _Damaged: It has not.
    """
    objects = connection.execute("SELECT type, name, tbl_name FROM sqlite_master LIMIT 20").fetchall()
    objects = [(kind, name) for kind, name, _ in objects if not str(name).startswith("sqlite_stat")]
    ours = [("table", layout.table), ("index", f"sqlite_autoindex_{layout.table}_1")]
    if sorted(map(str, objects)) != sorted(map(str, ours)):
        raise _Damaged(f"it holds something else than {layout.holds}: {objects}")
    (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (layout.table,)).fetchone()
    columns = connection.execute(f"PRAGMA table_xinfo({layout.table})").fetchmany(40)
    if [(name, kind, bool(needed), key) for _, name, kind, needed, _, key, _ in columns] != layout.columns(version):
        raise _Damaged("its table has other columns")
    if any(column[-1] for column in columns) or re.search(
        r"\b(CHECK|GENERATED|COLLATE|CONFLICT)\b", str(sql), re.IGNORECASE
    ):
        raise _Damaged("its table has rules that are not ours")


def _version(connection: sqlite3.Connection, layout: DatabaseLayout) -> int | None:
    """The schema version of our file, None for an empty one.

    Raises:
        _NotOurs: Another program made it.
    """
    with _at_one_moment(connection):
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM (SELECT 1 FROM sqlite_master LIMIT 1)").fetchone()
    if application == layout.application_id:
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
