"""The SQLite file that points are in: its table, and what is asked of it. `files/database.py` keeps it sound."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from esen_lab.files.database import Database, DatabaseLayout

_MOST_ROWS = 200_000

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
LAYOUT = DatabaseLayout(
    called="profile store",
    holds="points",
    lost="points stored before are measured again",
    application_id=0x4553454E,  # "ESEN"
    version=2,  # 2: the column "readings"; files of version 1 are given it when they are first written to
    table="points",
    schema=_SCHEMA,
    upgrades={1: "ALTER TABLE points ADD COLUMN readings TEXT NOT NULL DEFAULT '{}'"},
    added={"readings": 2},
    most_bytes=256_000_000,  # some 200,000 points
)
_GET = f"SELECT {', '.join(COLUMNS)} FROM points WHERE {' AND '.join(f'{key} = ?' for key in KEYS)}"  # noqa: S608  constants
_CURVES = "SELECT fingerprint, example, units, median_s FROM points WHERE device = ? AND versions = ?"
_GET_FROM_1 = _GET.replace("readings", "'{}'", 1)
_PUT = (
    f"INSERT OR REPLACE INTO points ({', '.join(KEYS + COLUMNS)}) "  # noqa: S608  constants
    f"VALUES ({', '.join('?' * (len(KEYS) + len(COLUMNS)))})"
)


class StoreFile(Database):
    """The file of points, whether it is there yet or not.

    Args:
        path: Where it is; its folder is made when needed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, LAYOUT)

    def row(self, keys: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The `COLUMNS` under these `KEYS`; None where there is no such row, or no file yet; raises as `read` does."""

        def select(connection: sqlite3.Connection, version: int) -> tuple[Any, ...] | None:
            row: tuple[Any, ...] | None = connection.execute(_GET if version > 1 else _GET_FROM_1, keys).fetchone()
            return row

        return self.read(select, None)

    def curve_rows(self, device: str, versions: str) -> list[tuple[Any, ...]]:
        """(fingerprint, example, units, median_s) of all rows of a device; raises as `read` does."""

        def select(connection: sqlite3.Connection, _: int) -> list[tuple[Any, ...]]:
            return connection.execute(_CURVES, (device, versions)).fetchmany(_MOST_ROWS)

        return self.read(select, [])

    def put(self, rows: list[tuple[Any, ...]]) -> None:
        """Write rows of `KEYS` and `COLUMNS`, all or none, into the file or a new one; raises as `read` does."""

        def insert(connection: sqlite3.Connection) -> None:
            connection.executemany(_PUT, rows)

        self.write(insert)
