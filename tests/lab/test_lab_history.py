"""What a lab keeps of its work, from states that change as they do in a session."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.common.jobs import JobState
from esen_lab.devices import FakeDevice
from esen_lab.errors import ModelError, UsageError
from esen_lab.history import Book, Entry, EntryKind
from esen_lab.lab.recorder import default_project, history_path
from esen_lab.lab.stages.profile import with_measured
from esen_lab.planner.plan import Lane
from esen_lab.profiler.records import Point, Profile
from esen_lab.run.comparison import Comparison, Row
from esen_lab.run.report import RunReport

X = torch.ones(1, 8)
ONE = Plan(lanes=(Lane(units=4, members=("a", "b")),), units=4, searcher="by hand")
TWO = Plan(lanes=(Lane(units=2, members=("a",)), Lane(units=2, members=("b",))), units=4, searcher="exact", jct_s=0.01)


def made(store: Path) -> Lab:
    lab = Lab(FakeDevice({name: {1: 0.1, 4: 0.03} for name in "ab"}, units=4), store=store)
    for name in "ab":
        lab.register(name, nn.Linear(8, 2), example=X)
    return lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with made(tmp_path / "points.sqlite3") as lab:
        yield lab


def ran(lab: Lab, jct_s: float = 0.004, batch: str = "float32[1, 8]") -> None:
    """As after a run of the plan in force, on lanes that are warm."""
    plan = lab.plan or ONE
    fidelity = SimpleNamespace(doubt=lambda _: None)
    executor: Any = SimpleNamespace(
        plan=plan, ensemble=lab.ensemble, broken="", pids=(), fidelity=fidelity, end=lambda: None
    )
    report = RunReport(jct_s=jct_s, spans=(), lanes=(), copy_s=0.0, combine_s=0.0, batch=batch)
    lab._runtime.set(executor=executor, report=report)


def compared(lab: Lab, times_s: tuple[float, ...] = (0.004,) * 6) -> None:
    ran(lab)
    rows = [
        Row(strategy="sequential", lanes="", median_s=0.008, spread_s=0.0, agrees=True, times_s=(0.008,) * 6),
        Row(strategy="vmap", lanes="", median_s=float("nan"), spread_s=float("nan"), failed="no"),
        Row(strategy="plan", lanes="", median_s=0.004, spread_s=0.0, agrees=True, times_s=times_s),
    ]
    lab._runtime.set(
        comparison=Comparison(rows=tuple(rows), rounds=6, verdict="The plan wins.", batch="float32[1, 8]", notes=("n",))
    )


@pytest.fixture(autouse=True)
def lanes_that_are_made_up_are_let_go(lab: Lab) -> Iterator[None]:
    yield
    lab.history.past()
    lab._runtime.set(executor=None)


def kinds(lab: Lab) -> list[str]:
    return [str(entry.kind) for entry in lab.history.past().entries]


def test_a_comparison_is_kept_with_median_interval_and_rivals(lab: Lab) -> None:
    lab.plan = TWO
    compared(lab, (0.001, 0.002, 0.003, 0.004, 0.005, 0.006))
    entry = lab.history.past(kinds=["comparison"]).entries[-1]
    assert (entry.jct_s, entry.low_s, entry.high_s, entry.runs) == (0.0035, 0.001, 0.006, 6)
    assert [row.name for row in entry.strategies] == ["sequential", "vmap", "plan"]
    assert entry.best_other == entry.strategies[0]
    assert entry.plan is not None
    assert entry.plan.lanes == TWO.lanes
    assert entry.notes == ("The plan wins.", "n")
    assert entry.members.keys() == {"a", "b"}
    assert entry.members["a"].code == lab.ensemble.get("a").code_fingerprint
    assert entry.device["units"] == 4
    assert entry.versions.keys() >= {"esen_lab", "python", "torch"}


def test_a_plan_put_in_force_is_kept_once_with_who_found_it(lab: Lab) -> None:
    lab.plan = TWO
    lab.plan = replace(TWO, notes=("again",))
    lab.plan = ONE
    assert [(entry.kind, entry.searcher) for entry in lab.history.past().entries] == [
        ("plan", "exact"),
        ("plan", "by hand"),
    ]


def test_while_a_search_improves_the_plan_only_its_last_is_kept(lab: Lab) -> None:
    job: Any = SimpleNamespace(state=SimpleNamespace(over=False))
    runtime = lab._runtime
    runtime.set(plan=ONE, improving=job)
    runtime.set(plan=TWO, improving=job)
    assert lab._runtime.recorder.book.entries(lab.history.project) == ()
    job.state.over = True
    runtime.stir()
    (entry,) = lab.history.past().entries
    assert entry.plan is not None
    assert entry.plan.lanes == TWO.lanes


def test_runs_of_one_plan_and_shape_are_one_entry_with_their_median(lab: Lab) -> None:
    lab.plan = TWO
    for n in range(7):
        ran(lab, 0.001 * (n + 1))
    ran(lab, 0.1, batch="float32[9, 8]")
    lab.plan = ONE
    ran(lab, 0.5)
    entries = lab.history.past(kinds=[EntryKind.RUNS]).entries
    assert [(entry.runs, entry.jct_s, entry.low_s, entry.batch) for entry in entries] == [
        (7, 0.004, 0.001, "float32[1, 8]"),
        (1, 0.1, None, "float32[9, 8]"),
        (1, 0.5, None, "float32[1, 8]"),
    ]
    ran(lab, 0.5)
    assert [entry.runs for entry in lab.history.past(kinds=["runs"]).entries] == [7, 1, 2]


def test_runs_are_in_the_file_before_the_lab_is_closed(lab: Lab) -> None:
    for _ in range(16):
        ran(lab)
    done = threading.Event()
    lab._runtime.recorder._write(done.set)  # behind what the sixteenth run had written
    assert done.wait(60)
    (entry,) = Book(lab._runtime.recorder.book.path).entries(lab.history.project)
    assert entry.runs == 16


def test_code_that_changed_begins_another_entry_and_weights_that_changed_do_not(lab: Lab) -> None:
    ran(lab)
    lab.register("b", nn.Linear(8, 2), example=X)
    ran(lab)
    lab.register("b", nn.Sequential(nn.Linear(8, 2)), example=X)
    ran(lab)
    assert [entry.runs for entry in lab.history.past(kinds=["runs"]).entries] == [2, 1]
    assert lab.history.past().marks == ((1, ("code of b",)),)


def a_profile_of(lab: Lab, *, reused: bool = False) -> None:
    points = tuple(
        Point(
            name=name, units=units, median_s=0.1 / units, spread_s=0.0, quantile_90_s=0.1, repeats=9, warmups=1,
            settled=True, peak_memory_bytes=None, measured_at="2026-01-02T03:04:05+00:00", reused=reused,
            readings={"load": 0.03 * units},
        )
        for name in "ab"
        for units in (1, 4)
    )  # fmt: skip
    found = Profile(device=dict(FakeDevice({"a": {1: 1.0}}).identity.to_dict()), units=4, points=points)
    job: Any = SimpleNamespace(state=JobState.RUNNING, outcome=lambda: found, done=True, cancel=lambda: None)
    lab._runtime.set(profile_job=job)
    job.state = JobState.FINISHED
    lab._runtime.change(lambda state: with_measured(state, found))
    lab._runtime.stir()


def test_a_finished_profile_is_kept_with_its_latencies_and_the_load(lab: Lab) -> None:
    a_profile_of(lab)
    (entry,) = lab.history.past().entries
    assert entry.kind == "profile"
    assert entry.latency_s == {"a": {1: 0.1, 4: 0.025}, "b": {1: 0.1, 4: 0.025}}
    assert entry.load == pytest.approx(0.12)


def test_a_profile_that_measured_nothing_is_no_trouble_of_the_history(lab: Lab) -> None:
    def nothing() -> None:
        raise ModelError("No point could be measured")

    job: Any = SimpleNamespace(state=JobState.RUNNING, outcome=nothing, done=True, cancel=lambda: None)
    lab._runtime.set(profile_job=job)
    job.state = JobState.FINISHED
    lab._runtime.stir()
    assert (lab.history.past().entries, lab.history.notes) == ((), ())


def test_a_profile_that_measured_nothing_new_is_not_kept(lab: Lab) -> None:
    a_profile_of(lab, reused=True)
    assert lab.history.past().entries == ()


def test_another_session_in_the_same_folder_goes_on_with_it(lab: Lab, tmp_path: Path) -> None:
    lab.plan = TWO
    compared(lab)
    lab.history.past()  # so that all is written, however slow the machine is
    lab._runtime.set(executor=None)
    lab.close()
    with made(tmp_path / "points.sqlite3") as later:
        assert kinds(later) == kinds(lab)
        assert later.history.take(1).lanes == TWO.lanes
        assert later.plan is not None
        assert any("Taken from the history: number 1" in note for note in later.plan.notes)


def test_two_entries_side_by_side_say_what_changed(lab: Lab) -> None:
    lab.plan = TWO
    compared(lab)
    lab.plan = ONE
    compared(lab, (0.002,) * 6)
    numbers = [entry.number for entry in lab.history.past(kinds=["comparison"]).entries]
    found = lab.history.compare(*numbers)
    assert {"lanes", "JCT median", "found by"} <= {row.what for row in found.rows if row.differs}
    assert found.verdict == f"{numbers[1]} is 2.0 times faster than {numbers[0]}."


def test_a_plan_for_other_sub_models_is_not_taken(lab: Lab) -> None:
    lab.plan = TWO
    number = lab.history.past().entries[0].number
    lab.unregister("b")
    with pytest.raises(UsageError, match="same sub-models"):
        lab.history.take(number)
    a_profile_of(lab)
    with pytest.raises(UsageError, match="a profile without a plan"):
        lab.history.take(lab.history.past().entries[-1].number)


def test_forgetting_takes_out_some_or_all(lab: Lab) -> None:
    lab.plan = TWO
    lab.plan = ONE
    assert kinds(lab) == ["plan", "plan"]
    with pytest.raises(UsageError, match="named by its number"):
        lab.history.forget([7])
    assert lab.history.forget([1]) == 1
    assert lab.history.forget() == 1
    assert kinds(lab) == []


def test_a_project_may_be_named_and_others_are_told(lab: Lab) -> None:
    lab.plan = TWO
    lab.history.project = "digits"
    lab.plan = ONE
    past = lab.history.past()
    assert [entry.searcher for entry in past.entries] == ["by hand"]
    assert past.others == {default_project(): 1}
    with pytest.raises(UsageError, match="A project has a name"):
        lab.history.project = " "


def test_it_can_be_turned_off(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lab.history.on = False
    lab.plan = TWO
    compared(lab)
    assert kinds(lab) == []
    assert "Nothing is kept at present" in lab.history.past().notes[0]
    monkeypatch.setenv("ESEN_LAB_HISTORY", "off")
    assert not made(tmp_path / "other.sqlite3").history.on


@pytest.mark.parametrize(("last", "kinds"), [(0, None), (1.5, None), (5, ["nothing"])])
def test_what_is_no_list_is_refused(lab: Lab, last: Any, kinds: Any) -> None:
    with pytest.raises(UsageError):
        lab.history.past(last, kinds)


def test_a_history_that_cannot_be_written_is_one_note_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "no folder").touch()
    with made(tmp_path / "no folder" / "points.sqlite3") as lab:
        lab.plan = TWO
        compared(lab)
        past = lab.history.past()
        lab._runtime.set(executor=None)
        assert len(past.notes) == 1
        assert "cannot be written and stays in memory" in past.notes[0]
        assert [str(entry.kind) for entry in past.entries] == ["plan", "comparison", "runs"]


def test_whoever_runs_does_not_wait_for_the_file(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    held, asked = threading.Event(), threading.Event()

    def slow(self: Book, slot: object, entry: Entry) -> None:
        asked.set()
        held.wait(60)

    monkeypatch.setattr(Book, "put", slow)
    lab.plan = TWO
    for _ in range(100):
        ran(lab)
    assert asked.wait(60)
    assert lab.report is not None  # all the runs were made while the first entry was being written
    held.set()


def test_an_entry_that_cannot_be_made_ends_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esen_lab.lab.recorder._comparison", lambda state, at: 1 / 0)
    compared(lab)
    assert "ZeroDivisionError" in " ".join(lab.history.past().notes)
    lab.plan = TWO
    assert "plan" in kinds(lab)


def test_the_file_lies_beside_the_named_store_or_with_the_users_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESEN_LAB_HOME", str(tmp_path))
    assert history_path(None) == str(tmp_path / "history.sqlite3")
    assert history_path("some/points.sqlite3") == "some/points.history.sqlite3"


def test_the_project_is_the_folder_unless_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESEN_LAB_PROJECT", raising=False)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert default_project() == os.path.realpath(gone)
    gone.rmdir()
    assert default_project() == "a folder that is gone"
    monkeypatch.setenv("ESEN_LAB_PROJECT", "digits")
    assert default_project() == "digits"


def test_the_file_is_for_its_user_as_the_points_are(lab: Lab) -> None:
    lab.plan = TWO
    lab.history.past()
    path = lab._runtime.recorder.book.path
    assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0


def test_what_is_still_to_be_written_when_the_lab_is_closed_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esen_lab.lab.recorder._CLOSING_S", 0.0)
    go_on, put, written = threading.Event(), Book.put, threading.Event()

    def slow(self: Book, slot: Any, entry: Entry) -> None:
        go_on.wait(60)
        put(self, slot, entry)
        if entry.kind == "runs":
            written.set()

    monkeypatch.setattr(Book, "put", slow)
    with made(tmp_path / "other.sqlite3") as lab:
        lab.plan = TWO
        ran(lab)
        lab._runtime.set(executor=None)
        lab._runtime.recorder.flush(0.0)
    go_on.set()
    assert written.wait(60)
    assert [str(entry.kind) for entry in lab._runtime.recorder.book.entries(lab.history.project)] == ["plan", "runs"]


def test_one_number_or_kind_may_stand_for_a_list(lab: Lab) -> None:
    lab.plan = ONE
    compared(lab)
    assert {str(entry.kind) for entry in lab.history.past(kinds="plan").entries} == {"plan"}
    number = lab.history.past(kinds="comparison").entries[-1].number
    assert lab.history.forget(number) == 1
    assert lab.history.past(kinds=EntryKind.COMPARISON).entries == ()


@pytest.mark.parametrize("numbers", [2.5, "all", "3"])
def test_what_is_no_number_of_an_entry_forgets_nothing(lab: Lab, numbers: Any) -> None:
    lab.plan = ONE
    with pytest.raises(UsageError, match="forgotten by their numbers; None forgets the whole project"):
        lab.history.forget(numbers)
    assert kinds(lab) == ["plan"]


def test_a_word_neither_turns_the_history_on_nor_off(lab: Lab) -> None:
    with pytest.raises(UsageError, match=r"True or False\. Given: 'off'"):
        lab.history.on = "off"  # type: ignore[assignment]
    assert lab.history.on


def test_runs_that_were_forgotten_neither_come_back_nor_take_the_place_of_what_came_since(lab: Lab) -> None:
    lab.plan = TWO
    for _ in range(3):
        ran(lab)
    lab.history.forget(lab.history.past(kinds="runs").entries[-1].number)
    compared(lab)
    ran(lab)
    assert kinds(lab) == ["plan", "comparison", "runs"]
    assert lab.history.past(kinds="runs").entries[-1].runs == 2
    lab.history.forget()
    ran(lab)
    assert [(str(entry.kind), entry.runs) for entry in lab.history.past().entries] == [("runs", 1)]
