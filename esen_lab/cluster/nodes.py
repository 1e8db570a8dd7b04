"""The nodes of a cluster, and the one face through which they are reached: Ray's, or that of a double in tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from esen_lab.cluster.node_messages import NodeCores
from esen_lab.common.display import Shown
from esen_lab.common.records import to_dict
from esen_lab.common.units import format_bytes, format_table

NodeState: TypeAlias = Literal["idle", "loading", "ready", "restarting", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNode:
    """One node.

    Attributes:
        name: What plans call it.
        id: What the cluster calls it.
        host: The machine that it is on.
        units: How many cores it may use; of a node with GPUs, its GPUs' units are told by a profile there.
        gpus: How many GPUs it has.
        device: The name of what lanes share there.
        memory_bytes: How much memory the cluster counts on.
        cores: Which cores of its machine it uses.
        alive: Whether the cluster sees it.
        kind: What nodes that are alike have in common: their units, GPUs and processor.
        state: What it is doing for this lab.
        members: Who runs on it.
        notes: What limits or disturbs lanes there.
    """

    name: str
    id: str
    host: str
    units: int
    gpus: int = 0
    device: str = "cpu"
    memory_bytes: int = 0
    cores: NodeCores = field(default_factory=NodeCores)
    alive: bool = True
    kind: str = ""
    state: NodeState = "idle"
    members: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus(Shown):
    """The nodes of a cluster at one moment.

    Attributes:
        address: Where the cluster is reached.
        dashboard: The URL of Ray's dashboard, or "".
        nodes: In the order of their names.
        notes: What else there is to say.
    """

    address: str
    nodes: tuple[ClusterNode, ...]
    dashboard: str = ""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return to_dict(self)

    def __str__(self) -> str:
        """A table of the nodes, for a terminal."""
        rows = [
            (
                node.name,
                str(node.units),
                str(node.gpus),
                format_bytes(node.memory_bytes),
                node.state,
                ", ".join(node.members) or "-",
            )
            for node in self.nodes
        ]
        table = format_table(("node", "cores", "GPUs", "memory", "state", "sub-models"), rows)
        told = [f"Ray at {self.address}", *([f"dashboard: {self.dashboard}"] if self.dashboard else [])]
        own = [f"{node.name}: {note}" for node in self.nodes for note in node.notes]
        return "\n".join([table, ", ".join(told), *self.notes, *own])


class NodeLost(Exception):  # noqa: N818  what happened, in the words of a cluster
    """What ran on a node is gone, and with it the answer that was waited for. Caught within this room.

    Attributes:
        for_good: Whether the node itself is gone; else its process starts again there.
    """

    def __init__(self, told: str, *, for_good: bool = False) -> None:
        super().__init__(told)
        self.for_good = for_good


class WorkerLink(Protocol):
    """The way to what runs on one node: a `NodeWorker`."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Ask for something; returns at once with what `NodeReach.wait` takes. Calls are done in their order."""

    def restart(self) -> None:
        """End what runs there, whatever it is doing; it starts again by itself."""

    def close(self) -> None:
        """End what runs there, for good."""


class NodeReach(Protocol):
    """The way to all nodes of one cluster."""

    def nodes(self) -> tuple[ClusterNode, ...]:
        """All nodes, in the order of their names; those that are gone since are not alive."""

    def put(self, value: Any) -> Any:
        """Have a value where every node can take it from, once; what is returned may stand for it in calls."""

    def start(self, node: ClusterNode, bundle: Any, lane_units: int, *, restarts: int) -> WorkerLink:
        """Start a `NodeWorker` on a node; returns at once.

        Args:
            node: Where.
            bundle: What it loads: a `NodeBundle`, or what `put` returned for one; None: nothing yet.
            lane_units: How many of the node's units are kept free for it.
            restarts: How often it is started again after it died.
        """

    def watch(self, node: ClusterNode) -> WorkerLink:
        """Start a `NodeWatch` on a node, beside what runs there and without a share of its own; returns at once."""

    def wait(self, calls: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Those of the calls that are done, as soon as one is, or none after so many seconds."""

    def result(self, call: Any) -> Any:
        """What a call that is done came to.

        Raises:
            NodeLost: Nothing, since what ran it is gone.
        """

    @property
    def address(self) -> str:
        """Where the cluster is reached."""

    @property
    def dashboard(self) -> str:
        """The URL of its dashboard, or ""."""

    def close(self) -> None:
        """Leave the cluster."""


def sizes(nodes: Sequence[ClusterNode]) -> dict[str, int]:
    """The units of each node that is alive; 0 where the cluster does not know them, since lanes share a GPU there."""
    return {node.name: node.units if node.device.startswith("cpu") else 0 for node in nodes if node.alive}


def deal_cores(counts: Mapping[str, Sequence[tuple[str, int]]], allowed: Mapping[str, int]) -> dict[str, NodeCores]:
    """Different cores for nodes that are on one machine, as long as there are enough.

    Args:
        counts: For each machine its nodes, each with how many cores the cluster says it has.
        allowed: For each machine how many logical CPUs it has, where that is known.

    Returns:
        For each node its cores: all of them for a node that is alone and was not given fewer than there are.
    """
    dealt: dict[str, NodeCores] = {}
    for host, nodes in counts.items():
        first = 0
        for name, count in nodes:
            alone = len(nodes) == 1 and count >= allowed.get(host, count)
            dealt[name] = NodeCores() if alone else NodeCores(first=first, count=count)
            first += count
    return dealt
