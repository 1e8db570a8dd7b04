"""Finished points on disk: one SQLite file that any number of notebooks read and write at once.

What can go wrong, and what becomes of the points (`files/database.py` says how):

    damaged file                      moved aside whole (never deleted), said in `notes` and as a warning; a new one
    made by a newer version, foreign  left alone; points stay in memory
    a folder, a pipe in its place     the same
    read-only, full disk, locked      points stay in memory and are written with the next ones that can be
    a row that cannot be              not believed: as if it were not there, until it is measured again
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from esen_lab.common.locks import Lock
from esen_lab.common.packages import torch_versions
from esen_lab.common.trees import tree_spec
from esen_lab.common.units import MOST_UNITS
from esen_lab.errors import StoreError
from esen_lab.files import Text, Units, converted, decode_json, fixed_path
from esen_lab.files.schemas import Latency
from esen_lab.files.user_folder import user_folder
from esen_lab.lanes.backends import engine_version
from esen_lab.profiler.records import Point
from esen_lab.profiler.store_file import COLUMNS, KEYS, StoreFile

if TYPE_CHECKING:
    from esen_lab.ensemble import SubModel
    from esen_lab.lanes.settings import Settings

MEASURING_VERSION = 2  # raised when `timing.measure` changes what a figure means: old points are then not reused
_MOST_TEXT = 100_000  # characters of a value
_CurveRow = tuple[Text, Annotated[str, Meta(max_length=_MOST_TEXT)], Units, Latency]


@dataclass(frozen=True, slots=True, kw_only=True)
class PointKey:
    """What a point was measured on. Points with equal keys stand for each other.

    Attributes:
        fingerprint: Of the sub-model: weights, structure, source.
        example: What its example looks like, as `str(TreeSpec)`.
        device: The device's identity, as canonical JSON (see `DeviceIdentity.key`).
        versions: Of the libraries that change latencies (see `library_versions`).
        units: The share.
    """

    fingerprint: str
    example: str
    device: str
    versions: str
    units: int


def point_key(submodel: SubModel, device: str, versions: str, units: int) -> PointKey:
    """What a point of a sub-model is kept under; see `PointKey`."""
    return PointKey(
        fingerprint=submodel.fingerprint,
        example=str(tree_spec(submodel.example)),
        device=device,
        versions=versions,
        units=units,
    )


def library_versions(settings: Settings | None = None, backend: str = "eager", *, evicted: bool = False) -> str:
    """What stored points depend on besides the network: versions, the backend, unusual switches, where weights lie.

    Of Python the minor version: what it does around a small network is much of its time.

    Args:
        settings: What the session has set; None: as a new process.
        backend: What executes the sub-model (see `check_backend`).
        evicted: Whether the caches that cores share held nothing of it: see `caches.weights_evicted`.
    """
    try:
        torch = importlib.metadata.version("torch")
        # A wheel called 2.13.0 may hold 2.13.0+cu130. Where no file says so, the wheel's name stands.
        said = re.search(r"^__version__ = ['\"]([^'\"]+)", torch_versions(), re.MULTILINE)
        torch = said[1] if said else torch
    except importlib.metadata.PackageNotFoundError:
        torch = "unknown"
    unusual = () if settings is None else settings.unusual
    engine = [] if backend == "eager" else [f"by {backend} {engine_version(backend)}".rstrip()]
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    caches = ["weights from memory"] if evicted else []
    return ", ".join([f"torch {torch}", python, f"measuring {MEASURING_VERSION}", *caches, *engine, *unusual])


def default_store_path(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where points are kept when nobody says otherwise: in the `user_folder`; raises as that does."""
    return user_folder(environment, platform) / "profiles.sqlite3"


class ProfileStore:
    """Stored points. May be used from several threads, and several processes may use one file.

    No method raises because of the file, and none waits longer than some seconds: what cannot be written is kept in
    memory for the life of this object, and `notes` says why. Nothing is read or made before the first `get`, `curves`
    or `put`.

    Args:
        path: The file; its folder is made when needed. None for `default_store_path()`.

    Raises:
        UsageError: It cannot name a file.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = fixed_path(default_store_path() if path is None else path)
        self._lock = Lock()
        self._file = StoreFile(self.path)
        self._unsaved: dict[PointKey, Point] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about this store: what happened to it, then what cannot be done at present."""
        with self._lock:
            return (*self._file.notes, *self._file.trouble)

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
            if not _storable(key):
                return None
            with self._file.attempt("Stored points cannot be read"):
                row = self._file.row(_keys(key))
        return None if row is None else _point(row, key.units)

    def curves(self, device: str, versions: str) -> dict[tuple[str, str], dict[int, float]]:
        """All medians of one device.

        Args:
            device: Its identity (see `DeviceIdentity.key`).
            versions: Of the libraries (see `library_versions`).

        Returns:
            For each (fingerprint, example), seconds by share in units.
        """
        with self._lock:
            rows: list[tuple[Any, ...]] = []
            with self._file.attempt("Stored points cannot be read"):
                rows = self._file.curve_rows(device, versions)
            for key, point in self._unsaved.items():
                if (key.device, key.versions) == (device, versions):
                    rows.append((key.fingerprint, key.example, key.units, point.median_s))
        curves: dict[tuple[str, str], dict[int, float]] = {}
        for row in rows:
            with contextlib.suppress(ValueError):  # a row that cannot be
                fingerprint, example, units, median_s = msgspec.convert(row, _CurveRow)
                curves.setdefault((fingerprint, example), {})[units] = median_s
        return curves

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
        rows = {key: row for key, point in self._unsaved.items() if (row := _row(key, point)) is not None}
        for key, point in self._unsaved.items():
            if key not in rows:
                note = f"A point of {point.name!r} at {key.units} stays in memory: no file holds its figures."
                self._file.notes[note] = None
        if rows:
            with self._file.attempt("New points cannot be stored and stay in memory"):
                self._file.put(list(rows.values()))
                for key in rows:
                    del self._unsaved[key]


def _keys(key: PointKey) -> tuple[Any, ...]:
    return tuple(getattr(key, name) for name in KEYS)


def _point(row: tuple[Any, ...], units: int) -> Point | None:
    """The point in a row; None where it cannot be one (a file that somebody edited)."""
    data: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    if data["settled"] not in (0, 1) or not isinstance(data["readings"], str):
        return None
    try:
        data |= {"settled": bool(data["settled"]), "readings": decode_json(data["readings"].encode())}
        return converted({**data, "units": units, "reused": True}, Point, "a row")
    except StoreError:
        return None


def _row(key: PointKey, point: Point) -> tuple[Any, ...] | None:
    """What is written for a point; None for one that could not be read again, so that it spoils no other one."""
    values = asdict(point)
    readings = {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values["readings"].items()
    }
    try:
        values["readings"] = json.dumps(readings, sort_keys=True, allow_nan=False)
        row = tuple(_plain(values[name]) for name in COLUMNS)
        "".join(part for part in row if isinstance(part, str)).encode()
    except (TypeError, ValueError):
        return None
    sound = _storable(key) and _point(row, key.units) is not None
    return (*_keys(key), *row) if sound else None


def _storable(key: PointKey) -> bool:
    """Whether a file can hold what a point is found by."""
    texts = [getattr(key, name) for name in KEYS if name != "units"]
    try:
        return 1 <= key.units <= MOST_UNITS and max(len(text.encode()) for text in texts) <= _MOST_TEXT
    except (AttributeError, TypeError, UnicodeEncodeError):
        return False


def _plain(value: Any) -> Any:
    """A number as Python's own, a truth value as 0 or 1: how they come back from the file."""
    return int(value) if isinstance(value, int) else float(value) if isinstance(value, float) else value


assert {field.name for field in fields(Point)} == {*COLUMNS, "units", "reused", "backend"}  # the key has that
