"""A lock of which an interrupt cut a block short is free for others, wherever it struck; and what tells that."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
from interrupting import interrupted_at

from esen_lab.common.locks import Lock, Place, Underway


def others_get(lock: Lock, within_s: float = 3.0) -> bool:
    """Whether another thread gets the lock within a moment."""
    got = []

    def take() -> None:
        with lock.within(within_s) as taken:
            got.append(taken)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return got == [True]


def once(lock: Lock) -> None:
    with lock:
        pass


def within_another(lock: Lock) -> None:
    with lock:
        once(lock)
        once(lock)


def twice_in_one_function(lock: Lock) -> None:
    with lock:
        with lock:
            pass
        with lock:
            pass


def by_a_context(lock: Lock) -> None:
    with passing(lock):
        once(lock)


@contextlib.contextmanager
def passing(lock: Lock) -> Iterator[None]:
    with lock:
        yield


@pytest.mark.parametrize("act", [once, within_another, twice_in_one_function, by_a_context])
def test_an_interrupt_at_any_line_leaves_the_lock_to_others(act: Callable[[Lock], None]) -> None:
    lock = Lock()
    for line in range(1, 200):
        where = interrupted_at(line, lambda: act(lock))
        assert others_get(lock), where
        act(lock)
        assert others_get(lock), f"{where}, and used again"
        if not where:
            break
    assert not lock.locked()


def test_blocks_within_one_function_keep_others_out_until_the_outermost_ends() -> None:
    lock = Lock()
    with lock:
        with lock, passing(lock):
            pass
        assert lock.locked()
        assert not others_get(lock, 0.05)
    assert others_get(lock)


def test_a_turn_whose_holder_has_left_is_free_for_others() -> None:
    turn = Lock()

    def leaves_it() -> None:
        turn.__enter__()

    leaves_it()
    assert others_get(turn)
    with turn:
        assert turn.locked()
    assert not turn.locked()


def test_a_lock_that_was_had_within_a_time_and_left_is_free_for_others() -> None:
    lock = Lock()
    lost = lock.within(1.0)

    def loses() -> None:
        assert lost.__enter__()  # as where an interrupt comes before the block begins

    loses()
    assert others_get(lock)
    with lock.within(0.0) as taken:
        assert taken
    assert not lock.locked()


def test_a_turn_whose_holder_is_there_is_waited_for() -> None:
    turn, order = Lock(), []
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with turn:
            inside.set()
            go_on.wait(60)
            order.append("first")

    def follow() -> None:
        with turn:
            order.append("second")

    threads = [threading.Thread(target=hold), threading.Thread(target=follow)]
    threads[0].start()
    inside.wait(60)
    threads[1].start()
    threads[1].join(0.4)
    assert order == []
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert order == ["first", "second"]


def test_what_was_interrupted_in_the_middle_stays_marked() -> None:
    mark = Underway()
    with pytest.raises(ValueError, match="said"), mark:
        raise ValueError("said")
    assert not mark.cut
    with pytest.raises(KeyboardInterrupt), mark:
        raise KeyboardInterrupt
    assert mark.cut


def test_a_place_knows_when_it_has_been_left() -> None:
    assert not Place().left

    def inner() -> Place:
        return Place()

    assert inner().left
