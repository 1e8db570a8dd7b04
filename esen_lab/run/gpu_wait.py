"""Waiting for a GPU by asking it: a wait inside the driver knows no deadline, and Ctrl-C does not reach it."""

from __future__ import annotations

import time
from collections.abc import Callable

_AWAKE_S = 0.002  # beside the expected end: so long it is asked without a nap between
_NAP_S = 100e-6
_LONGEST_NAP_S = 0.05  # until an interrupt is seen


def wait_until(
    done: Callable[[], bool],
    expected_s: float,
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Ask until it is done: asleep for most of the expected time, awake around its end, with naps after that.

    Args:
        done: Asks.
        expected_s: How long it takes, as far as is known; 0 where nothing is.
        timeout_s: When to give up.
        clock: Seconds; a test gives its own.
        sleep: Likewise.

    Returns:
        Whether it was done in time.
    """
    began = clock()
    deadline = began + timeout_s
    awake_from = began + 0.9 * expected_s - _AWAKE_S
    awake_to = began + expected_s + _AWAKE_S
    while not done():
        now = clock()
        if now >= deadline:
            return False
        if now < awake_from:
            sleep(min(awake_from - now, deadline - now, _LONGEST_NAP_S))
        elif now > awake_to:
            sleep(min(_NAP_S, deadline - now))
    return True
