"""What a device is doing right now, read a few times a second: channels, samples, one sampler per device.

A reading is a number or the reason why there is none, never a zero in its place.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from esen_lab.common.locks import Lock
from esen_lab.common.resources import begin
from esen_lab.common.units import format_seconds
from esen_lab.errors import UsageError

DEFAULT_INTERVAL_S = 0.5
DEFAULT_HISTORY_S = 1800.0
MOST_SAMPLES = 2_000_000
"""That are kept: a day at the highest rate, and somewhat more."""
_MOST_MARKS = 500

Value = float | str  # a number, or why there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One quantity over time.

    Attributes:
        key: Unique within a meter ("cpu0", "memory").
        label: For people, named for what it is ("SM activity", "GPU-Util (any kernel ran)").
        unit: "%" or "B" or "W"; of a server's channels "/s", "waiting" or "rows".
        group: Channels of one group share a plot: "utilization", "nodes", "lanes", "memory", "bandwidth", "power"; of
            a server "requests", "queue", "batches".
    """

    key: str
    label: str
    unit: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """All readings of one moment.

    Attributes:
        number: Counts up by one from 1; a gap means that samples were lost on the way.
        at_s: When, in seconds since the epoch.
        values: For each channel that could be read, its value.
        reasons: For each that could not, why.
    """

    number: int
    at_s: float
    values: Mapping[str, float]
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something of ours that began or ended: what the readings are to be seen against."""

    at_s: float
    what: str
    phase: str  # "begin", "end", or "" for a moment


class Meter(Protocol):
    """Reads channels. Used by one thread at a time; may gain and lose channels while it is used."""

    @property
    def channels(self) -> Sequence[Channel]:
        """What it reads at present."""

    def read(self) -> Mapping[str, Value]:
        """One reading per channel."""

    def close(self) -> None:
        """Let go of what it holds."""


class MarkLog:
    """The latest marks. Safe for several threads."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._marks: deque[Mark] = deque(maxlen=_MOST_MARKS)
        self._count = 0
        self._last: dict[str, float] = {}
        self._lock = Lock()

    def add(self, what: str, phase: str = "", *, pause_s: float = 0.0) -> None:
        """Record that `what` begins, ends or happens now.

        Args:
            what: In a word.
            phase: "begin", "end", or "" for a moment.
            pause_s: It counts only after so many seconds without one: a loop of runs has one mark, at its begin.
        """
        now = self._clock()
        last, self._last[what] = self._last.get(what), now
        if pause_s and last is not None and now - last < pause_s:
            return
        with self._lock:
            self._marks.append(Mark(at_s=now, what=what, phase=phase))
            self._count += 1

    @contextlib.contextmanager
    def around(self, what: str) -> Iterator[None]:
        """Record the begin and the end of a block, however it ends."""
        self.add(what, "begin")
        try:
            yield
        finally:
            self.add(what, "end")

    def since(self, count: int) -> tuple[int, tuple[Mark, ...]]:
        """How many there have been so far, and those after the first `count` as far as they are kept."""
        with self._lock:
            fresh = min(self._count - count, len(self._marks))
            return self._count, tuple(self._marks)[len(self._marks) - fresh :] if fresh > 0 else ()


class Sampler:
    """Reads one meter at a steady rate while somebody watches, and keeps the latest samples.

    However many views there are, there is one sampler and one thread. The history outlives the thread: who watches
    again sees what was before, with a hole where nobody looked.

    Args:
        meter: What to read.
        interval_s: Seconds between samples, 0.05 to 60.
        history_s: How much is kept, in seconds, a week at most.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        interval_s: float = DEFAULT_INTERVAL_S,
        history_s: float = DEFAULT_HISTORY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not (isinstance(interval_s, (int, float)) and 0.05 <= interval_s <= 60):
            number = isinstance(interval_s, (int, float)) and interval_s > 0
            given = format_seconds(interval_s) if number else repr(interval_s)
            raise UsageError("Samples are 0.05 to 60 seconds apart", given=given)
        if not (isinstance(history_s, (int, float)) and interval_s <= history_s <= interval_s * MOST_SAMPLES):
            longest = f"at most {MOST_SAMPLES:,}, here {interval_s * MOST_SAMPLES:,.0f} s"
            raise UsageError(f"The history is at least one sample long, and {longest}", given=history_s)
        self.meter = meter
        self.interval_s = interval_s
        self.history_s = history_s
        self._clock = clock
        self._samples: deque[Sample] = deque(maxlen=max(2, int(history_s / interval_s)))
        self._number = 0
        self._viewers = 0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._problem = ""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """What is read at present."""
        return tuple(self.meter.channels)

    @property
    def running(self) -> bool:
        """Whether samples are being taken."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    @property
    def problem(self) -> str:
        """Why the last reading failed as a whole, or ""."""
        return self._problem

    def watch(self) -> None:
        """One more viewer: the first one starts the thread.

        Raises:
            DeviceError: The system gives no more threads. There is no viewer more.
        """
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                stop = threading.Event()
                thread = threading.Thread(target=self._run, args=(stop,), name="esen-sampler", daemon=True)
                begin(thread)
                self._stop, self._thread = stop, thread
            self._viewers += 1

    def unwatch(self) -> None:
        """One viewer less: the last one ends the thread."""
        with self._changed:
            self._viewers = max(0, self._viewers - 1)
            thread = self._thread if self._viewers == 0 else None
            if thread is not None:
                self._stop.set()
                self._thread = None
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=self.interval_s + 5)

    def close(self) -> None:
        """End the thread whoever watches, and let go of the meter. May be called again."""
        with self._changed:
            self._viewers = 0
            thread, self._thread = self._thread, None
            self._stop.set()
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=self.interval_s + 5)
        self.meter.close()

    def samples(self, after: int = 0) -> tuple[Sample, ...]:
        """The kept samples with a number above `after`, oldest first."""
        with self._changed:
            # Numbers count up by one. From the end, so that asking for the newest of an hour costs nothing.
            fresh = self._samples[-1].number - after if self._samples else 0
            newest_first = [*itertools.islice(reversed(self._samples), max(0, fresh))]
        return tuple(reversed(newest_first))

    @property
    def last(self) -> Sample | None:
        """The newest sample."""
        with self._changed:
            return self._samples[-1] if self._samples else None

    def wait(self, after: int, timeout_s: float) -> bool:
        """Wait until there is a sample with a number above `after`; whether there is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._number > after, timeout_s)

    def take(self) -> Sample:
        """Take one sample now."""
        try:
            readings = self.meter.read()
            self._problem = ""
        except Exception as problem:  # a reading that fails must not end the watching: it may come back
            self._problem = f"{type(problem).__name__}: {problem}"
            readings = {channel.key: self._problem for channel in self.meter.channels}
        with self._changed:
            self._number += 1
            sample = Sample(
                number=self._number,
                at_s=self._clock(),
                values={key: float(value) for key, value in readings.items() if not isinstance(value, str)},
                reasons={key: value for key, value in readings.items() if isinstance(value, str)},
            )
            self._samples.append(sample)
            self._changed.notify_all()
        return sample

    def _run(self, stop: threading.Event) -> None:
        # Steady: a slow reading does not shift all later ones.
        due = time.monotonic()
        while not stop.is_set():
            self.take()
            # One that is missed is left out: two in a row would say the same thing twice.
            due += self.interval_s * max(1, math.ceil((time.monotonic() - due) / self.interval_s))
            stop.wait(due - time.monotonic())


class Joined:
    """Several meters as one. A meter that fails takes only its own channels with it."""

    def __init__(self, *meters: Meter) -> None:
        self._meters = meters

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All of them, in order."""
        return tuple(channel for meter in self._meters for channel in meter.channels)

    def read(self) -> dict[str, Value]:
        """One reading per channel."""
        found: dict[str, Value] = {}
        for meter in self._meters:
            try:
                found.update(meter.read())
            except Exception as problem:
                found.update({channel.key: f"{type(problem).__name__}: {problem}" for channel in meter.channels})
        return found

    def close(self) -> None:
        """Close each."""
        for meter in self._meters:
            meter.close()
