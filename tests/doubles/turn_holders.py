"""Something else has the turn meanwhile, and waiting for what another thread is about to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from esen_lab.run.turns import Turns


@contextmanager
def held(turns: Turns, what: str = "a long call") -> Iterator[threading.Event]:
    """Another thread has the turn until the event is set or the block ends."""
    has_it, let_go = threading.Event(), threading.Event()

    def work() -> None:
        with turns.turn(what):
            has_it.set()
            let_go.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert has_it.wait(30)
        yield let_go
    finally:
        let_go.set()
        thread.join()
