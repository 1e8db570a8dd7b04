"""The CPU's meter: utilization per core, memory, and what each lane's process takes of both. By psutil.

The system counts busy time in ticks of 10 ms. A percentage over less than ten of them is mostly rounding, so each is
over the latest 0.1 s or a little more, however quickly looks follow each other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

from esen_lab.devices.cpu.affinity import online_cpus
from esen_lab.devices.telemetry import Channel, Value

Lanes = Callable[[], Sequence[tuple[str, int]]]  # (label, process id) of each warm lane
_LEAST_S = 0.1  # of what a percentage is over
_SLACK_S = 0.001  # clocks and sleeps are not exact: looks that are meant to be 0.1 s apart are that far apart
_SOON = "a percentage needs a moment between two looks"
_MOST_CORES = 32  # beyond, one line per core says nothing


class _Looks:
    """Counters that only grow, as they were at the latest looks."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Any]] = deque()

    def before(self, now_s: float, counters: Any) -> tuple[float, Any] | None:
        """The newest look that is long enough ago, (seconds, counters), or None; `counters` are a look of their own."""
        looks = self._looks
        while len(looks) > 1 and now_s - looks[1][0] >= _LEAST_S - _SLACK_S:
            looks.popleft()
        found = looks[0] if looks and now_s - looks[0][0] >= _LEAST_S - _SLACK_S else None
        looks.append((now_s, counters))
        return found


class CpuMeter:
    """Reads the machine, and the processes that `lanes` names.

    Args:
        lanes: The lanes that are warm now; asked at each reading.
        cores: Logical CPUs to show; None for all.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        lanes: Lanes | None = None,
        cores: Sequence[int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lanes = lanes or (lambda: ())
        numbers = self._numbers(psutil.cpu_count() or 1)
        self._cores = [core for core in (cores if cores is not None else numbers) if core in numbers]
        self._each = len(self._cores) <= _MOST_CORES
        self._processes: dict[int, psutil.Process] = {}
        self._labels: dict[int, str] = {}
        self._clock = clock
        self._looks = _Looks()
        self._looks_at: dict[int, _Looks] = {}  # by process

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Cores, memory, and two per lane."""
        cores = [
            Channel(key=f"cpu{core}", label=f"CPU {core}", unit="%", group="utilization")
            for core in (self._cores if self._each else ())
        ]
        mean = Channel(key="cpu", label="CPU, mean of all", unit="%", group="utilization")
        memory = Channel(key="memory", label="memory in use", unit="B", group="memory")
        lanes = []
        for pid, label in self._labels.items():
            lanes.append(Channel(key=f"lane{pid}", label=f"{label}, CPU", unit="%", group="lanes"))
            lanes.append(Channel(key=f"rss{pid}", label=f"{label}, resident", unit="B", group="memory"))
        return (*cores, mean, memory, *lanes)

    def read(self) -> Mapping[str, Value]:
        """Percentages since the last reading (100 % is one core for a lane), and bytes now."""
        found = self._read_cores()
        memory = psutil.virtual_memory()
        found["memory"] = float(memory.total - memory.available)
        found.update(self._read_lanes())
        return found

    def _read_cores(self) -> dict[str, Value]:
        times = [_busy_of(each) for each in psutil.cpu_times(percpu=True)]
        before = self._looks.before(self._clock(), times)
        if before is None or len(before[1]) != len(times):  # a CPU was switched on or off meanwhile
            keys = [*(f"cpu{core}" for core in self._cores if self._each), "cpu"]
            return dict.fromkeys(keys, _SOON)
        percents = [_percent(then, now) for then, now in zip(before[1], times, strict=True)]
        each = dict(zip(self._numbers(len(percents)), percents, strict=True))
        shown = {core: each[core] for core in self._cores if core in each}
        read = [value for value in shown.values() if not isinstance(value, str)]
        found: dict[str, Value] = {f"cpu{core}": value for core, value in shown.items()} if self._each else {}
        found["cpu"] = sum(read) / len(read) if read else _SOON if shown else "no CPU can be read"
        return found

    @staticmethod
    def _numbers(count: int) -> Sequence[int]:
        """The numbers of `count` CPUs: psutil lists those that are switched on, without their numbers."""
        online = online_cpus()
        return online if len(online) == count else range(count)

    def _read_lanes(self) -> dict[str, Value]:
        found: dict[str, Value] = {}
        self._labels = {pid: label for label, pid in self._lanes()}
        for gone in set(self._processes) - set(self._labels):
            del self._processes[gone]
            self._looks_at.pop(gone, None)
        for pid in self._labels:
            try:
                process = self._processes.get(pid) or self._processes.setdefault(pid, psutil.Process(pid))
                with process.oneshot():
                    took = process.cpu_times()
                    found[f"rss{pid}"] = float(process.memory_info().rss)
                now_s, busy_s = self._clock(), took.user + took.system
                looks = self._looks_at.setdefault(pid, _Looks())
                before = looks.before(now_s, busy_s)
                if before is None:
                    found[f"lane{pid}"] = "just seen for the first time"
                else:
                    found[f"lane{pid}"] = max(0.0, 100 * (busy_s - before[1]) / (now_s - before[0]))
            except psutil.Error as problem:
                self._processes.pop(pid, None)
                self._looks_at.pop(pid, None)
                found[f"lane{pid}"] = found[f"rss{pid}"] = f"{type(problem).__name__}: {problem.msg or 'it is gone'}"
        return found

    def close(self) -> None:
        """Forget the processes."""
        self._processes.clear()
        self._looks_at.clear()


def _busy_of(times: Any) -> tuple[float, float]:
    """Seconds that a CPU was busy, and all seconds, since the machine was started."""
    told = times._asdict()
    # Linux counts the time of guests as the time of users too.
    whole = sum(told.values()) - told.get("guest", 0.0) - told.get("guest_nice", 0.0)
    return whole - told["idle"] - told.get("iowait", 0.0), whole


def _percent(then: tuple[float, float], now: tuple[float, float]) -> Value:
    (busy_then, whole_then), (busy_now, whole_now) = then, now
    if whole_now <= whole_then:
        return _SOON
    return min(100.0, max(0.0, 100 * (busy_now - busy_then) / (whole_now - whole_then)))
