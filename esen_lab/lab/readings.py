"""`lab.readings`: what the device is doing. One sampler for all who watch, a reading now and then for who glances."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from esen_lab.cluster.node_readings import NodesMeter
from esen_lab.common.locks import Lock
from esen_lab.common.surroundings import step
from esen_lab.devices import Device, MarkLog, Sampler, open_meter
from esen_lab.devices.telemetry import Joined, Meter
from esen_lab.errors import DeviceError, UsageError
from esen_lab.serving.channels import RequestMeter

if TYPE_CHECKING:
    from esen_lab.cluster import NodeReadings
    from esen_lab.serving.server import Server

_GLANCE_S = 0.5


class Readings:
    """The readings of one lab's device; safe to use from several threads.

    Args:
        device: Asked for the device whenever a sampler begins.
        workers: Asked at each sample for the (name, process id) of every worker.
        marks: What began, ended or happened in the lab, to be shown beside readings.
        server: Asked at each sample for the lab's server, or None.
        nodes: Asked at each sample for the readings of a plan that runs on nodes, or None.
    """

    def __init__(
        self,
        device: Callable[[], Device],
        workers: Callable[[], Sequence[tuple[str, int]]],
        marks: MarkLog,
        server: Callable[[], Server | None] = lambda: None,
        nodes: Callable[[], NodeReadings | None] = lambda: None,
    ) -> None:
        self._device = device
        self._workers = workers
        self._server = server
        self._nodes = NodesMeter(nodes)
        self.marks = marks
        self._lock = Lock()
        self._sampler: Sampler | None = None
        self._glances: Sampler | None = None

    def watch(self, interval_s: float = 0.5, history_s: float = 1800.0) -> Sampler:
        """Read the device in the background: utilization, memory, what each worker takes, what a server answers.

        One more viewer of this lab's sampler, which the first one starts. `unwatch` is its end.

        Args:
            interval_s: Seconds between samples, 0.05 to 60. Another interval than before begins a new history.
            history_s: How much is kept, in seconds.

        Returns:
            The sampler: `last`, `samples()`, `channels`. What began and ended meanwhile is in `marks`.

        Raises:
            UsageError: An argument is out of range, or others watch at another rate.
            DeviceError: Nothing can be read here.
        """
        with self._lock:
            sampler = self._sampler
            if sampler is not None and (sampler.interval_s, sampler.history_s) != (interval_s, history_s):
                if sampler.running:
                    raise UsageError(
                        "A device is watched at one rate and with one history: at present "
                        f"every {sampler.interval_s:g} s, {sampler.history_s:g} s",
                        given=f"every {interval_s:g} s, {history_s:g} s",
                        hint="Ask for the same, or end the other views first: "
                        f"{step('lab.readings.unwatch()', '`%esen watch --stop`')}, a monitor's tab by closing it.",
                    )
                sampler.close()
                sampler = None
            if sampler is None:
                meter = Joined(self._meter(), self._nodes)  # for a glance, nothing is started on nodes
                sampler = self._sampler = Sampler(meter, interval_s=interval_s, history_s=history_s)
        sampler.watch()
        return sampler

    def _meter(self) -> Meter:
        return Joined(open_meter(self._device(), self._workers), RequestMeter(self._server))

    def unwatch(self, sampler: Sampler | None = None) -> None:
        """One viewer less; the last one ends the sampling. The history stays until `Lab.close`.

        Args:
            sampler: What `watch` gave to the viewer: one whose sampler has ended meanwhile (the lab was closed, or has
                another device) is none of those who watch now. None: one of those.
        """
        present = self._sampler
        sampler = present if sampler is None else sampler
        if sampler is not None:
            sampler.unwatch()
            if sampler is present and not sampler.running:
                self._nodes.close()

    @property
    def watched(self) -> tuple[float, float] | None:
        """The interval and the history, in seconds, at which the device is watched; None when nobody does."""
        sampler = self._sampler
        return None if sampler is None or not sampler.running else (sampler.interval_s, sampler.history_s)

    def glance(self) -> dict[str, float]:
        """What the device is doing now, by channel: from those who watch, else a reading of its own.

        Cheap enough for a few calls a second; readings of its own are at least half a second apart. A percentage is
        over the time since the reading before, so the first call may have none. Empty where nothing can be read.
        """
        sampler = self._sampler
        if sampler is None or not sampler.running:
            with self._lock:
                if self._glances is None:
                    try:
                        meter = self._meter()
                    except DeviceError:
                        return {}
                    self._glances = Sampler(meter, history_s=1.0)
                sampler = self._glances
            last = sampler.last
            if last is None or not 0 <= time.time() - last.at_s < _GLANCE_S:
                sampler.take()
        last = sampler.last
        return {} if last is None else dict(last.values)

    def free_bytes(self) -> int | None:
        """The device's free memory, or None where it cannot be told."""
        device = self._device()
        free = device.free_bytes()
        if free is not None:
            return free
        total = device.identity.details.get("memory_bytes", "")
        used = [value for key, value in self.glance().items() if re.fullmatch(r"gpu\d+memory", key)]
        return int(total) - int(used[0]) if total and len(used) == 1 else None

    def close(self) -> None:
        """End all sampling and forget what was read; it may begin again."""
        with self._lock:
            samplers = [self._sampler, self._glances]
            self._sampler = self._glances = None
        for sampler in samplers:
            if sampler is not None:
                sampler.close()
