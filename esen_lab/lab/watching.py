"""How a lab watches its device: one sampler for all who look, a reading now and then for those who only glance."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from esen_lab.devices import Sampler, open_meter
from esen_lab.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esen_lab.devices import Device

_GLANCE_S = 0.5


class Watching:
    """The samplers of one lab; safe to use from several threads.

    Args:
        device: Asked for the device whenever a sampler begins.
        workers: Asked at each sample for the (name, process id) of every worker.
    """

    def __init__(self, device: Callable[[], Device], workers: Callable[[], Sequence[tuple[str, int]]]) -> None:
        self._device = device
        self._workers = workers
        self._lock = threading.Lock()
        self._sampler: Sampler | None = None
        self._glances: Sampler | None = None

    def begin(self, interval_s: float, history_s: float) -> Sampler:
        """One more viewer; see `Lab.watch`."""
        with self._lock:
            sampler = self._sampler
            if sampler is not None and (sampler.interval_s, sampler.history_s) != (interval_s, history_s):
                if sampler.running:
                    raise UsageError(
                        f"A device is watched at one rate: every {sampler.interval_s:g} s at present",
                        given=f"{interval_s:g} s",
                        hint="End the other views first: %esen watch --stop, or lab.unwatch().",
                    )
                sampler.close()
                sampler = None
            if sampler is None:
                meter = open_meter(self._device(), self._workers)
                sampler = self._sampler = Sampler(meter, interval_s=interval_s, history_s=history_s)
        sampler.watch()
        return sampler

    @property
    def rate(self) -> tuple[float, float] | None:
        """The interval and the history, in seconds, at which the device is watched; None when nobody does."""
        sampler = self._sampler
        return None if sampler is None or not sampler.running else (sampler.interval_s, sampler.history_s)

    def end(self) -> None:
        """One viewer less."""
        sampler = self._sampler
        if sampler is not None:
            sampler.unwatch()

    def glance(self) -> dict[str, float]:
        """What the device is doing now, by channel; see `Lab.glance`."""
        sampler = self._sampler
        if sampler is None or not sampler.running:
            with self._lock:
                if self._glances is None:
                    try:
                        meter = open_meter(self._device(), self._workers)
                    except DeviceError:
                        return {}
                    self._glances = Sampler(meter, history_s=1.0)
                sampler = self._glances
            last = sampler.last
            if last is None or not 0 <= time.time() - last.at_s < _GLANCE_S:
                sampler.take()
        last = sampler.last
        return {} if last is None else dict(last.values)

    def close(self) -> None:
        """End all sampling and forget what was read; it may begin again."""
        with self._lock:
            samplers = [self._sampler, self._glances]
            self._sampler = self._glances = None
        for sampler in samplers:
            if sampler is not None:
                sampler.close()
