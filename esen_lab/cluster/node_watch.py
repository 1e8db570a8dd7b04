"""What lives on a node while somebody watches: reads what its cores, GPUs and lanes are doing.

Apart from the `NodeWorker`, which answers nothing else while it runs, and never takes time from it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from esen_lab.cluster.node_messages import NodeCores
from esen_lab.devices.meters import meter_of
from esen_lab.devices.telemetry import Channel, Meter, Value
from esen_lab.errors import EsenError


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReading:
    """What a node was doing.

    Attributes:
        channels: What was read, as of one machine.
        values: For each channel a number, or why there is none.
        problem: Why nothing can be read there, or "".
    """

    channels: tuple[Channel, ...] = ()
    values: dict[str, Value] = field(default_factory=dict)
    problem: str = ""


class NodeWatch:
    """The meters of one node.

    Args:
        cores: Which cores it uses.
    """

    def __init__(self, cores: NodeCores | None = None) -> None:
        self._cores = cores or NodeCores()
        self._workers: tuple[tuple[str, int], ...] = ()
        self._meter: Meter | None = None

    def read(self, workers: Sequence[tuple[str, int]]) -> NodeReading:
        """One reading; a percentage is over the time since the one before.

        Args:
            workers: The (label, process id) of each lane there.
        """
        self._workers = tuple(workers)
        try:
            if self._meter is None:
                allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
                self._meter = meter_of(self._cores.among(allowed), lambda: self._workers)
            values = dict(self._meter.read())
        except EsenError as problem:
            return NodeReading(problem=str(problem))
        return NodeReading(channels=tuple(self._meter.channels), values=values)

    def close(self) -> None:
        """Let go of the meters. May be called again."""
        if self._meter is not None:
            self._meter.close()
            self._meter = None
