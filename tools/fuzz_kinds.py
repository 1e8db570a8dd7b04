"""What is spoilt and then used: plans, records, exported folders, profile stores, histories, and messages of the panel.

Each kind makes its sound originals once, and for every mutant spoils one and does with it what a user would. Nothing
here runs code from a mutant. Whatever raises an `EsenError` is fine: it was refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import random
import shutil
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from fuzz_mutations import EXTREMES, json_mutant, mutated, something_else, spoilt_bytes

from esen_lab.errors import EsenError


class Kind(Protocol):
    """One kind of thing that comes from outside."""

    def __init__(self, folder: Path) -> None:
        """Make the originals in `folder`, which is this kind's own."""

    def spoil(self, rng: random.Random) -> None:
        """Make one mutant in the place of the last one."""

    def use(self, rng: random.Random) -> None:
        """Do with it what a user would.

        Raises:
            EsenError: It was refused.
        """


def into_one_file(database: Path) -> None:
    """Have all that SQLite keeps beside a database in the file itself."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")


def copy_anew(original: Path, path: Path) -> None:
    """Put a copy into a folder that holds nothing else."""
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()
    shutil.copy(original, path)


def shown(record: Any) -> None:
    """Show a record in all forms."""
    from esen_lab.ui.html import html_of, text_of

    str(record)
    repr(record)
    html_of(record)
    text_of(record)
    json.dumps(record.to_dict() if hasattr(record, "to_dict") else None)


class Plans:
    """plan.json."""

    def __init__(self, folder: Path) -> None:
        from esen_lab.planner.plan import Lane, Plan

        self.path, self.again = folder / "plan.json", folder / "again.json"
        one = Plan(
            lanes=(Lane(units=2, members=("a", "b"), active_units=(1, 2)), Lane(units=1, members=("c",))),
            units=4,
            device={"kind": "cpu", "name": "n", "units": 4, "unit": "core", "details": {"x": "y"}, "simulated": False},
            jct_s=0.011,
            bound_s=0.01,
            predicted_s={"a": 0.005, "b": 0.006, "c": 0.01},
            fingerprints={"a": "1", "b": "2", "c": "3"},
            example="float32[1, 8]",
            combine="mean",
            notes=("hello",),
            created_at="2026-01-01T00:00:00+00:00",
        )
        two = Plan(
            lanes=(Lane(units=2, members=("a",), device="one"), Lane(units=3, members=("b",), device="two")),
            units=3,
            devices={"one": 2, "two": 3},
        )
        staged = Plan(
            lanes=(Lane(units=2, members=("a",), backends=("inductor",)), Lane(units=2, members=("b",), stage=1)),
            units=2,
            reach=(1.0, 0.25),
            threshold=0.9,
            left_out=("c",),
        )
        names = [f"n{i}" for i in range(512)]
        wide = Plan(lanes=tuple(Lane(units=4096, members=(name,)) for name in names), units=4096)
        long = Plan(lanes=(Lane(units=4096, members=tuple(names)),), units=4096, notes=("x" * 10_000,) * 100)
        plans = [*[one] * 20, *[two] * 8, *[staged] * 8, wide, long]
        self.originals = [json.dumps(plan.to_dict()).encode() for plan in plans]
        self.lab = lab_of_three()

    def spoil(self, rng: random.Random) -> None:
        self.path.write_bytes(json_mutant(rng.choice(self.originals), rng))

    def use(self, rng: random.Random) -> None:  # noqa: ARG002  the same for all
        from esen_lab.planner.fits import only_planned
        from esen_lab.planner.plan import Plan

        plan = Plan.load(self.path)
        plan.describe()
        str((plan.gap, plan.oversubscribed, only_planned(plan), plan.is_sequential))
        shown(plan)
        plan.save(self.again)
        assert Plan.load(self.again) == plan
        plan.with_backends(dict.fromkeys(plan.names, "eager")).with_origin(notes=("one more",))
        with contextlib.suppress(EsenError):  # a sound plan, but none for this lab
            self.lab.load(self.path)
            shown(self.lab.status())
            shown(self.lab.tune())


class Records:
    """Recorded latencies."""

    def __init__(self, folder: Path) -> None:
        from esen_lab.devices import FakeDevice

        self.path, self.again = folder / "record.json", folder / "again.json"
        FakeDevice({"a": {30: 0.02, 60: 0.01}, "b": {1: 0.1, 100: 0.004}, "c": {50: 0.01}}, name="GPU").save(self.again)
        whole = self.again.read_bytes()
        short = {"name": "G", "units": 8, "unit": "SM", "latency_s": {"a": {"1": 0.2, "8": 0.05}, "b": {"4": 0.1}}}
        many = {"name": "G", "units": 480, "latency_s": {f"n{i}": {"1": 1.0 + i, "480": 0.1} for i in range(100)}}
        long = {"name": "G", "units": 4096, "latency_s": {f"n{i}": _curve(4096, i) for i in range(12)}}
        records = [*[short] * 20, many, long]
        self.originals = [*[whole] * 10, *(json.dumps(record).encode() for record in records)]

    def spoil(self, rng: random.Random) -> None:
        self.path.write_bytes(json_mutant(rng.choice(self.originals), rng))

    def use(self, rng: random.Random) -> None:  # noqa: ARG002  the same for all
        from esen_lab.devices import FakeDevice, open_device
        from esen_lab.planner import allocate

        device = open_device(f"fake:{self.path}")
        assert isinstance(device, FakeDevice)
        json.dumps([device.identity.to_dict(), device.notes])
        str(device.identity)
        for place in device.place([1, device.units]):
            place.knows(next(iter(device.latency_s)))
        some = dict(list(device.latency_s.items())[:8])
        shown(allocate(some, device.units, time_limit_s=0.1))
        device.save(self.again)
        assert FakeDevice.load(self.again).latency_s.keys() == device.latency_s.keys()


def _curve(units: int, seed: int) -> dict[str, float]:
    return {str(share): 1.0 / share + 1e-3 * seed for share in range(1, units + 1)}


class Exports:
    """Folders of exported plans."""

    def __init__(self, folder: Path) -> None:
        import torch
        from torch import nn

        from esen_lab.ensemble import CellSource, Ensemble, make_combine, make_submodel
        from esen_lab.export import Graph, export_plan
        from esen_lab.planner.plan import sequential_plan

        self.mutant = folder / "mutant"
        x, two = torch.ones(2, 4), {"input1": torch.ones(1, 2), "input2": torch.ones(1, 2)}
        cell = CellSource(text="import torch\nfrom torch import nn\nnn.Linear(4, 3)")
        first = Ensemble(
            submodels=(
                make_submodel("a", nn.Sequential(nn.Linear(4, 3)), x),
                make_submodel("b", "torch.nn:Linear", x, args=(4, 3)),
                make_submodel("c", cell, x, namespace={}),
            ),
            combine=make_combine("weighted", weights={"a": 1, "b": 2, "c": 1}),
        )
        second = Ensemble(submodels=(make_submodel("d", nn.Bilinear(2, 2, 1), two),))
        for name, ensemble in (("one", first), ("two", second)):
            plan = sequential_plan(ensemble.names, 2, fingerprints=ensemble.fingerprints, device={"kind": "cpu"})
            graph = Graph(member=ensemble.names[0], backend="openvino", name="0" * 32, content=b"an engine's own")
            export_plan(plan, ensemble, folder / f"{name}.py", graphs=[graph])
        self.originals = [folder / "one_files", folder / "two_files"]

    def use(self, rng: random.Random) -> None:  # noqa: ARG002  the same for all
        from esen_lab.common.trees import tree_spec
        from esen_lab.export import load_bundle

        trusted = {"trust": True} if "trust" in inspect.signature(load_bundle).parameters else {}
        plan, ensemble = load_bundle(self.mutant, **trusted)
        shown(plan)
        shown(ensemble)
        for submodel in ensemble.submodels:
            shown(submodel)
            str(tree_spec(submodel.example))

    def spoil(self, rng: random.Random) -> None:
        shutil.rmtree(self.mutant, ignore_errors=True)
        shutil.copytree(rng.choice(self.originals), self.mutant)
        files = sorted(path for path in self.mutant.iterdir())
        weighted = [path for path in files for _ in range(6 if path.name == "bundle.json" else 1)]
        path = rng.choice(weighted)
        if rng.random() < 0.05:
            something_else(path, rng)
            return
        if rng.random() < 0.03:
            path.unlink()
            return
        data = path.read_bytes()
        path.write_bytes(json_mutant(data, rng) if path.suffix == ".json" else _spoilt_weights(data, path, rng))
        if path.name != "bundle.json" and rng.random() < 0.8:  # as whoever wants it to be believed would
            manifest = json.loads((self.mutant / "bundle.json").read_bytes())
            manifest["files"][path.name] = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
            (self.mutant / "bundle.json").write_text(json.dumps(manifest))


def _spoilt_weights(data: bytes, path: Path, rng: random.Random) -> bytes:
    """Spoilt bytes; of weights often the header alone, which is JSON within JSON."""
    if path.suffix != ".safetensors" or rng.random() < 0.4:
        return spoilt_bytes(data, rng)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    facts = json.loads(header.get("__metadata__", {}).get("esen_lab", "{}"))
    if rng.random() < 0.5:
        name = next((name for name in header if name != "__metadata__"), "x")
        facts[name] = {"stride": [1, 4], "shape": [2, 4], "dtype": "complex64"}
        header["__metadata__"] = {"esen_lab": json.dumps(mutated(facts, rng))}
    else:
        header = mutated(header, rng)
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + data[8 + length :]


class Stores:
    """Profile stores."""

    def __init__(self, folder: Path) -> None:
        from esen_lab.profiler.records import Point, Profile
        from esen_lab.profiler.store import PointKey, ProfileStore

        self.path, self.original = folder / "store" / "profiles.sqlite3", folder / "original.sqlite3"
        self.point = Point(
            name="a", units=1, median_s=0.1, spread_s=0.01, quantile_90_s=0.12, repeats=12, warmups=6, settled=True,
            peak_memory_bytes=1000, measured_at="2026-01-02T03:04:05+00:00", budget_s=1.0, readings={"sm_percent": 5.0},
        )  # fmt: skip
        self.profile = Profile(
            device={}, units=12, points=tuple(replace(self.point, units=units, median_s=1 / units) for units in (1, 12))
        )
        self.key = PointKey(fingerprint="f", example="float32[1, 64]", device="{}", versions="torch 2", units=1)
        with contextlib.closing(ProfileStore(self.original)) as store:
            for units in range(1, 13):
                store.put(replace(self.key, units=units), replace(self.point, units=units, median_s=1 / units))
        into_one_file(self.original)

    def spoil(self, rng: random.Random) -> None:
        copy_anew(self.original, self.path)
        self._spoil(self.path, rng)

    def use(self, rng: random.Random) -> None:
        from esen_lab.cost_model import Experience, fit
        from esen_lab.profiler.store import ProfileStore

        path = self.path
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store = ProfileStore(path)
            store.get(self.key)
            curves = store.curves("{}", "torch 2")
            _sound(curves)
            fit(self.profile, 12, experience=Experience(curves))
            new = replace(self.key, fingerprint="new", units=rng.randint(1, 20))
            store.put(new, replace(self.point, units=new.units))
            found = store.get(new)
            store.close()
            assert found is not None, f"a point that was just put is not there: {store.notes}"
            assert found.median_s == self.point.median_s
            if store.unsaved:
                assert store.notes, "a point stays in memory and no note says so"
            else:
                assert ProfileStore(path).get(new) is not None, "a stored point is not found by another process"
            again = ProfileStore(path)
            for units in range(1, 13):
                point = again.get(replace(self.key, units=units))
                if point is not None:
                    shown_point = json.dumps([point.median_s, point.peak_memory_bytes, dict(point.readings)])
                    assert "NaN" not in shown_point

    def _spoil(self, path: Path, rng: random.Random) -> None:
        beside = path.with_name(path.name + rng.choice(["-wal", "-shm", "-journal"]))
        match rng.randrange(12):
            case 0:
                something_else(path, rng)
            case 1:
                something_else(beside, rng)
            case 2:
                beside.write_bytes(rng.randbytes(rng.choice([1, 32, 5000])))
            case 3 | 4 | 5:
                path.write_bytes(spoilt_bytes(path.read_bytes(), rng))
            case 6:
                data = bytearray(path.read_bytes())
                data[rng.randrange(100)] = rng.randrange(256)
                path.write_bytes(data)
            case _:
                # What SQLite itself refuses leaves a sound store.
                refused = (sqlite3.Error, OverflowError, UnicodeError)
                with contextlib.suppress(*refused), closing(sqlite3.connect(path)) as connection:
                    connection.execute("PRAGMA synchronous = OFF")
                    rng.choice([_spoil_values, _spoil_values, _spoil_schema])(connection, rng)
                    connection.commit()


def _sound(curves: Any) -> None:
    for (fingerprint, example), curve in curves.items():
        assert isinstance(fingerprint, str)
        assert isinstance(example, str)
        assert all(isinstance(units, int) and 0 < seconds < 1e9 for units, seconds in curve.items())


_COLUMNS = [
    "fingerprint", "example", "device", "versions", "units", "name", "median_s", "spread_s", "quantile_90_s", "repeats",
    "warmups", "settled", "peak_memory_bytes", "measured_at", "budget_s", "readings",
]  # fmt: skip


def _spoil_values(connection: sqlite3.Connection, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 3])):
        column = rng.choice(_COLUMNS)
        value = rng.choice(EXTREMES)(rng)
        if isinstance(value, (dict, list)):
            value = json.dumps(value)
        if column == "readings" and rng.random() < 0.5:
            value = json_mutant(b'{"sm_percent": 5.0, "x": "why"}', rng)
        how = rng.choice(
            ["?", "?", "CAST(? AS TEXT)", "CAST(? AS BLOB)", "CAST(x'ff' AS TEXT)", "zeroblob(3000000)", "9e999"]
        )
        where = "" if rng.random() < 0.5 else " WHERE units = 1"
        values = (value if not isinstance(value, int) or abs(value) < 2**63 else float(2**63),) if "?" in how else ()
        connection.execute(f"UPDATE OR REPLACE points SET {column} = {how}{where}", values)  # noqa: S608  constants


def _spoil_schema(connection: sqlite3.Connection, rng: random.Random) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
    columns, ones = ", ".join(_COLUMNS), ", ".join(f"i AS {name}" for name in _COLUMNS)
    # S608: the parts are constants of this file.
    scripts = [
        f"ALTER TABLE points RENAME TO p; CREATE VIEW points AS {endless} SELECT p.* FROM p, n WHERE i < 0",  # noqa: S608
        f"DROP TABLE points; CREATE VIEW points AS {endless} SELECT {ones} FROM n",  # noqa: S608
        "CREATE TRIGGER t AFTER INSERT ON points BEGIN INSERT INTO points SELECT * FROM points; END",
        "CREATE TRIGGER t BEFORE INSERT ON points BEGIN SELECT RAISE(ABORT, 'no'); END",
        "CREATE TRIGGER t AFTER INSERT ON points BEGIN DELETE FROM points; END",
        "DROP TABLE points",
        f"DROP TABLE points; CREATE TABLE points ({columns})",
        "DROP TABLE points; CREATE TABLE points (a, b)",
        "DROP TABLE points; CREATE VIRTUAL TABLE points USING fts5(a)",
        "CREATE TABLE other (a)",
        "CREATE INDEX i ON points (median_s)",
        "CREATE UNIQUE INDEX i ON points (name)",
        "ALTER TABLE points ADD COLUMN more TEXT",
        f"ALTER TABLE points DROP COLUMN {rng.choice(['readings', 'name', 'budget_s'])}",
        f"ALTER TABLE points RENAME COLUMN {rng.choice(_COLUMNS)} TO other",
        f"PRAGMA user_version = {rng.choice([0, 1, 3, 99, -1, 2**31 - 1])}",
        f"PRAGMA application_id = {rng.choice([0, 1, -1])}",
        "PRAGMA user_version = 1; ALTER TABLE points DROP COLUMN readings",
        "PRAGMA journal_mode = WAL",
        "ANALYZE",
        "DELETE FROM points",
        "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')",
        "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', 'CHECK (0)')",
        "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', 'UNIQUE')",
        "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = 'CREATE TABLE points (x', rootpage = 77",
    ]
    connection.executescript(rng.choice(scripts))


class Histories:
    """Histories of projects."""

    def __init__(self, folder: Path) -> None:
        from esen_lab.history import Book, Entry, EntryKind, Member, Slot, Strategy
        from esen_lab.planner.plan import Lane, Plan

        self.path, self.original = folder / "history" / "history.sqlite3", folder / "original.sqlite3"
        plan = Plan(
            lanes=(Lane(units=1, members=("a",)), Lane(units=2, members=("b",))), units=4, jct_s=0.003, bound_s=0.002
        )
        self.entry = Entry(
            kind=EntryKind.COMPARISON, at="2026-01-02T03:04:05+00:00", device={"name": "n", "units": 4},
            versions={"torch": "2"}, members={"a": Member(fingerprint="f", code="c"), "b": Member(fingerprint="g")},
            combine="mean", batch="float32[1]", plan=plan, jct_s=0.004, low_s=0.0039, high_s=0.0041, runs=9,
            strategies=(Strategy(name="sequential", median_s=0.008, spread_s=0.0, agrees=True), Strategy(name="vmap")),
            load=0.1, notes=("n",),
        )  # fmt: skip
        latency_s = {"a": {1: 0.1, 4: 0.03}, "a by openvino": {1: 0.02}}
        profile = replace(self.entry, kind=EntryKind.PROFILE, plan=None, jct_s=None, latency_s=latency_s)
        self.texts = [self.entry.written().encode(), profile.written().encode()]
        book = Book(self.original)
        for entry in (self.entry, profile, self.entry, self.entry):
            book.put(Slot("p"), entry)
        into_one_file(self.original)

    def spoil(self, rng: random.Random) -> None:
        copy_anew(self.original, self.path)
        match rng.randrange(8):
            case 0:
                something_else(self.path, rng)
            case 1 | 2:
                self.path.write_bytes(spoilt_bytes(self.path.read_bytes(), rng))
            case _:
                refused = (sqlite3.Error, OverflowError, UnicodeError)  # what SQLite itself refuses leaves it sound
                with contextlib.suppress(*refused), closing(sqlite3.connect(self.path)) as connection:
                    connection.execute("PRAGMA synchronous = OFF")
                    self._spoil(connection, rng)
                    connection.commit()

    def _spoil(self, connection: sqlite3.Connection, rng: random.Random) -> None:
        if rng.random() < 0.7:
            text = json_mutant(rng.choice(self.texts), rng).decode(errors="replace")
            connection.execute("UPDATE entries SET data = ? WHERE number = ?", (text, rng.randint(1, 4)))
            return
        column = rng.choice(["project", "number", "at", "kind", "data"])
        how = rng.choice(
            ["CAST(x'ff' AS TEXT)", "zeroblob(3000000)", "9e999", "-1", "''", "9223372036854775807", "'x'"]
        )
        scripts = [
            f"UPDATE OR REPLACE entries SET {column} = {how} WHERE number = {rng.randint(1, 4)}",  # noqa: S608  constants
            "CREATE TRIGGER t AFTER INSERT ON entries BEGIN INSERT INTO entries SELECT * FROM entries; END",
            "DROP TABLE entries; CREATE TABLE entries (project, number, at, kind, data)",
            f"ALTER TABLE entries RENAME COLUMN {column} TO other",
            f"PRAGMA user_version = {rng.choice([0, 2, -1, 2**31 - 1])}",
        ]
        connection.executescript(rng.choice(scripts))

    def use(self, rng: random.Random) -> None:  # noqa: ARG002  the same for all
        from esen_lab.history import Book, Past, Slot, changes

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            book = Book(self.path)
            past = Past(project="p", entries=book.entries("p"), others=book.projects(), notes=book.notes)
            shown(past)
            for entry in past.entries:
                shown(entry)
            for before, after in zip(past.entries, past.entries[1:], strict=False):
                shown(changes(before, after))
            book.put(Slot("p"), replace(self.entry, runs=1234))
            assert book.entries("p")[-1].runs == 1234, f"an entry that was just put is not there: {book.notes}"
            if not book.notes:
                assert Book(self.path).entries("p")[-1].runs == 1234, "another process does not find what was put"
            book.forget("p", [1])


class Messages:
    """Messages of the panel's page."""

    def __init__(self, folder: Path) -> None:  # noqa: ARG002  nothing is written
        self.now = 0.0
        self.rounds = 0
        self.talk = self._new()
        self.opens = True
        self.data: Any = {}

    def _new(self) -> Any:
        import threading

        from esen_lab.ui.panel.channel import Talk

        talk = Talk(_Subject(), clock=lambda: self.now)
        talk._thread = threading.current_thread()  # so that none is started: the looks are ours
        return talk

    def spoil(self, rng: random.Random) -> None:
        from esen_lab.ui.panel.channel import PROTOCOL

        if self.rounds % 500 == 499:
            self.talk.close("bye")
            self.talk = self._new()
        self.rounds += 1
        self.now += rng.choice([0.0, 0.3, 3.0])
        opening = {"protocol": PROTOCOL, "page": rng.choice("pq"), "rate_hz": 4, "client": "0.1.0"}
        commands = [
            {"kind": "rate", "rate_hz": 4},
            {"kind": "stop", "job": "profile"},
            {"kind": "stop"},
            {"kind": "resync"},
            {"kind": "bye"},
            {"kind": "monitor", "on": True, "interval_s": 0.5, "history_s": 600, "have": ["3.9"]},
            {"kind": "monitor", "on": False},
        ]
        self.opens = rng.random() < 0.3 or not self.talk.pages
        self.data = mutated(opening if self.opens else rng.choice(commands), rng)
        if self.opens and not isinstance(self.data, dict):  # nothing else ever comes this far
            self.data = opening

    def use(self, rng: random.Random) -> None:
        if self.opens:
            self.talk.opened(_Comm(), self.data)
        else:
            self.talk.command(rng.choice("pq"), self.data)
        self.talk.look()


class _Comm:
    """Writes what a real one would send as JSON."""

    def send(self, data: dict[str, Any]) -> None:
        json.dumps(data, allow_nan=False)

    def close(self) -> None:
        pass


class _Subject:
    """A lab that answers as the real one does, without one."""

    def sections(self) -> dict[str, Any]:
        return {"plan": None, "device": {"name": "n"}, "busy": {"cell": False}}

    def busy(self) -> bool:
        return False

    def stop(self, job: str | None) -> None:
        from esen_lab.errors import UsageError

        if job is not None and job not in {"profile": 1}:
            raise UsageError("A job that runs can be stopped", given=f"{job}, which does not run (any more)")

    def open_monitor(self, interval_s: float, history_s: float) -> Any:
        from esen_lab.errors import UsageError

        if not (0.05 <= interval_s <= 60 and history_s >= interval_s):
            raise UsageError("A sampler's times are seconds", given=f"{interval_s}, {history_s}")
        return _Monitor()


class _Monitor:
    def bokeh(self) -> tuple[str, str]:
        return "source", "3.9"

    def document(self) -> dict[str, Any]:
        return {"number": 1}

    def fresh(self) -> dict[str, Any] | None:
        return None

    def close(self) -> None:
        pass


def lab_of_three() -> Any:
    """A lab with three sub-models and their points on a simulated device; it starts no process."""
    import torch
    from torch import nn

    from esen_lab.devices import FakeDevice
    from esen_lab.lab import Lab
    from esen_lab.lab.stages.profile import with_measured
    from esen_lab.profiler.records import Point, Profile

    lab = Lab(FakeDevice({name: {1: 0.1, 4: 0.03} for name in "abc"}, units=4), store="/nonexistent/profiles.sqlite3")
    for name in "abc":
        lab.register(name, nn.Linear(8, 2), example=torch.ones(1, 8))
    points = [
        Point(
            name=name, units=units, median_s=0.1 / units, spread_s=0.0, quantile_90_s=0.1, repeats=9, warmups=1,
            settled=True, peak_memory_bytes=None, measured_at="2026-01-02T03:04:05+00:00",
        )
        for name in "abc"
        for units in (1, 2, 3, 4)
    ]  # fmt: skip
    fingerprints = lab.ensemble.fingerprints
    profile = Profile(device={}, units=4, points=tuple(points), fingerprints=fingerprints)
    lab._runtime.change(lambda state: with_measured(state, profile))
    return lab


class Requests:
    """Requests of the Open Inference Protocol: JSON, and JSON with the bytes of tensors behind it."""

    def __init__(self, folder: Path) -> None:  # noqa: ARG002  nothing is written
        import torch

        from esen_lab.serving.headers import Headers
        from esen_lab.serving.signature import describe

        example = {"ids": torch.zeros(2, 3, dtype=torch.int64), "x": torch.zeros(2, 4), "on": torch.zeros(2, 1) > 0}
        answer = {"y": torch.rand(2, 4), "rank": torch.ones(2, 1, dtype=torch.int32)}
        self.model = describe("m", example, answer, members=("a", "b"))
        self.headers = Headers(self.model)
        self.outputs = list(answer.values())
        self.body, self.length = b"", None

    def spoil(self, rng: random.Random) -> None:
        sizes = {"INT64": 8, "FP32": 4, "BOOL": 1}
        inputs: list[dict[str, Any]] = []
        data = b""
        for info in self.model.inputs:
            count = 2 * info.shape[1]
            one: dict[str, Any] = {"name": info.name, "datatype": info.datatype, "shape": [2, info.shape[1]]}
            if rng.random() < 0.5:
                one["data"] = [rng.random() < 0.5] * count if info.datatype == "BOOL" else [rng.randrange(9)] * count
            else:
                one["parameters"] = {"binary_data_size": count * sizes[info.datatype]}
                data += bytes(count * sizes[info.datatype])
            inputs.append(one)
        parameters = {"timeout": 5000, "at_least": 1, "binary_data_output": rng.random() < 0.5}
        body = {"id": "7", "inputs": inputs, "parameters": parameters, "outputs": [{"name": "y"}, {"name": "rank"}]}
        head = json.dumps(body).encode()
        if rng.random() < 0.6:
            head = json_mutant(head, rng)
        whole = head + data
        self.length = rng.choice([len(head), len(head), len(head), None, 0, -1, len(whole), 1 << 62])
        self.body = spoilt_bytes(whole, rng) if rng.random() < 0.4 else whole

    def use(self, rng: random.Random) -> None:  # noqa: ARG002
        from esen_lab.serving.protocol import encode_response
        from esen_lab.serving.refusal import RequestRefused

        try:
            request = self.headers.request(bytearray(self.body), self.length)
            body, head = encode_response(request, self.outputs, self.model)
        except RequestRefused as refused:
            if not 400 <= refused.status < 600 or not refused.message.isprintable():
                raise
            raise EsenError(refused.message) from refused
        json.loads(body[:head])


KINDS: dict[str, Callable[[Path], Kind]] = {
    "plan": Plans,
    "record": Records,
    "export": Exports,
    "store": Stores,
    "history": Histories,
    "panel": Messages,
    "request": Requests,
}
REFUSED = EsenError
