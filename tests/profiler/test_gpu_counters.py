"""Readings around a steady loop, from a double of the window on a GPU's counters."""

from __future__ import annotations

from typing import Any

import pytest
from profiling_fakes import FakeClock

from esen_lab.profiler.gpu_counters import read_while


class WindowDouble:
    def __init__(self) -> None:
        self.closed = False
        self.began_after: int | None = None
        self.ran: list[float] = []

    def begin(self) -> None:
        self.began_after = len(self.ran)

    def read(self) -> dict[str, Any]:
        return {"sm": 61.5, "occupancy": 20.0, "tensor": 3.0, "dram": "Not Supported"}

    def close(self) -> None:
        self.closed = True


def test_a_step_is_repeated_for_long_enough_and_the_window_is_closed() -> None:
    clock, window = FakeClock(), WindowDouble()
    ran = []

    def step() -> None:
        ran.append(clock())
        clock.sleep(0.1)

    found = read_while(step, "GPU-1", open_window=lambda uuid: window, clock=clock)
    assert found == {
        "sm_percent": 61.5,
        "occupancy_percent": 20.0,
        "tensor_percent": 3.0,
        "dram_percent": "Not Supported",
    }
    assert len(ran) == 4
    assert window.closed


def test_what_the_gpu_did_before_the_loop_was_under_way_does_not_count() -> None:
    clock, window = FakeClock(), WindowDouble()

    def step() -> None:
        window.ran.append(clock())
        clock.sleep(0.1)

    read_while(step, "GPU-1", open_window=lambda uuid: window, clock=clock)
    assert window.began_after == 1


def test_a_slow_step_runs_a_few_times_all_the_same_and_one_that_raises_closes_the_window() -> None:
    clock, window = FakeClock(), WindowDouble()
    ran = []

    def step() -> None:
        ran.append(clock())
        clock.sleep(5)
        if len(ran) > 4:
            raise ZeroDivisionError

    read_while(step, "GPU-1", open_window=lambda uuid: window, clock=clock)
    assert len(ran) == 4
    window.closed = False
    with pytest.raises(ZeroDivisionError):
        read_while(step, "GPU-1", open_window=lambda uuid: window, clock=clock)
    assert window.closed


def test_what_cannot_be_read_costs_no_step() -> None:
    def never() -> None:
        raise AssertionError

    found = read_while(never, "GPU-1", open_window=lambda uuid: "Driver Not Loaded")
    assert set(found.values()) == {"Driver Not Loaded"}
    assert set(read_while(never, "").values()) == {"it is not known which GPU this is"}
