"""What a call of a plan on nodes is asked for, and what nodes are asked for in each run of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from esen_lab.cluster.held_nodes import HeldNodes
from esen_lab.cluster.node_messages import NodeSettings
from esen_lab.cluster.tensor_packing import PackedTree
from esen_lab.common.trees import Tree
from esen_lab.ensemble import Ensemble
from esen_lab.planner.plan import Plan
from esen_lab.run import Deadline, RunOptions

MOST_OF_IT = 0.5
"""Of the time to a deadline is kept for the way back and for combining, at most."""
_LEAST_S = 0.002


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CallRequest:
    """What one call of a plan on nodes is asked for.

    Attributes:
        plan: What runs.
        ensemble: Its sub-models, and the combine rule.
        held: The nodes that run it.
        x: The input.
        deadline: Of the whole call.
        options: What is asked for besides the answer of all members, or None.
        due: When the answer is due, or None.
        settings: What the session has set.
        begin_ns: When the call came, on `time.perf_counter_ns`.
    """

    plan: Plan
    ensemble: Ensemble
    held: HeldNodes
    x: Tree
    deadline: Deadline
    options: RunOptions | None
    due: Deadline | None
    settings: NodeSettings
    begin_ns: int = field(default_factory=time.perf_counter_ns)

    @property
    def begin_s(self) -> float:
        """The same, on `time.perf_counter`."""
        return self.begin_ns / 1e9

    @property
    def random(self) -> bool:
        """Whether a member draws random numbers, on a node that is there."""
        return any(node.loaded is not None and node.loaded.random for node in self.held.all if not node.gone)

    @property
    def leaving_out(self) -> bool:
        """Whether members that fail are left out."""
        return self.options is not None and self.options.on_failure == "leave-out"

    @property
    def kept_s(self) -> float:
        """What is kept for combining, in seconds."""
        return max(1.2 * self.held.combine_s, _LEAST_S)

    @property
    def due_s(self) -> float:
        """When combining must begin, on `time.monotonic`; infinite where nothing is due."""
        if self.due is None:
            return math.inf
        return self.due.at_s - min(self.kept_s, self.due.allowed_s * MOST_OF_IT)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesRequest:
    """What nodes are asked for in one run.

    Attributes:
        members: For each node that is asked, who answers from there.
        input: What it is asked about.
        seed: Of random numbers; None where no member draws any.
        method: What is called there: "run", or "prepare".
        stage: See `NodeOrder`, as for the other two.
        ran: Likewise.
        keep: Likewise.
        before: How many members have answered the same rows already, in earlier stages.
        more: Whether a later stage may answer them too.
    """

    members: Mapping[str, Sequence[str]]
    input: PackedTree
    seed: int | None
    method: str = "run"
    stage: int = 0
    ran: int = 0
    keep: bool = False
    before: int = 0
    more: bool = False
