"""The command `esen-lab serve`: how it ends."""

from __future__ import annotations

import signal
import threading

import pytest

from esen_lab.serving.command import _setter


def test_the_first_signal_ends_a_start_of_lanes_and_the_next_ones_do_not_interrupt_that_end() -> None:
    stop = threading.Event()
    handle = _setter(stop, threading.Event())
    with pytest.raises(KeyboardInterrupt):
        handle(signal.SIGINT, None)
    handle(signal.SIGINT, None)
    handle(signal.SIGTERM, None)
    assert stop.is_set()
