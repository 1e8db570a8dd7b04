"""What all nodes of a plan are doing, as channels beside those of this machine. Never waits for a node."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esen_lab.cluster.held_nodes import HeldNode, HeldNodes
from esen_lab.cluster.node_watch import NodeReading
from esen_lab.cluster.nodes import NodeLost, WorkerLink
from esen_lab.common.locks import Lock
from esen_lab.devices.telemetry import Channel, Value

GROUP = "nodes"
_MOST_NODES = 12  # of more, lanes would be a hundred lines in one plot
_LATE_S = 5.0  # a reading that is older says nothing of now
_AGAIN_S = 10.0  # between two starts of what reads a node
_FIRST = "it is asked for the first time"
_GPU = re.compile(r"gpu\d+(sm|util)")


@dataclass(slots=True, eq=False)
class _Watched:
    """One node that is read."""

    held: HeldNode
    link: WorkerLink | None = None
    begun_s: float = 0.0
    call: Any = None
    reading: NodeReading | None = None
    read_s: float = 0.0
    problem: str = ""


class NodeReadings:
    """Reads the nodes of one plan. Safe for several threads; starts something on a node with the first reading.

    Args:
        nodes: The nodes that are held.
        clock: Seconds that only grow.
    """

    def __init__(self, nodes: HeldNodes, clock: Callable[[], float] = time.monotonic) -> None:
        self._nodes = nodes
        self._clock = clock
        self._lock = Lock()
        self._watched: dict[str, _Watched] = {}
        self._over = False

    def read(self) -> tuple[tuple[Channel, ...], dict[str, Value]]:
        """What each node told last, and is asked now for the next time: channels, and a value for each."""
        with self._lock:
            if self._over:
                return (), {}
            lanes = len(self._nodes.all) <= _MOST_NODES
            channels: list[Channel] = []
            values: dict[str, Value] = {}
            for held in self._nodes.all:
                watched = self._watched.setdefault(held.name, _Watched(held))
                self._ask(watched)
                own, told = _of_node(held.name, watched.reading, lanes=lanes)
                late = self._late(watched)
                channels += own
                values.update(dict.fromkeys(told, late) if late else told)
            return tuple(channels), values

    def _ask(self, watched: _Watched) -> None:
        """Take what has come, and ask again."""
        held, reach, now_s = watched.held, self._nodes.reach, self._clock()
        if held.gone:
            self._end(watched)
            return
        if watched.link is None:
            if watched.begun_s and now_s - watched.begun_s < _AGAIN_S:
                return
            watched.link, watched.begun_s, watched.call = reach.watch(held.node), now_s, None
        if watched.call is not None:
            if not reach.wait([watched.call], 0.0):
                return
            try:
                watched.reading, watched.read_s = reach.result(watched.call), now_s
                watched.problem = watched.reading.problem
            except NodeLost as problem:
                watched.problem = str(problem)
                self._end(watched)
                return
        watched.call = watched.link.call("read", _lanes_of(held))

    def _late(self, watched: _Watched) -> str:
        """Why there is no reading of now, or ""."""
        held = watched.held
        if held.gone or watched.problem:
            return held.gone or watched.problem
        if watched.reading is None:
            return _FIRST
        age_s = self._clock() - watched.read_s
        return f"node {held.name} has told nothing for {age_s:.0f} s" if age_s > _LATE_S else ""

    def _end(self, watched: _Watched) -> None:
        link, watched.link, watched.call = watched.link, None, None
        if link is not None:
            link.close()

    def rest(self) -> None:
        """End what reads the nodes; the next reading starts it again."""
        with self._lock:
            for watched in self._watched.values():
                self._end(watched)
            self._watched.clear()

    def close(self) -> None:
        """End what reads the nodes, for good. May be called again."""
        with self._lock:
            self._over = True
            self.rest()


class NodesMeter:
    """Reads the nodes of whatever plan runs on nodes. A `Meter`: without channels until there is one.

    Args:
        readings: Asked at each reading: those of the plan that runs on nodes, or None.
    """

    def __init__(self, readings: Callable[[], NodeReadings | None]) -> None:
        self._readings = readings
        self._last: NodeReadings | None = None
        self._channels: tuple[Channel, ...] = ()

    @property
    def channels(self) -> Sequence[Channel]:
        """Of each node how busy it is and its memory, and of each lane."""
        return self._channels

    def read(self) -> Mapping[str, Value]:
        """As the nodes told last."""
        self._last = self._readings()
        if self._last is None:
            return dict.fromkeys((channel.key for channel in self._channels), "no plan runs on nodes")
        channels, values = self._last.read()
        if channels:  # they stay, so that what was read can be looked at after the plan's end
            self._channels = channels
        return values

    def close(self) -> None:
        """End what reads the nodes; another reading starts it again."""
        if self._last is not None:
            self._last.rest()


def key_of(node: str) -> str:
    """The key of the channel that says how busy a node's cores are."""
    return f"{GROUP}:{node}"


def _lanes_of(held: HeldNode) -> list[tuple[str, int]]:
    """The lanes' processes, each once, named by their numbers in the whole plan."""
    if held.loaded is None:
        return []
    named: dict[int, list[int]] = {}
    for number, pid in zip(held.part.lanes, held.loaded.lane_pids, strict=False):
        named.setdefault(pid, []).append(number + 1)
    return [(f"lane {', '.join(map(str, numbers))} on {held.name}", pid) for pid, numbers in named.items()]


def _of_node(name: str, reading: NodeReading | None, *, lanes: bool) -> tuple[list[Channel], dict[str, Value]]:
    """The channels of one node that stand beside those of others, with what was read."""
    busy = Channel(key=key_of(name), label=f"{name}, cores", unit="%", group=GROUP)
    if reading is None:
        return [busy], {busy.key: _FIRST}
    kept = [(busy, "cpu")]
    for channel in reading.channels:
        key = f"{GROUP}:{name}:{channel.key}"
        if channel.group == "utilization" and _GPU.fullmatch(channel.key):
            kept.append((Channel(key=key, label=f"{name}, {channel.label}", unit="%", group=GROUP), channel.key))
        elif channel.key == "memory":
            label = f"{name}, {channel.label}"
            kept.append((Channel(key=key, label=label, unit=channel.unit, group="memory"), channel.key))
        elif channel.group == "lanes" and lanes:
            kept.append((Channel(key=key, label=channel.label, unit=channel.unit, group="lanes"), channel.key))
    missing = reading.problem or "it was not read"
    return [channel for channel, _ in kept], {channel.key: reading.values.get(key, missing) for channel, key in kept}
