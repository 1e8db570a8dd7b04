"""The last few runs and the load of their lanes: what is kept, when the load is read."""

from __future__ import annotations

from collections.abc import Sequence

from esen_lab.devices.cpu.contention import LoadSample
from esen_lab.planner.plan import sequential_plan
from esen_lab.run.run_history import RecentRuns

PLAN = sequential_plan(("a",), 1, jct_s=0.001)


class Kernel:
    """Counts of lanes that wait as long as they run from `busy` on, and how often they were read."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reads = 0
        self.sample = LoadSample(ran_s=0.0, waited_s=0.0)

    def clock(self) -> float:
        return self.now

    def read(self, _: Sequence[int]) -> LoadSample:
        self.reads += 1
        return self.sample

    def pass_s(self, ran_s: float, waited_s: float, idle_s: float = 0.0) -> None:
        self.now += ran_s + waited_s + idle_s
        self.sample = LoadSample(ran_s=self.sample.ran_s + ran_s, waited_s=self.sample.waited_s + waited_s)

    def lately(self, pids: Sequence[int] = (1,)) -> RecentRuns:
        return RecentRuns(pids, clock=self.clock, read=self.read)


def test_usual_runs_cost_no_reading_but_one_in_ten_seconds() -> None:
    kernel = Kernel()
    lately = kernel.lately()
    for _ in range(1000):
        kernel.pass_s(0.001, 0.0, idle_s=0.02)
        assert lately.ran(0.001, 0.001, PLAN, "x") is None
    assert kernel.reads == 3


def test_a_run_far_off_comes_with_the_runs_before_it_and_the_load_since() -> None:
    kernel = Kernel()
    lately = kernel.lately()
    kernel.pass_s(0.02, 0.0)
    lately.ran(0.001, 0.001, PLAN, "x")
    lately.forget()
    kernel.pass_s(0.02, 0.02)
    assert lately.ran(0.04, 0.001, PLAN, "x") == ((0.04,), 0.5)
    assert lately.ran(0.05, 0.001, PLAN, "x") == ((0.04, 0.05), 0.5)
    assert kernel.reads == 3, "the second run far off came too soon to look again"


def test_another_plan_or_another_batch_begins_anew() -> None:
    lately = Kernel().lately()
    lately.ran(0.04, 0.001, PLAN, "x")
    assert lately.ran(0.05, 0.001, PLAN, "y") == ((0.05,), None)
    other = sequential_plan(("a",), 1, jct_s=0.001)
    assert lately.ran(0.06, 0.001, other, "y") == ((0.06,), None)


def test_without_a_prediction_or_processes_there_is_nothing_to_say_or_read() -> None:
    kernel = Kernel()
    lately = kernel.lately(())
    assert lately.ran(0.04, None, PLAN, "x") is None
    assert lately.ran(0.04, 0.0, PLAN, "x") is None
    assert lately.ran(0.04, 0.001, PLAN, "x") == ((0.04, 0.04, 0.04), None)
    assert kernel.reads == 0


def test_too_little_running_time_to_tell_leaves_the_load_unknown() -> None:
    kernel = Kernel()
    lately = kernel.lately()
    kernel.pass_s(0.001, 0.001)
    assert lately.ran(0.04, 0.001, PLAN, "x") == ((0.04,), None)
