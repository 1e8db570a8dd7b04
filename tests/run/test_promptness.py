"""The last moments before an answer is due: what this process puts off, and that it is put back."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from esen_lab.run.promptness import prompt


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = (sys.getswitchinterval(), gc.isenabled())
    yield
    assert (sys.getswitchinterval(), gc.isenabled()) == before


def test_other_threads_give_the_interpreter_up_soon_and_no_garbage_is_collected() -> None:
    with prompt():
        assert sys.getswitchinterval() == pytest.approx(0.0005)
        assert not gc.isenabled()


def test_several_may_be_inside_and_the_last_one_puts_all_back() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with prompt():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(60)
    with prompt():
        pass
    assert not gc.isenabled(), "the other one is still inside"
    leave.set()
    thread.join()


def test_it_is_put_back_after_an_error_and_an_interrupt() -> None:
    for problem in (ValueError, KeyboardInterrupt):
        with pytest.raises(problem), prompt():
            raise problem


def test_who_has_switched_the_collector_off_finds_it_off() -> None:
    gc.disable()
    try:
        with prompt():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_interval_that_is_shorter_already_stays() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with prompt():
            assert sys.getswitchinterval() == pytest.approx(1e-4, abs=2e-6)
    finally:
        sys.setswitchinterval(before + 5e-7)


def test_the_interval_does_not_shrink_from_run_to_run() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0029)
    try:
        held = sys.getswitchinterval()
        for _ in range(20):
            with prompt():
                pass
        assert sys.getswitchinterval() == held
    finally:
        sys.setswitchinterval(before + 5e-7)


@pytest.mark.timing
def test_a_thread_that_computes_does_not_keep_one_that_was_asleep_from_going_on() -> None:
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            sum(range(200))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        with prompt():
            late = []
            for _ in range(50):
                began = time.perf_counter()
                time.sleep(0.001)
                late.append(time.perf_counter() - began - 0.001)
    finally:
        over.set()
        thread.join()
    assert sorted(late)[len(late) // 2] < 0.003
