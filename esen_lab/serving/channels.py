"""What a server is doing, as channels beside those of its device: requests a second, the queue, the size of batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from esen_lab.devices.telemetry import Channel, Value
from esen_lab.serving.status import ENDED

if TYPE_CHECKING:
    from esen_lab.serving.server import Server

_CHANNELS = (
    Channel(key="requests", label="requests answered", unit="/s", group="requests"),
    Channel(key="refused", label="refused or failed", unit="/s", group="requests"),
    Channel(key="waiting", label="requests that wait", unit="waiting", group="queue"),
    Channel(key="batch_rows", label="rows of a batch, mean", unit="rows", group="batches"),
    Channel(key="batches", label="batches", unit="/s", group="batches_run"),
)
_FIRST = "counted from the next reading on"
_NO_SERVER = "nothing is served"
_NO_BATCH = "no batch ended since the reading before"


class RequestMeter:
    """Reads a lab's server, whichever it has at the moment. A `Meter`: without channels until there is one.

    Args:
        server: Asked at each reading: the server, or None.
        clock: Seconds that only grow.
    """

    def __init__(self, server: Callable[[], Server | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._clock = clock
        self._seen = False
        self._before: tuple[Server, float, tuple[int, int, int, int]] | None = None

    @property
    def channels(self) -> Sequence[Channel]:
        """All of them once a server was seen; they stay, so that what was read can be looked at after its end."""
        return _CHANNELS if self._seen else ()

    def read(self) -> Mapping[str, Value]:
        """Rates and means since the reading before; the queue as it is now."""
        server = self._server()
        if server is None or server.state == ENDED:
            self._before = None
            return {channel.key: _NO_SERVER for channel in self.channels}
        self._seen = True
        totals, now_s = server.totals, self._clock()
        counts = (totals.answered, totals.failed, totals.batches, totals.rows)
        before, self._before = self._before, (server, now_s, counts)
        found: dict[str, Value] = {"waiting": float(server.waiting)}
        if before is None or before[0] is not server or now_s <= before[1]:
            return {channel.key: _FIRST for channel in _CHANNELS} | found
        answered, failed, batches, rows = (now - then for now, then in zip(counts, before[2], strict=True))
        passed_s = now_s - before[1]
        found |= {"requests": answered / passed_s, "refused": failed / passed_s, "batches": batches / passed_s}
        found["batch_rows"] = rows / batches if batches else _NO_BATCH
        return found

    def close(self) -> None:
        """Forget the server."""
        self._before = None
