"""The nodes that run one plan: what each has loaded, which starts again, which are gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from esen_lab.cluster.node_messages import NodeBundle, NodeLoaded
from esen_lab.cluster.nodes import ClusterNode, NodeLost, NodeReach, NodeState, WorkerLink
from esen_lab.cluster.parts import NodePart
from esen_lab.errors import DeviceError, EsenError, WorkerDied
from esen_lab.run import Deadline

SLICE_S = 0.25  # of a wait: an interrupt may come, and a node may be gone without a word


@dataclass(slots=True, kw_only=True, eq=False)
class HeldNode:
    """One node of the plan, and what is known of it."""

    part: NodePart
    node: ClusterNode
    link: WorkerLink
    bundle: NodeBundle
    value: Any  # the bundle, or what stands for it
    begun_with: Any  # the first one: kept as long as what starts again may ask for it
    loading: Any = None  # the call that loads it, until it is done
    loaded: NodeLoaded | None = None
    gone: str = ""
    output_bytes: int = 0  # of its members together, in the last call
    network_s: float = 0.0  # what calls took of late besides the node's own work, nearer the longest

    @property
    def name(self) -> str:
        """What plans call it."""
        return self.part.node

    @property
    def who(self) -> str:
        """For people: the node and its members."""
        return f"node {self.name} ({', '.join(self.part.members)})"

    @property
    def state(self) -> NodeState:
        """What it is doing."""
        if self.gone:
            return "gone"
        if self.loading is None:
            return "ready"
        return "loading" if self.loaded is None else "restarting"


class HeldNodes:
    """All nodes of one plan.

    Attributes:
        reach: See above.
        all: Those that were started, in the order of the plan's parts.
        combine_s: How long combining the answers took lately.
    """

    def __init__(self, reach: NodeReach) -> None:
        self.reach = reach
        self.all: tuple[HeldNode, ...] = ()
        self.combine_s = 0.0

    def wait_until_loaded(self, deadline: Deadline, tell: Callable[[int, int, str], object]) -> None:
        """Wait until all have loaded what they run; `tell` is called with (nodes that are ready, all, which one).

        Raises:
            WorkerTimeout: The deadline passed.
            EsenError: A node is gone, or could not load its part.
        """
        waiting = list(self.all)
        tell(0, len(self.all), "")
        while waiting:
            for node in self._done(waiting, deadline.left_s):
                self.take_loaded(node)
                waiting.remove(node)
                tell(len(self.all) - len(waiting), len(self.all), node.name)
            if waiting and deadline.left_s <= 0:
                raise deadline.passed(f"{', '.join(node.who for node in waiting)} to load")

    def _done(self, nodes: Sequence[HeldNode], timeout_s: float) -> list[HeldNode]:
        """Those that have done what they load, or are gone."""
        done = self.reach.wait([node.loading for node in nodes], min(SLICE_S, timeout_s))
        if not done:
            self.look_who_is_gone(nodes)
        return [node for node in nodes if node.loading in done or node.gone]

    def look_who_is_gone(self, nodes: Sequence[HeldNode]) -> None:
        """Notice nodes that have gone without a word: what was asked of them never comes."""
        alive = {node.id for node in self.reach.nodes() if node.alive}
        for node in nodes:
            if node.node.id not in alive and not node.gone:
                node.gone = "the cluster does not see it any more"

    def take_loaded(self, node: HeldNode) -> None:
        """What a node has loaded.

        Raises:
            EsenError: It is gone, or could not load it.
        """
        if node.gone:
            raise self.lost(node, node.gone)
        try:
            found = self.reach.result(node.loading)
        except NodeLost as problem:
            self.note_loss(node, problem)
            raise self.lost(node, str(problem)) from problem
        node.loading = None
        if isinstance(found, EsenError):
            raise told_by(node, found)
        node.loaded = found

    def note_loss(self, node: HeldNode, problem: NodeLost) -> None:
        """What ran on a node has ended: it starts again, or the node is gone."""
        if problem.for_good:
            node.gone = str(problem)
        else:
            node.loading = node.link.call("what_is_loaded")  # answers once it has started again

    def lost(self, node: HeldNode, told: str) -> DeviceError:
        """The error of a call that what ran on a node does not answer."""
        hint = (
            f"Plan again for the nodes that are left: lab.cluster.replan_without({node.name!r})."
            if node.gone
            else "It starts again by itself, and the next call waits for it."
        )
        return DeviceError(f"What runs on {node.who} is there", given=told, hint=hint)


def told_by(node: HeldNode, problem: EsenError) -> EsenError:
    """An error from a node, which says so; what a lane's death is on one machine is the node's here."""
    if isinstance(problem, WorkerDied):
        made: EsenError = DeviceError(
            f"The lanes of {node.who} answer",
            given=str(problem),
            hint="They are started anew by the next call.",
        )
        made.__cause__ = problem
        return made
    problem.add_note(f"On {node.who}.")
    return problem
