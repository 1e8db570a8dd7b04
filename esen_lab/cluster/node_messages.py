"""What goes to a node and what comes back: plain data that pickles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esen_lab.cluster.tensor_packing import PackedTree
from esen_lab.errors import EsenError
from esen_lab.run.answered import Missing
from esen_lab.run.options import RunOptions
from esen_lab.run.report import LaneReport, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCores:
    """Which cores of its machine a node uses: nodes that share one machine are dealt different ones.

    Attributes:
        first: The first one's place among the logical CPUs that a process may use there, from 0.
        count: How many; 0: all of them.
    """

    first: int = 0
    count: int = 0

    def among(self, allowed: list[int]) -> list[int]:
        """These of the CPUs that are allowed; begins again at the first where there are too few."""
        if self.count == 0 or self.count >= len(allowed):
            return allowed
        return sorted(allowed[(self.first + place) % len(allowed)] for place in range(self.count))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBundle:
    """The part of a plan that one node runs, with its sub-models: an exported folder that was never written.

    Attributes:
        key: Tells bundles apart.
        files: Each file's content by name: see `esen_lab.export.bundle_layout`. Its plan has one stage.
        stages: For each stage of the whole plan that has lanes here, their numbers in the bundle's plan; a plan without
            stages is all stage 0. Only one stage is asked at a time.
    """

    key: str
    files: Mapping[str, bytes] = field(repr=False)
    stages: Mapping[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What the session has set that changes what a network computes: see `esen_lab.lanes.settings`.

    Attributes:
        process: Switches that hold for the process.
        thread: Those of a thread, autocast among them.
    """

    process: tuple[Any, ...] = ()
    thread: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOrder:
    """One run that a node is asked for.

    Attributes:
        key: Of the bundle that it is to run.
        settings: What the session has set.
        timeout_s: When the run is given up, in seconds from when the node begins.
        options: What is asked for besides the answer of all members; None: nothing.
        seed: Of random numbers; None where no member draws any.
        stage: Which stage of the whole plan is asked.
        ran: At how many rows its lanes run: what comes is filled up to it, and as many rows as came are answered; 0: as
            it comes, for what is no later stage.
        keep: Whether outputs stay on the node, for one of the nodes combines them.
    """

    key: str
    settings: NodeSettings
    timeout_s: float
    options: RunOptions | None = None
    seed: int | None = None
    stage: int = 0
    ran: int = 0
    keep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLoaded:
    """What a node has loaded.

    Attributes:
        key: Of the bundle.
        pid: Its process.
        lane_pids: Those of its lanes.
        in_force: For each of its lanes, what is in force there.
        units: How many the device has there.
        random: Whether a member draws random numbers.
        keeping: Members that keep state between calls.
        notes: What limits or disturbs lanes there.
    """

    key: str
    pid: int
    lane_pids: tuple[int, ...]
    in_force: tuple[str, ...]
    units: int
    random: bool = False
    keeping: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAnswer:
    """What a node answers to an order.

    Attributes:
        outputs: What each of its members that answered put out; empty where outputs are kept there.
        sizes: For each of those members, how many bytes its output has.
        spans: When each ran, in seconds since the node began.
        lanes: When its lanes were busy, likewise.
        nan: Whose output holds NaN.
        missing: Members that did not answer, and why.
        notes: What else there is to say.
        took_s: From the order's arrival to its answer, in seconds.
        problem: Why there is no answer at all; None: there is one.
        other: Whether it holds another bundle than the one asked for, and has done nothing.
        restarted: Whether lanes were started anew for this run.
    """

    outputs: Mapping[str, PackedTree] = field(default_factory=dict, repr=False)
    sizes: Mapping[str, int] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    lanes: tuple[LaneReport, ...] = ()
    nan: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()
    notes: tuple[str, ...] = ()
    took_s: float = 0.0
    problem: EsenError | None = None
    other: bool = False
    restarted: bool = False
