"""A lock of which an interrupt cut a block short is free for others, wherever it struck."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
from interrupting import interrupted_at

from esen_lab.common.locks import Lock


def others_get(lock: Lock) -> bool:
    """Whether another thread gets the lock within a moment."""
    got = []

    def take() -> None:
        with lock.within(3.0) as taken:
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

    def taken_by_another() -> bool:
        got: list[bool] = []

        def take() -> None:
            with lock.within(0.05) as taken:
                got.append(taken)

        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        return got[0]

    with lock:
        with lock, passing(lock):
            pass
        assert lock.locked()
        assert not taken_by_another()
    assert taken_by_another()
