"""The CPU's meter: utilization per core, memory, and what each lane's process takes of both. By psutil."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import psutil

from esen_lab.devices.cpu.affinity import online_cpus
from esen_lab.devices.telemetry import Channel, Value

Lanes = Callable[[], Sequence[tuple[str, int]]]  # (label, process id) of each warm lane
_LEAST_S = 0.1  # below, the system's clock ticks are too coarse
_MOST_CORES = 32  # beyond, one line per core says nothing


class CpuMeter:
    """Reads the machine, and the processes that `lanes` names.

    Args:
        lanes: The lanes that are warm now; asked at each reading.
        cores: Logical CPUs to show; None for all.
    """

    def __init__(self, lanes: Lanes | None = None, cores: Sequence[int] | None = None) -> None:
        self._lanes = lanes or (lambda: ())
        numbers = self._numbers(psutil.cpu_count() or 1)
        self._cores = [core for core in (cores if cores is not None else numbers) if core in numbers]
        self._each = len(self._cores) <= _MOST_CORES
        self._processes: dict[int, psutil.Process] = {}
        self._labels: dict[int, str] = {}
        self._looked_s = 0.0
        self._looked_in = 0  # the thread: psutil keeps what it saw last for each thread

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
        now = time.monotonic()
        here = threading.get_ident()
        if here != self._looked_in:
            psutil.cpu_percent(
                percpu=True
            )  # a percentage is over the time since the look before: this is the first one
            self._looked_s, self._looked_in = now, here
        if now - self._looked_s < _LEAST_S:
            keys = [*(f"cpu{core}" for core in self._cores if self._each), "cpu"]
            return dict.fromkeys(keys, "a percentage needs a moment between two looks")
        self._looked_s = now
        percents = psutil.cpu_percent(percpu=True)
        each = dict(zip(self._numbers(len(percents)), percents, strict=True))
        shown = {core: each[core] for core in self._cores if core in each}
        found: dict[str, Value] = {f"cpu{core}": value for core, value in shown.items()} if self._each else {}
        found["cpu"] = sum(shown.values()) / len(shown) if shown else "no CPU can be read"
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
        for pid in self._labels:
            try:
                fresh = pid not in self._processes
                process = self._processes.setdefault(pid, psutil.Process(pid))
                with process.oneshot():
                    percent = process.cpu_percent()
                    found[f"rss{pid}"] = float(process.memory_info().rss)
                found[f"lane{pid}"] = "just seen for the first time" if fresh else percent
            except psutil.Error as problem:
                self._processes.pop(pid, None)
                found[f"lane{pid}"] = found[f"rss{pid}"] = f"{type(problem).__name__}: {problem.msg or 'it is gone'}"
        return found

    def close(self) -> None:
        """Forget the processes."""
        self._processes.clear()
