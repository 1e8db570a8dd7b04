"""Taking turns: the order, the deadline, how many may wait, and Ctrl-C at every instruction."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dis import opname
from types import FrameType
from typing import Any

import pytest
from turn_holders import held
from waiting import until

from esen_lab.errors import Busy, UsageError, WorkerTimeout
from esen_lab.run import turns as under_test
from esen_lab.run.deadline import Deadline
from esen_lab.run.turns import Turns


def test_calls_get_their_turns_in_the_order_in_which_they_came() -> None:
    turns, order = Turns(), []

    def work(number: int) -> None:
        with turns.turn(f"call {number}"):
            order.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    with held(turns):
        for number, thread in enumerate(threads):
            thread.start()
            until(lambda wanted=number + 1: turns.waiting == wanted)
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_a_call_that_waits_longer_than_its_deadline_leaves_and_says_behind_what_it_waited() -> None:
    turns = Turns()
    with held(turns, "a comparison"):
        began = time.monotonic()
        with (
            pytest.raises(WorkerTimeout, match=r"its turn behind 1 other call \(a comparison has it\)"),
            turns.turn("a run", Deadline(0.05)),
        ):
            raise AssertionError
        assert 0.05 <= time.monotonic() - began < 30, "the other one has it for a minute"
        assert turns.waiting == 0
    with turns.turn("a run", Deadline(5)):
        pass
    assert not turns.locked


def test_who_waits_behind_one_that_left_still_waits_for_the_first() -> None:
    turns, came = Turns(), threading.Event()

    def patient() -> None:
        with turns.turn("patient"):
            came.set()

    thread = threading.Thread(target=patient)
    with held(turns):
        impatient = turns.turn("impatient", Deadline(0.1)).place()
        thread.start()
        until(lambda: turns.waiting == 2)
        with pytest.raises(WorkerTimeout), impatient:
            raise AssertionError
        assert not came.wait(0.1)
    assert came.wait(30)
    thread.join()


def test_one_call_more_than_may_wait_is_refused_and_told_how_many_wait() -> None:
    turns = Turns(most_waiting=2)
    with held(turns):
        waiting = [turns.turn(f"call {number}").place() for number in range(2)]
        with (
            pytest.raises(Busy, match=r"At most 2 calls wait.*2 wait for a long call.*most_waiting"),
            turns.turn("one"),
        ):
            pass
        background = turns.turn("a point", refused=False).place()
        assert turns.waiting == 3
        for turn in [*waiting, background]:
            turn.leave()
    with turns.turn("one"):
        pass


def test_a_call_from_inside_another_one_is_refused_and_does_not_wait_for_itself() -> None:
    turns = Turns()
    with turns.turn("a comparison"), pytest.raises(UsageError, match="from inside another"), turns.turn("a run"):
        pass
    with turns.turn("a run"):
        pass


def test_work_beside_a_call_keeps_the_turn_when_that_call_has_gone() -> None:
    turns, go_on, began = Turns(), threading.Event(), threading.Event()

    def work() -> None:
        with turns.beside("lanes that start"):
            began.set()
            go_on.wait(30)

    thread = threading.Thread(target=work)
    with turns.turn("a run"):
        waits = turns.turn("another", Deadline(0.1)).place()
        thread.start()
        assert began.wait(30)
    with pytest.raises(WorkerTimeout, match="waiting for lanes that start"), waits:
        pass
    go_on.set()
    with turns.turn("a run", Deadline(30)):
        pass
    thread.join()


def test_a_wait_is_given_up_by_somebody_else_at_once() -> None:
    turns = Turns()
    with held(turns):
        turn = turns.turn("a run").place()
        turn.leave()
        assert not turn.wait(lambda: False)
        assert turns.waiting == 0


class _Interrupts:
    """Raises KeyboardInterrupt at the nth place of the file under test where Python looks for signals.

    It looks where a function begins, after each call and at each jump backwards.
    """

    def __init__(self, at: int) -> None:
        self.left = at
        self.before: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != under_test.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            before = self.before.get(frame, "")
            self.before[frame] = opname[frame.f_code.co_code[frame.f_lasti]]
            if before.startswith(("CALL", "JUMP_BACKWARD", "RESUME")):
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
        return self


def _call(turns: Turns, at: int) -> bool:
    """One call that is interrupted there; whether that came."""
    interrupts = _Interrupts(at)
    before = sys.gettrace()
    sys.settrace(interrupts)
    try:
        with suppress(KeyboardInterrupt), turns.turn("a run"):
            pass
    finally:
        sys.settrace(before)
    return interrupts.left <= 0


def _call_that_waits(turns: Turns, at: int) -> bool:
    """The same behind another call, which lets go once this one waits for it."""
    gone = threading.Event()
    with held(turns) as let_go:

        def let_it_come() -> None:
            until(lambda: turns.waiting or gone.is_set())
            let_go.set()

        other = threading.Thread(target=let_it_come)
        other.start()
        came = _call(turns, at)
        gone.set()
        other.join()
    return came


@pytest.mark.parametrize("busy", [False, True], ids=["free", "busy"])
def test_an_interrupt_at_any_instruction_leaves_the_queue_right(busy: bool) -> None:
    at, came = 0, True
    while came:
        at += 1
        turns = Turns()
        came = _call_that_waits(turns, at) if busy else _call(turns, at)
        with turns.turn("the next", Deadline(5)):  # would be late
            assert turns.waiting == 0
        assert not turns.locked
        if at > 400:
            break  # how often a wait looks is no fixed number
    assert at > (20 if busy else 5)


def test_a_turn_that_its_thread_left_without_an_end_is_free() -> None:
    """As where Ctrl-C came after the turn was had and before its block began."""
    turns = Turns()

    def loses() -> None:
        turns.turn("a lost call").__enter__()

    for lose in (loses, lambda: _in_a_thread(loses)):
        lose()
        with turns.turn("the next"):
            assert [turn.what for turn in turns.live()] == ["the next"]
    assert not turns.locked


def _in_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
