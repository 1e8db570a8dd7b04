"""The deadline of a whole call: it begins when the call does, and every wait inside is given what is left of it."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from esen_lab.common.resources import begin
from esen_lab.common.units import format_seconds
from esen_lab.errors import EsenError, UsageError, WorkerError, WorkerTimeout

_FOR_EVER_S = 1e9  # the system's waits take no longer ones
_TIMER_ENDS_S = 1.0  # a thread that has nothing left to do, on a machine that is very busy


class Deadline:
    """A moment, and how much time was allowed until then.

    Args:
        allowed_s: Seconds from now, above 0; `math.inf` where nobody set a limit.

    Raises:
        UsageError: It is no such number.
    """

    __slots__ = ("allowed_s", "at_s")

    def __init__(self, allowed_s: float) -> None:
        try:
            fine = allowed_s > 0
        except TypeError:
            fine = False
        if not fine or isinstance(allowed_s, bool):
            raise UsageError("A deadline is a number of seconds above 0", given=allowed_s)
        self.allowed_s = allowed_s
        self.at_s = time.monotonic() + allowed_s if allowed_s < _FOR_EVER_S else math.inf

    @property
    def left_s(self) -> float:
        """Seconds until then, 0 once it has passed."""
        return max(0.0, self.at_s - time.monotonic())

    @property
    def since_s(self) -> float:
        """Seconds since the call was made."""
        return self.allowed_s - (self.at_s - time.monotonic())

    def passed(self, waited_for: str, hint: str = "Allow more time with timeout_s.") -> WorkerTimeout:
        """The error of a call that has no time left.

        Args:
            waited_for: What it was waiting for then, such as "its turn behind 2 other calls".
            hint: What to do next.
        """
        rule = f"A call is done within {format_seconds(self.allowed_s)} of when it was made"
        return WorkerTimeout(rule, given=f"at the end of that it was waiting for {waited_for}", hint=hint)

    def check(self, waited_for: str) -> None:
        """Go on only while there is time.

        Raises:
            WorkerTimeout: There is none left.
        """
        if time.monotonic() >= self.at_s:
            raise self.passed(waited_for)

    @contextmanager
    def ending(self, end: Callable[[], object], waited_for: str) -> Iterator[None]:
        """Put a deadline on requests that have none of their own: when it passes, a thread calls `end`.

        Args:
            end: Makes the requests fail, such as by ending the lanes that do not answer.
            waited_for: See `passed`.

        Raises:
            WorkerTimeout: The deadline passed, and what was inside failed of it.
            DeviceError: The system gives no thread to wait in.
        """
        if math.isinf(self.at_s):
            yield
            return
        late = threading.Event()

        def act() -> None:
            late.set()
            with contextlib.suppress(EsenError):
                end()

        timer = threading.Timer(self.left_s, act)
        timer.daemon = True
        timer.name = "esen_lab deadline"
        try:
            begin(timer)
            yield
        except WorkerError as problem:
            if late.is_set():
                raise self.passed(waited_for) from problem
            raise
        finally:
            timer.cancel()
            if timer.ident is not None:  # an interrupt may have come before it began
                timer.join(_TIMER_ENDS_S)  # the next look at this process's threads finds none of ours


NEVER = Deadline(math.inf)
"""No limit."""
