"""All entries of all projects: one SQLite file that any number of notebooks read and write at once.

What can go wrong, and what becomes of the entries (`files/database.py` says how):

    damaged file                      moved aside whole, said in `notes` and as a warning; a new one
    made by a newer version, foreign  left alone; entries stay in memory
    read-only, full disk, locked      entries stay in memory and are written with the next ones that can be
    a row that cannot be              not believed: as if it were not there

What is kept is bounded: so many entries of a project, so many days of those that are not its last ones, so many bytes
of all projects. What is oldest goes first.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from esen_lab.common.locks import Lock
from esen_lab.files import fixed_path
from esen_lab.files.database import Database, DatabaseLayout
from esen_lab.history.entry import MOST_TEXT, Entry

MOST_ENTRIES = 1000
"""Of one project."""
LAST_ENTRIES = 100
"""Of one project, however old they are."""
MOST_DAYS = 400
MOST_BYTES = 64_000_000
"""Of all projects together."""
MOST_PROJECT = 1000
"""Characters of a project's name."""
_MOST_UNSAVED = 200
_SOUND = "typeof(number) = 'integer' AND number BETWEEN 1 AND 1000000000000"
_LAYOUT = DatabaseLayout(
    called="history",
    holds="entries",
    lost="what it held is in that file alone",
    application_id=0x45534548,  # "ESEH"
    version=1,
    table="entries",
    schema="""
CREATE TABLE entries (
    project TEXT NOT NULL,
    number INTEGER NOT NULL,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (project, number)
)
""",
    most_bytes=4 * MOST_BYTES,
)


class Slot:
    """Where an entry is, in the file or not yet: for `Book.put`, to put another one in its place."""

    __slots__ = ("at", "entry", "number", "project")

    def __init__(self, project: str) -> None:
        self.project = project
        self.entry: Entry | None = None  # what is to be written
        self.number: int | None = None  # under which it is in the file
        self.at = ""  # the time of what is there: a number that was forgotten may be another entry's by now


class Book:
    """The history. May be used from several threads, and several processes may use one file.

    No method raises because of the file, and none waits longer than some seconds: what cannot be written is kept in
    memory (the last 200 entries), and `notes` says why. Nothing is read or made before the first call.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = fixed_path(path)
        self._lock = Lock()
        self._file = Database(self.path, _LAYOUT)
        self._unsaved: list[Slot] = []
        self._refused = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of it: what happened to the file, then what cannot be done at present."""
        with self._lock:
            # What keeps it from being written keeps it from being read as well: that is said once.
            return (*self._file.notes, *self._file.trouble[:1], *filter(None, [self._refused]))

    def put(self, slot: Slot, entry: Entry) -> None:
        """Write an entry into its project, as its last one, or in the place of the one that `slot` had before."""
        with self._lock:
            slot.entry = entry
            if slot not in self._unsaved:
                self._unsaved.append(slot)
                del self._unsaved[:-_MOST_UNSAVED]
            self._save()

    def entries(self, project: str, last: int = MOST_ENTRIES) -> tuple[Entry, ...]:
        """The last entries of a project, oldest first; those that are in memory only come after those of the file."""
        name = _told(project)

        def select(connection: sqlite3.Connection, _: int) -> list[tuple[Any, ...]]:
            asked = f"SELECT number, data FROM entries WHERE project = ? AND {_SOUND} ORDER BY number DESC LIMIT ?"  # noqa: S608  constants
            return connection.execute(asked, (name, last)).fetchall()

        with self._lock:
            rows = self._rows(select)
            waiting = {slot.number: slot.entry for slot in self._unsaved if slot.project == name and slot.entry}
            new = [slot.entry for slot in self._unsaved if slot.project == name and slot.entry and slot.number is None]
        found = []
        for number, text in reversed(rows):
            entry = replace(waiting[number], number=number) if number in waiting else Entry.read(text, number)
            if entry is not None:
                found.append(entry)
        first = 1 + max((number for number, _ in rows), default=0)
        found += [replace(entry, number=number) for number, entry in enumerate(new, first)]
        return tuple(found[-last:])

    def projects(self) -> dict[str, int]:
        """How many entries each project has, by its name."""

        def select(connection: sqlite3.Connection, _: int) -> list[tuple[Any, ...]]:
            return connection.execute("SELECT project, count(*) FROM entries GROUP BY project LIMIT 10000").fetchall()

        with self._lock:
            return {name: count for name, count in self._rows(select) if isinstance(name, str)}

    def _rows(self, select: Callable[[sqlite3.Connection, int], list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
        """What the file has, after what waits has been written; none where it cannot be read. The lock is held."""
        self._save()
        rows: list[tuple[Any, ...]] = []
        with self._file.attempt("The history cannot be read"):
            rows += self._file.read(select, [])
        return rows

    def forget(self, project: str, numbers: Collection[int] | None = None) -> int:
        """Take entries out; None: all of the project. Returns how many were there."""
        name = _told(project)

        def delete(connection: sqlite3.Connection) -> int:
            if numbers is None:
                return connection.execute("DELETE FROM entries WHERE project = ?", (name,)).rowcount
            asked = "DELETE FROM entries WHERE project = ? AND number = ?"
            return sum(connection.execute(asked, (name, number)).rowcount for number in set(numbers))

        with self._lock:
            self._save()
            gone = 0
            if self._file.path.exists():
                with self._file.attempt("The history cannot be changed"):
                    gone = self._file.write(delete)
            if numbers is None:
                before = len(self._unsaved)
                self._unsaved = [slot for slot in self._unsaved if slot.project != name]
                gone += before - len(self._unsaved)
        return gone

    def close(self) -> None:
        """Try once more to write what is in memory only. The book may be used again afterwards."""
        with self._lock:
            self._save()

    def _save(self) -> None:
        rows = []
        for slot in list(self._unsaved):
            try:
                assert slot.entry is not None
                rows.append((slot, _told(slot.project), slot.entry, slot.entry.written()))
            except ValueError as problem:
                self._refused = f"A {slot.entry.kind if slot.entry else 'thing'} is not in the history: {problem}."
                self._unsaved.remove(slot)
        if not rows:
            return

        def write(connection: sqlite3.Connection) -> list[int]:
            numbers = [_put(connection, name, slot, entry, text) for slot, name, entry, text in rows]
            for name in {name for _, name, _, _ in rows}:
                _prune(connection, name)
            return numbers

        with self._file.attempt("The history cannot be written and stays in memory"):
            for (slot, _, entry, _), number in zip(rows, self._file.write(write), strict=True):
                slot.number, slot.at = number, entry.at
                self._unsaved.remove(slot)


def _told(project: str) -> str:
    """A project's name as a file can hold it."""
    return project.encode("utf-8", "backslashreplace").decode()[:MOST_PROJECT]


def _put(connection: sqlite3.Connection, project: str, slot: Slot, entry: Entry, text: str) -> int:
    """Write a row; returns its number."""
    values = (entry.at, str(entry.kind), text)
    if slot.number is not None:
        there = "UPDATE entries SET at = ?, kind = ?, data = ? WHERE project = ? AND number = ? AND at = ? AND kind = ?"
        if connection.execute(there, (*values, project, slot.number, slot.at, str(entry.kind))).rowcount:
            return slot.number
    connection.execute(f"DELETE FROM entries WHERE project = ? AND NOT ({_SOUND})", (project,))  # noqa: S608  constants
    (last,) = connection.execute("SELECT max(number) FROM entries WHERE project = ?", (project,)).fetchone()
    number = 1 + (last or 0)
    connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (project, number, *values))
    return number


def _prune(connection: sqlite3.Connection, project: str) -> None:
    """Take out what is more than is kept."""
    ranked = "SELECT number FROM entries WHERE project = ? ORDER BY number DESC LIMIT 1 OFFSET ?"
    for kept, since in ((MOST_ENTRIES, ""), (LAST_ENTRIES, _days_ago(MOST_DAYS))):
        row = connection.execute(ranked, (project, kept)).fetchone()
        if row is not None:
            connection.execute(
                "DELETE FROM entries WHERE project = ? AND number <= ? AND (? = '' OR at < ?)",
                (project, row[0], since, since),
            )
    for _ in range(10):
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        if (pages - free) * size <= MOST_BYTES:
            break
        connection.execute(
            "DELETE FROM entries WHERE rowid IN "
            "(SELECT rowid FROM entries ORDER BY at LIMIT (SELECT 1 + count(*) / 10 FROM entries))"
        )


def _days_ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")


assert 4 * MOST_TEXT < 2**20  # what SQLite is told to take at most
