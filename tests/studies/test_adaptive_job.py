"""Adaptive profiling, driven: fewer points, the same plan, and the face of an ordinary profile job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from models import Raises, Sleeper, mlp

from esen_lab import Lab
from esen_lab.cost_model import fit
from esen_lab.errors import Cancelled, EsenError, ModelError, UsageError, WorkerTimeout
from esen_lab.planner import allocate, search
from esen_lab.profiler import JobState, Profile, ProfileJob
from esen_lab.profiler.progress import ProfileProgress
from esen_lab.profiler.records import Failure, Point
from esen_lab.studies import AdaptiveProfileJob

X = torch.ones(4, 8)
UNITS = 16


def tables(n: int = 6, seed: int = 3) -> dict[str, list[float]]:
    random = np.random.default_rng(seed)
    shares = np.arange(1, UNITS + 1)
    return {
        f"m{i}": (random.uniform(1e-3, 1e-2) * (0.1 + 0.9 * np.maximum(1, random.uniform(4, 20) / shares))).tolist()
        for i in range(n)
    }


class Told:
    """A profile job that knows the answer: one share, measured in no time, except where it `fails`."""

    def __init__(self, names: Sequence[str], share: int, fails: set[tuple[str, int]], hold: threading.Event) -> None:
        self.failed = [name for name in names if (name, share) in fails]
        self.points = tuple(
            Point(
                name=name,
                units=share,
                median_s=tables()[name][share - 1],
                spread_s=0.0,
                quantile_90_s=tables()[name][share - 1],
                repeats=9,
                warmups=3,
                settled=True,
                peak_memory_bytes=None,
                measured_at="",
            )
            for name in names
            if name not in self.failed
        )
        self.share = share
        self.hold = hold
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()

    def listen(self, callback: Callable[[Any], object]) -> Callable[[], None]:
        return lambda: None

    def snapshot(self) -> ProfileProgress:
        failures = tuple(Failure(name=name, units=self.share, message="it raised") for name in self.failed)
        return ProfileProgress(
            total=len(self.points) + len(failures),
            done=0,
            reused=0,
            failed=len(failures),
            skipped=0,
            state=JobState.RUNNING,
            current=f"at {self.share}",
            elapsed_s=0.0,
            eta_s=None,
            points=(),
            failures=failures,
            message="",
            notes=(),
        )

    def result(self) -> Profile:
        while not self.hold.wait(0.005):
            if self.cancelled.is_set():
                raise Cancelled("The profile was cancelled")
        failures = self.snapshot().failures
        if not self.points:
            raise ModelError("No point could be measured: it raised")
        return Profile(device={}, units=UNITS, points=self.points, failures=failures, fingerprints={})


class Machine:
    def __init__(self, fails: set[tuple[str, int]] | None = None, *, held: bool = False) -> None:
        self.fails = fails or set()
        self.go = threading.Event()
        self.started: list[Told] = []
        if not held:
            self.go.set()

    def __call__(self, names: Sequence[str], share: int) -> ProfileJob:
        self.started.append(Told(names, share, self.fails, self.go))
        return cast("ProfileJob", self.started[-1])


def adaptive(machine: Machine, **options: Any) -> AdaptiveProfileJob:
    return AdaptiveProfileJob(machine, tuple(tables()), UNITS, range(1, UNITS + 1), **options)


def test_the_plan_is_as_good_as_from_the_full_table_with_fewer_points() -> None:
    job = adaptive(Machine())
    profile = job.result(timeout=60)
    full = allocate(tables(), UNITS)
    found = search(fit(profile), UNITS)
    real_s = max(sum(tables()[name][lane.units - 1] for name in lane.members) for lane in found.plan.lanes)
    assert real_s <= full.jct_s * 1.02
    assert len(profile.points) < 6 * UNITS / 2
    last = job.snapshot()
    assert last.state is JobState.FINISHED
    assert last.done + last.failed + last.skipped == last.total == 6 * UNITS
    assert any("is enough" in note or "rests on" in note for note in last.notes)


def test_while_it_runs_it_says_what_it_measures_and_why() -> None:
    machine = Machine(held=True)
    job = adaptive(machine)
    while not machine.started or not job.snapshot().current:
        machine.go.wait(0.005)
    now = job.snapshot()
    assert now.state is JobState.RUNNING
    assert "first shares" in now.message
    with pytest.raises(WorkerTimeout):
        job.result(timeout=0.01)
    machine.go.set()
    job.result(timeout=60)


def test_cancelling_stops_it_in_the_middle_of_a_point() -> None:
    machine = Machine(held=True)
    job = adaptive(machine)
    while not machine.started:
        machine.go.wait(0.005)
    job.cancel()
    with pytest.raises(Cancelled):
        job.result(timeout=60)
    assert job.snapshot().state is JobState.CANCELLED


def test_a_point_that_fails_is_not_asked_for_again_and_the_others_are_kept() -> None:
    machine = Machine({("m0", 1)})
    job = adaptive(machine)
    profile = job.result(timeout=60)
    assert [(f.name, f.units) for f in profile.failures] == [("m0", 1)]
    assert any("could not be measured" in note for note in job.snapshot().notes)
    asked = [told.share for told in machine.started if "m0" in told.failed]
    assert asked == [1]


def test_when_nothing_can_be_measured_the_first_problem_is_raised() -> None:
    fails = {(name, share) for name in tables() for share in range(1, UNITS + 1)}
    with pytest.raises(ModelError, match="it raised"):
        adaptive(Machine(fails)).result(timeout=60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"within": 0.0}, "within a fraction"),
        ({"within": 2.0}, "within a fraction"),
        ({"limits": {"pins": {}}}, "The limits are"),
        ({"limits": {"pinned": {"ghost": 1}}}, "speaks of sub-models"),
    ],
)
def test_bad_options_are_refused_before_anything_is_measured(options: dict[str, Any], message: str) -> None:
    machine = Machine()
    with pytest.raises(UsageError, match=message):
        adaptive(machine, **options)
    assert machine.started == []


# --- the lab, with real workers -----------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        yield lab


def test_the_lab_profiles_adaptively_and_goes_on_to_a_plan(lab: Lab) -> None:
    lab.register("a", mlp(64, outputs=8), example=X)
    lab.register("b", Sleeper(0.002))
    job = lab.profile(adaptive=True, budget_s=0.05)
    with pytest.raises(UsageError, match="One profile job runs at a time"):
        lab.profile()
    profile = job.result(timeout=60)
    assert set(profile.names) == {"a", "b"}
    assert lab.measurements is not None
    assert set(lab.search().names) == {"a", "b"}
    again = lab.profile(adaptive=True, budget_s=0.05).result(timeout=60)
    assert all(point.reused for point in again.points)


def test_the_labs_adaptive_profile_refuses_bad_input_and_reports_a_model_that_raises(lab: Lab) -> None:
    lab.register("a", mlp(8), example=X)
    for options in ({"within": -1}, {"shares": [0]}, {"shares": [lab.device.units + 1]}, {"names": ["ghost"]}):
        with pytest.raises(UsageError):
            lab.profile(adaptive=True, **options)
    assert lab.job is None
    with pytest.raises(EsenError):
        lab.register("bad", Raises())


def test_closing_the_lab_ends_an_adaptive_profile(lab: Lab) -> None:
    lab.register("slow", Sleeper(0.2), example=X)
    job = lab.profile(adaptive=True, budget_s=30)
    lab.close()
    assert job.done
