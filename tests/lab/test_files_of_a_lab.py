"""What a lab writes and reads: nothing of the user's is lost, nothing that is spoilt stops it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from models import mlp

from esen_lab import FakeDevice, Lab, Plan
from esen_lab.errors import StoreError, UsageError
from esen_lab.lab.stages.profile import with_measured
from esen_lab.profiler import ProfileStore
from esen_lab.profiler.records import Point, Profile

X = torch.ones(4, 8)
LATENCIES = {name: {1: 0.02, 4: 0.01} for name in ("a", "b")}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Two sub-models with a plan and points, on a simulated device; no process runs."""
    (tmp_path / "store").mkdir()
    with Lab(FakeDevice(LATENCIES, units=4), store=tmp_path / "store" / "profiles.sqlite3") as lab:
        for seed, name in enumerate("ab"):
            lab.register(name, mlp(seed=seed), example=X)
        points = tuple(
            Point(
                name=name, units=units, median_s=0.02 / units, spread_s=0.0, quantile_90_s=0.02, repeats=9, warmups=1,
                settled=True, peak_memory_bytes=None, measured_at="2026-01-02T03:04:05+00:00",
            )
            for name in "ab"
            for units in (1, 2, 3, 4)
        )  # fmt: skip
        found = Profile(device={}, units=4, points=points, fingerprints=lab.ensemble.fingerprints)
        lab._runtime.change(lambda state: with_measured(state, found))
        lab.plan = lab.search()
        yield lab


WRITERS: list[Any] = [
    pytest.param(lambda lab, path: lab.save(path), id="save"),
    pytest.param(lambda lab, path: lab.plan.save(path), id="Plan.save"),
    pytest.param(lambda lab, path: lab.points.record(path), id="record"),
    pytest.param(lambda lab, path: lab.device.save(path), id="FakeDevice.save"),
    pytest.param(lambda lab, path: lab.export(path.with_suffix(".py")), id="export"),
]


@pytest.mark.parametrize("write", WRITERS)
def test_no_writer_touches_a_file_of_another_kind(lab: Lab, tmp_path: Path, write: Any) -> None:
    for name in ("notes.md", "mine.py", "data.json", "empty.txt"):
        path = tmp_path / name
        texts = {path: "" if name == "empty.txt" else "# mine", path.with_suffix(".py"): "print('mine')"}
        for there, text in texts.items():
            there.write_text(text)
        before = sorted(os.listdir(tmp_path))
        with pytest.raises(UsageError, match=r"Choose another name|such as"):
            write(lab, path)
        assert {there: there.read_text() for there in texts} == texts
        assert sorted(os.listdir(tmp_path)) == before


def test_every_writer_writes_over_its_own_kind_and_not_over_that_of_another_one(lab: Lab, tmp_path: Path) -> None:
    plan, record = tmp_path / "plan.json", tmp_path / "record.json"
    for _ in range(2):
        lab.save(plan)
        lab.points.record(record)
        lab.export(tmp_path / "plan.py")
    before = plan.read_bytes(), record.read_bytes()
    with pytest.raises(UsageError, match="A plan is written only in the place of another one"):
        lab.save(record)
    with pytest.raises(UsageError, match="A recorded profile is written only in the place of another one"):
        lab.points.record(plan)
    assert (plan.read_bytes(), record.read_bytes()) == before


def test_a_plan_is_not_saved_under_the_name_of_a_script(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'such as "plan\.json"'):
        lab.save(tmp_path / "new.py")
    assert not (tmp_path / "new.py").exists()


def test_a_record_that_cannot_be_written_leaves_the_old_one(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lab.points.record(tmp_path / "record.json")
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left"):
            lab.points.record(path)
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["record.json", "store"]
    assert Lab(device=f"fake:{path}").device.units == 4


def test_an_export_does_not_replace_a_folder_that_holds_a_file_of_the_user(lab: Lab, tmp_path: Path) -> None:
    exported = lab.export(tmp_path / "plan.py")
    lab.export(tmp_path / "plan.py")
    (exported.folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds nothing else.*notes\.txt"):
        lab.export(tmp_path / "plan.py")
    assert (exported.folder / "notes.txt").read_text() == "mine"


def test_a_plan_file_that_cannot_be_leaves_the_plan_in_force(lab: Lab, tmp_path: Path) -> None:
    before = lab.plan
    path = lab.save(tmp_path / "plan.json")
    path.write_text(path.read_text().replace('"units": 4', '"units": 4000000000'))
    with pytest.raises(StoreError, match="units"):
        lab.load(path)
    assert lab.plan == before


# --- profiling with a spoilt store ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the points of one profile."""
    path = tmp_path_factory.mktemp("profiled") / "profiles.sqlite3"
    with Lab(FakeDevice(LATENCIES, units=4), store=path) as lab:
        lab.register("a", mlp(seed=1), example=X)
        lab.profile(budget_s=0.02, shares=[4]).result(timeout=60)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE points SET name = CAST(x'ff' AS TEXT), readings = CAST(x'ff' AS TEXT)",
        "UPDATE points SET readings = '" + "[" * 100_000 + "'",
        "DROP TABLE points; CREATE VIEW points AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT i AS fingerprint, i AS example, i AS device, i AS versions, i AS units, i AS median_s FROM n",
    ],
    ids=["no UTF-8", "deep JSON", "endless view"],
)
@pytest.mark.filterwarnings("ignore:The profile store")
def test_profiling_goes_on_with_a_spoilt_store(tmp_path: Path, profiled: Path, script: str) -> None:
    path = Path(shutil.copy(profiled, tmp_path))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
        connection.commit()
    with Lab(FakeDevice(LATENCIES, units=4), store=path) as lab:
        lab.register("a", mlp(seed=1), example=X)
        found = lab.profile(budget_s=0.02, shares=[4]).result(timeout=60)
        assert [point.reused for point in found.points] == [False]
        lab.search()
    with Lab(FakeDevice(LATENCIES, units=4), store=path) as lab:
        lab.register("a", mlp(seed=1), example=X)
        assert [p.reused for p in lab.profile(budget_s=0.02, shares=[4]).result(timeout=60).points] == [True]


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("fault", [RuntimeError("a fault of ours"), SystemExit(3)], ids=repr)
def test_what_ends_a_job_comes_out_of_its_result_and_never_out_of_close(
    tmp_path: Path, adaptive: bool, fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise fault

    monkeypatch.setattr(ProfileStore, "get", broken)
    lab = Lab(FakeDevice(LATENCIES, units=4), store=tmp_path / "profiles.sqlite3")
    lab.register("a", mlp(seed=1), example=X)
    job = lab.profile(adaptive=adaptive)
    assert job.wait(timeout=30)
    with pytest.raises(RuntimeError, match=r"fault of ours|SystemExit"):
        job.result()
    assert any("ended early" in note for note in job.snapshot().notes)
    assert lab.measurements is None
    assert lab.status().profiled == {"a": 0}
    lab.close()


def test_a_plan_with_figures_that_no_file_holds_is_not_saved(tmp_path: Path, lab: Lab) -> None:
    from dataclasses import replace

    assert isinstance(lab.plan, Plan)
    for change in ({"jct_s": float("nan")}, {"notes": ("\ud800",)}, {"device": {"a": object()}}, {"jct_s": 1e300}):
        with pytest.raises(UsageError, match="can be loaded again"):
            replace(lab.plan, **change).save(tmp_path / "plan.json")
    assert os.listdir(tmp_path) == ["store"]


def test_a_lab_keeps_its_store_and_history_where_it_was_made_wherever_the_notebook_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with Lab(FakeDevice(LATENCIES, units=4), store="points.sqlite3") as lab:
        monkeypatch.chdir(tmp_path / "elsewhere")
        lab.register("a", mlp(seed=1), example=X)
        lab.profile(budget_s=0.02, shares=[4]).result(timeout=60)
        lab.search()
    assert {"points.sqlite3", "points.history.sqlite3"} <= set(os.listdir(tmp_path))
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("store", [5, b"points", "", "a\0b"])
def test_a_store_that_cannot_be_a_file_is_refused_when_the_lab_is_made(store: Any) -> None:
    with pytest.raises(UsageError, match="file"):
        Lab(FakeDevice(LATENCIES, units=4), store=store)


@pytest.mark.parametrize("adaptive", [False, True])
def test_what_a_profile_is_asked_for_is_checked_before_it_begins(lab: Lab, adaptive: bool) -> None:
    for asked in ({"budget_s": "1"}, {"budget_s": float("nan")}, {"point_timeout_s": None}, {"point_timeout_s": 0}):
        with pytest.raises(UsageError, match="is a number of seconds above 0"):
            lab.profile(adaptive=adaptive, **asked)
    for some in ({"names": 5}, {"shares": 2.5}):
        with pytest.raises(UsageError, match="of a profile are a list"):
            lab.profile(adaptive=adaptive, **some)
    job = lab.profile("a", shares=4, budget_s=0.02, adaptive=adaptive)
    assert {point.name for point in job.result(timeout=60).points} == {"a"}
