"""Searching from the lab: limits, quantiles, the background, and what stays when it is cut short."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from choosing_lab import with_points
from models import mlp

from esen_lab import Lab
from esen_lab.devices import Device
from esen_lab.devices.cpu.device import CpuDevice
from esen_lab.errors import InfeasibleError, UsageError
from esen_lab.planner import UNLIMITED
from esen_lab.planner.plan import Lane, Plan

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class SixteenCores(CpuDevice):
    """A device to plan for; nothing runs on it."""

    @property
    def units(self) -> int:
        return 16


def tables(n: int, seed: int = 0, units: int = 16) -> dict[str, list[float]]:
    random = np.random.default_rng(seed)
    shares = np.arange(1, units + 1)
    return {
        f"m{i}": (random.uniform(1e-3, 1e-2) * (0.1 + 0.9 * random.uniform(4, 20) / shares)).tolist() for i in range(n)
    }


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    made: list[Lab] = []

    def make(n: int = 4, **known: Any) -> Lab:
        device: Device = SixteenCores()
        lab = Lab(device=device, store=tmp_path / "profiles.sqlite")
        made.append(lab)
        for name in tables(n):
            lab.register(name, mlp(seed=1), example=X)
        return with_points(lab, tables(n), **known)

    yield make
    for lab in made:
        lab.close()


def lane_of(plan: Plan, name: str) -> Lane:
    return plan.lane_of(name)


# --- limits -----------------------------------------------------------------------------------------------------


def test_every_limit_of_a_search_reaches_the_plan(make: Callable[..., Lab]) -> None:
    lab = make()
    assert lane_of(lab.search(limits={"pinned": {"m0": 3}}), "m0").units == 3
    assert lane_of(lab.search(limits={"min_units": {"m1": 9}}), "m1").units >= 9
    assert lane_of(lab.search(limits={"max_units": {"m2": 2}}), "m2").units <= 2
    together = lab.search(limits={"together": [["m0", "m3"]]})
    assert lane_of(together, "m0") == lane_of(together, "m3")
    apart = lab.search(limits={"apart": [["m0", "m1", "m2"]]})
    assert len({lane_of(apart, name).members for name in ("m0", "m1", "m2")}) == 3
    assert len(lab.search(limits={"max_lanes": 1}).lanes) == 1
    assert len(lab.search(limits={"one_each": True}).lanes) == 4
    free = lab.search(limits={"oversubscription": UNLIMITED, "one_each": True})
    assert free.oversubscribed
    assert any(note.startswith("oversubscribed") for note in free.notes)


def test_a_target_leaves_the_rest_of_the_device_free(make: Callable[..., Lab]) -> None:
    lab = make()
    best = lab.search()
    assert best.jct_s is not None
    plan = lab.search(limits={"target_s": best.jct_s * 2})
    assert plan.jct_s is not None
    assert plan.jct_s <= best.jct_s * 2
    assert sum(lane.units for lane in plan.lanes) < 16
    assert any("reach the target" in note for note in plan.notes)


def test_a_noisy_profile_can_be_planned_with_its_upper_quantile(make: Callable[..., Lab]) -> None:
    lab = make()
    median, upper = lab.search(), lab.search(quantile="q90")
    assert median.jct_s is not None
    assert upper.jct_s == pytest.approx(2 * median.jct_s)
    assert "planned with 90th percentiles, not medians" in upper.notes


def test_a_memory_limit_counts_what_the_profile_measured(make: Callable[..., Lab]) -> None:
    lab = make()
    assert len(lab.search(limits={"memory_limit_bytes": 6_000_000, "lane_bytes": 1_000_000}).lanes) <= 2
    with pytest.raises(InfeasibleError, match=r"take 4\.0 MB and one lane 0 B, 1\.0 MB too much"):
        lab.search(limits={"memory_limit_bytes": 3_000_000})


def test_memory_that_was_not_measured_is_said_to_be_weights_only(make: Callable[..., Lab]) -> None:
    lab = make(peak_memory_bytes=None)
    plan = lab.search(limits={"memory_limit_bytes": 10**9})
    assert any("weights only" in note for note in plan.notes)
    assert any("lane_bytes adds it" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"pinned": {"m0": 10, "m1": 10}, "apart": [["m0", "m1"]]}, "4 too many"),
        ({"min_units": {"m0": 9}, "max_units": {"m0": 3}}, "6 units apart"),
        ({"one_each": True, "max_lanes": 2}, "2 too few"),
        ({"target_s": 1e-6}, "too slow"),
    ],
)
def test_an_infeasible_search_says_which_limit_and_by_how_much(
    make: Callable[..., Lab], limits: dict[str, Any], message: str
) -> None:
    lab = make()
    before = lab.search()
    with pytest.raises(InfeasibleError, match=message):
        lab.search(limits=limits)
    with pytest.raises(InfeasibleError, match=message):
        lab.start_search(limits=limits).result(timeout=30)
    assert lab.plan is before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limits": {"pins": {"m0": 1}}}, "The limits are"),
        ({"limits": {"pinned": {"ghost": 1}}}, "speaks of sub-models"),
        ({"limits": {"pinned": {"m0": 17}}}, "between 1 and 16"),
        ({"limits": {"oversubscription": 0.5}}, "at least 1"),
        ({"limits": {"together": ["m0"]}}, "list of lists"),
        ({"quantile": "q99"}, "A quantile is one of"),
        ({"searcher": "exakt"}, "A searcher is one of"),
        ({"n_trials": 3}, "takes time_limit_s"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once_in_the_background_too(
    make: Callable[..., Lab], options: dict[str, Any], message: str
) -> None:
    lab = make()
    with pytest.raises(UsageError, match=message):
        lab.search(**options)
    with pytest.raises(UsageError, match=message):
        lab.start_search(**options)
    assert lab.search_job is None


def test_nothing_is_searched_before_it_is_measured(make: Callable[..., Lab]) -> None:
    lab = make()
    lab.register("new", mlp(seed=3))
    with pytest.raises(UsageError, match="no finished measurement of new"):
        lab.start_search()


# --- in the background --------------------------------------------------------------------------------------------


@pytest.mark.timing
def test_the_first_answer_becomes_the_plan_within_two_seconds_and_the_proof_follows(make: Callable[..., Lab]) -> None:
    lab = make(18)
    begun_s = time.monotonic()
    job = lab.start_search()
    while lab.plan is None:
        assert time.monotonic() - begun_s < 2
        job.wait(0.005)
    first = lab.plan
    assert job.snapshot().bound_s > 0
    job.cancel()
    best = job.result(timeout=30)
    assert lab.plan is best
    assert best.jct_s is not None
    assert first.jct_s is not None
    assert best.jct_s <= first.jct_s


def test_a_finished_proof_is_said_in_the_snapshot_and_the_plan(make: Callable[..., Lab]) -> None:
    lab = make(10)
    job = lab.start_search()
    plan = job.result(timeout=60)
    assert lab.plan is plan
    assert lab.search_job is job
    assert job.snapshot().proven
    assert plan.gap == pytest.approx(0, abs=1e-9)


def test_a_plan_set_by_hand_is_not_replaced_by_the_background(make: Callable[..., Lab]) -> None:
    lab = make(18)
    job = lab.start_search()
    while lab.plan is None:
        job.wait(0.005)
    own = Plan(lanes=(Lane(units=16, members=lab.ensemble.names),), units=16)
    lab.plan = own
    job.cancel()
    assert job.result(timeout=30) is not own
    assert lab.plan is own


def test_a_second_search_ends_the_first(make: Callable[..., Lab]) -> None:
    lab = make(18)
    first = lab.start_search()
    second = lab.start_search("equal")
    plan = second.result(timeout=30)
    assert first.cancelled
    first.wait(30)
    assert lab.plan is plan
    assert plan.searcher == "equal"


def test_closing_the_lab_ends_the_search(make: Callable[..., Lab]) -> None:
    lab = make(18)
    job = lab.start_search(time_limit_s=600.0)
    lab.close()
    assert job.done


# --- cut short ----------------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_the_best_so_far(make: Callable[..., Lab]) -> None:
    lab = make(18)

    def interrupt(progress: Any) -> None:
        if progress.jct_s is not None and progress.message.startswith("improving"):
            raise KeyboardInterrupt

    plan = lab.search(on_progress=interrupt)
    assert lab.plan is plan
    assert "interrupted: this is the best plan found until then" in plan.notes


def test_searches_from_several_threads_leave_one_whole_plan(make: Callable[..., Lab]) -> None:
    lab = make(8)
    threads = [threading.Thread(target=lab.search, args=(name,)) for name in ("exact", "equal", "sequential", "exact")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert lab.plan is not None
    assert set(lab.plan.names) == set(lab.ensemble.names)
