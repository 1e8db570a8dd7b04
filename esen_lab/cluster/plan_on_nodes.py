"""Runs one plan over several nodes: each holds warm lanes, and is asked for its members' answers once per call.

    1. The input is packed; a large one is put into the cluster's store once, from where every node takes it.
    2. Every node runs its lanes, as on one machine, and answers with the outputs of its members.
    3. The combine rule makes one answer of them here, in the order of the ensemble: equal to the bit to one machine's.

What dies takes its members' answers along: the call fails with an error that names node and members, or is answered
without them where that was asked for. What died starts again by itself, and the next call finds or awaits it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from esen_lab.cluster.node_answers import NodeAnswers
from esen_lab.cluster.nodes import ClusterNode, NodeLost, NodeReach, NodeState, WorkerLink, sizes
from esen_lab.cluster.orders import NodeAnswer, NodeBundle, NodeLoaded, NodeOrder, NodeSettings
from esen_lab.cluster.packing import PackedTree, pack_input, unpack
from esen_lab.cluster.parts import NodePart, parts_of
from esen_lab.common.trees import Tree
from esen_lab.ensemble import Ensemble
from esen_lab.ensemble.chance import draw_seed
from esen_lab.errors import DeadlineMissed, DeviceError, EsenError, UsageError, WorkerDied
from esen_lab.planner.plan import Plan
from esen_lab.run import Answered, Deadline, Run, RunOptions, RunReport
from esen_lab.run.report import LaneReport, NodeReport, Span
from esen_lab.run.uncertainty import uncertain

RESTARTS = 20
_LARGE_BYTES = 100_000  # Ray sends smaller ones with the call, which is faster
_SLICE_S = 0.25  # of a wait: an interrupt may come, and a node may be gone without a word
_RESTART_S = 120.0  # what has not started again by then does not
_MOST_OF_IT = 0.5  # of the time to a deadline is kept for the way back and for combining, at most
_LEAST_S = 0.002


@dataclass(slots=True, kw_only=True, eq=False)
class _Node:
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
    network_s: float = 0.0

    @property
    def name(self) -> str:
        return self.part.node

    @property
    def who(self) -> str:
        """For people: the node and its members."""
        return f"node {self.name} ({', '.join(self.part.members)})"

    @property
    def state(self) -> NodeState:
        if self.gone:
            return "gone"
        if self.loading is None:
            return "ready"
        return "loading" if self.loaded is None else "restarting"


class PlanOnNodes:
    """The warm lanes of one plan on the nodes of a cluster. Made by `start`; one thread at a time runs.

    Attributes:
        plan: What runs.
        ensemble: Its sub-models, and the combine rule.
    """

    def __init__(self, plan: Plan, ensemble: Ensemble, reach: NodeReach, nodes: Sequence[_Node]) -> None:
        """Use `start`."""
        self.plan = plan
        self.ensemble = ensemble
        self._reach = reach
        self._nodes = tuple(nodes)
        self._combine_s = 0.0

    @classmethod
    def start(
        cls,
        plan: Plan,
        ensemble: Ensemble,
        reach: NodeReach,
        *,
        deadline: Deadline,
        on_progress: Callable[[int, int, str], object] | None = None,
    ) -> PlanOnNodes:
        """Start what runs on each node, and wait until all have loaded their part.

        Args:
            plan: Its devices are names of nodes.
            ensemble: The members that it runs, and no others.
            reach: The way to the nodes.
            deadline: Of all of it.
            on_progress: Called with (nodes that are ready, all, which one).

        Raises:
            UsageError: The plan does not fit these nodes, or a sub-model cannot be sent.
            EsenError: A node could not load its part; what was started has been ended again.
        """
        there = {node.name: node for node in reach.nodes() if node.alive}
        parts = parts_of(plan, sizes(list(there.values())))
        bundles = [part.bundle(ensemble) for part in parts]
        nodes: list[_Node] = []
        made = cls(plan, ensemble, reach, nodes)
        try:
            for part, bundle in zip(parts, bundles, strict=True):
                value = reach.put(bundle)
                node = there[part.node]
                link = reach.start(node, value, part.units, restarts=RESTARTS)
                nodes.append(_Node(part=part, node=node, link=link, bundle=bundle, value=value, begun_with=value))
                made._nodes = tuple(nodes)
                nodes[-1].loading = link.call("what_is_loaded")
            made._wait_until_loaded(deadline, on_progress or _silent)
        except BaseException:
            made.close()
            raise
        return made

    def _wait_until_loaded(self, deadline: Deadline, tell: Callable[[int, int, str], object]) -> None:
        waiting = list(self._nodes)
        tell(0, len(self._nodes), "")
        while waiting:
            for node in self._done(waiting, deadline.left_s):
                self._take_loaded(node)
                waiting.remove(node)
                tell(len(self._nodes) - len(waiting), len(self._nodes), node.name)
            if waiting and deadline.left_s <= 0:
                raise deadline.passed(f"{', '.join(node.who for node in waiting)} to load")

    def _done(self, nodes: Sequence[_Node], timeout_s: float) -> list[_Node]:
        """Those that have done what they load, or are gone."""
        done = self._reach.wait([node.loading for node in nodes], min(_SLICE_S, timeout_s))
        if not done:
            self._look_who_is_gone(nodes)
        return [node for node in nodes if node.loading in done or node.gone]

    def _look_who_is_gone(self, nodes: Sequence[_Node]) -> None:
        """Notice nodes that have gone without a word: what was asked of them never comes."""
        alive = {node.id for node in self._reach.nodes() if node.alive}
        for node in nodes:
            if node.node.id not in alive and not node.gone:
                node.gone = "the cluster does not see it any more"

    def _take_loaded(self, node: _Node) -> None:
        """What a node has loaded.

        Raises:
            EsenError: It is gone, or could not load it.
        """
        if node.gone:
            raise self._lost(node, node.gone)
        try:
            found = self._reach.result(node.loading)
        except NodeLost as problem:
            self._note_loss(node, problem)
            raise self._lost(node, str(problem)) from problem
        node.loading = None
        if isinstance(found, EsenError):
            raise _told_by(node, found)
        node.loaded = found

    def _note_loss(self, node: _Node, problem: NodeLost) -> None:
        if problem.for_good:
            node.gone = str(problem)
        else:
            node.loading = node.link.call("what_is_loaded")  # answers once it has started again

    def _lost(self, node: _Node, told: str) -> DeviceError:
        hint = (
            f"Plan again for the nodes that are left: lab.cluster.replan_without({node.name!r})."
            if node.gone
            else "It starts again by itself, and the next call waits for it."
        )
        return DeviceError(f"What runs on {node.who} is there", given=told, hint=hint)

    # --- what it is ----------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[ClusterNode, ...]:
        """Its nodes, as they are now."""
        return tuple(
            replace(
                node.node,
                alive=not node.gone,
                state=node.state,
                members=node.part.members,
                notes=(*node.node.notes, *([node.gone] if node.gone else [])),
            )
            for node in self._nodes
        )

    @property
    def told(self) -> tuple[str, ...]:
        """For each node, a sentence: what it is doing, and who runs there."""
        return tuple(f"{node.name} {node.state} ({', '.join(node.part.members)})" for node in self._nodes)

    @property
    def loaded(self) -> dict[str, NodeLoaded]:
        """What each node has loaded, as of the last time it was asked."""
        return {node.name: node.loaded for node in self._nodes if node.loaded is not None}

    @property
    def gone(self) -> tuple[str, ...]:
        """Nodes that are gone for good."""
        return tuple(node.name for node in self._nodes if node.gone)

    @property
    def keeping(self) -> tuple[str, ...]:
        """Members that keep state between calls."""
        return tuple(name for loaded in self.loaded.values() for name in loaded.keeping)

    def holds(self, plan: Plan, reach: NodeReach) -> bool:
        """Whether it runs these very lanes, on nodes that are reached in this way."""
        return (
            bool(self._nodes)
            and self._reach is reach
            and (self.plan.lanes, self.plan.devices)
            == (
                plan.lanes,
                plan.devices,
            )
        )

    def keep_to(self, ensemble: Ensemble) -> None:
        """Go on with sub-models that may have changed: nodes load theirs anew with the next run.

        Raises:
            UsageError: One cannot be sent.
        """
        for node in self._nodes:
            names = node.part.members
            if any(not ensemble.get(name).same_as(self.ensemble.get(name)) for name in names):
                bundle = node.part.bundle(ensemble)
                if bundle.key != node.bundle.key:
                    node.bundle, node.value = bundle, self._reach.put(bundle)
        self.ensemble = ensemble

    def close(self) -> None:
        """End what runs on the nodes. May be called again."""
        nodes, self._nodes = self._nodes, ()
        for node in nodes:
            node.link.close()

    # --- runs ----------------------------------------------------------------------------------------------------

    def run(
        self,
        x: Tree,
        *,
        deadline: Deadline,
        options: RunOptions | None = None,
        due: Deadline | None = None,
        settings: NodeSettings | None = None,
    ) -> Run:
        """Run the ensemble once.

        Args:
            x: The input.
            deadline: Of the whole call.
            options: What is asked for besides the answer of all members; see `RunOptions`.
            due: When the answer is due, where `options` has a deadline that has begun earlier.
            settings: What the session has set.

        Raises:
            DeadlineMissed: Fewer members than were asked for were done when the answer was due.
            UsageError: The options cannot be had, or the input cannot go in.
            DeviceError: A node, what runs on it or one of its lanes is gone; the message names it and its members.
            ModelError: A sub-model raised; a note says where.
            WorkerTimeout: The deadline passed. What was at work is ended, and starts again.
        """
        options = None if options is None or options.plain else options
        if options is not None:
            self._check(options)
            if due is None and options.deadline_s is not None:
                due = Deadline(options.deadline_s)
        return _CallOfNodes(self, x, deadline, options, due, settings or NodeSettings()).run()

    def _check(self, options: RunOptions) -> None:
        options.check(self.ensemble, self.plan.names, self.keeping)
        if options.stop_early is not None:
            raise UsageError(
                "Answers that end early are those of one machine: nodes answer with all of their members at once",
                given=f"stop_early={options.stop_early!r}",
                hint="Give deadline_s, or run on one machine.",
            )


class _CallOfNodes:
    """One call."""

    def __init__(
        self,
        owner: PlanOnNodes,
        x: Tree,
        deadline: Deadline,
        options: RunOptions | None,
        due: Deadline | None,
        settings: NodeSettings,
    ) -> None:
        self._owner, self._reach = owner, owner._reach
        self._x, self._deadline, self._options, self._due, self._settings = x, deadline, options, due, settings
        self._begin = time.perf_counter()
        self._nodes = {node.name: node for node in owner._nodes}
        names = [name for name in owner.ensemble.names if name in owner.plan.names]
        self._answers = NodeAnswers(names, {node.name: node.part.members for node in owner._nodes})
        self._sent_s: dict[str, float] = {}
        self._calls: dict[str, Any] = {}
        self._value: Any = None
        self._seed: int | None = None
        self._told: list[_Told] = []

    @property
    def _leaving_out(self) -> bool:
        return self._options is not None and self._options.on_failure == "leave-out"

    @property
    def _enough(self) -> int:
        return len(self._answers.names) if self._options is None or not self._options.partial else self._options.enough

    def run(self) -> Run:
        """Send, collect, combine."""
        packed = pack_input(self._x)
        alive = [node for node in self._nodes.values() if not node.gone]
        many = len(alive) > 1 and packed.size_bytes > _LARGE_BYTES
        self._value = self._reach.put(packed) if many else packed
        random = any(node.loaded is not None and node.loaded.random for node in alive)
        self._seed = draw_seed() if random else None
        copied = time.perf_counter()
        for node in self._nodes.values():
            self._send_first(node)
        self._collect()
        done = time.perf_counter()
        output = self._combined()
        end = time.perf_counter()
        owner = self._owner
        owner._combine_s = max(end - done, 0.8 * owner._combine_s)
        return Run(output=output, report=self._report(packed, copied, done, end))

    # --- there ---------------------------------------------------------------------------------------------------

    def _send_first(self, node: _Node) -> None:
        """Ask a node that is there; one that starts again is waited for, unless it may be left out."""
        if node.gone:
            self._failed(node, self._owner._lost(node, node.gone), node.gone)
        elif node.loading is not None and self._leaving_out and not self._has_started(node):
            self._answers.failed(node.name, "it starts again after it had ended")
        else:
            try:
                self._wait_for_start(node)
            except DeviceError as problem:
                self._failed(node, problem, str(problem))
            else:
                self._send(node)

    def _wait_for_start(self, node: _Node) -> None:
        """Wait for a node that starts again: until then Ray refuses its calls, so it is asked again and again.

        Raises:
            DeviceError: It is gone, or does not start.
        """
        begun = time.monotonic()
        while node.loading is not None:
            if not self._reach.wait([node.loading], min(_SLICE_S, self._deadline.left_s)):
                self._owner._look_who_is_gone([node])
                if node.gone:
                    raise self._owner._lost(node, node.gone)
            else:
                self._take_start(node, patient=time.monotonic() - begun < _RESTART_S)
            self._deadline.check(f"{node.who}, which starts again")

    def _take_start(self, node: _Node, *, patient: bool) -> None:
        asked = node.loading
        try:
            self._owner._take_loaded(node)
        except DeviceError:
            refused = node.loading is not None and node.loading is not asked and not node.gone
            if not (patient and refused):
                raise
            time.sleep(_SLICE_S)
            self._owner._look_who_is_gone([node])

    def _has_started(self, node: _Node) -> bool:
        if not self._reach.wait([node.loading], 0.0):
            return False
        try:
            self._owner._take_loaded(node)
        except EsenError:
            return False
        return True

    def _send(self, node: _Node) -> None:
        order = NodeOrder(
            key=node.bundle.key,
            settings=self._settings,
            timeout_s=max(min(self._deadline.left_s, 1e6), 0.001),
            options=self._options_for(node),
            seed=self._seed,
        )
        self._sent_s[node.name] = time.perf_counter()
        self._calls[node.name] = node.link.call("run", self._value, order)

    def _options_for(self, node: _Node) -> RunOptions | None:
        """What a node is asked for, so that all of them together have what the call asks for."""
        options = self._options
        if options is None or not options.partial:
            return None
        left = None
        if self._due is not None:
            kept = min(self._kept_s() + node.network_s, self._due.allowed_s * _MOST_OF_IT)
            left = max(self._due.left_s - kept, 0.001)
        first = options.otherwise == "first"
        return RunOptions(
            deadline_s=left,
            at_least=min(options.enough, len(node.part.members)) if first else 1,
            otherwise=options.otherwise,
            on_failure=options.on_failure,
        )

    def _kept_s(self) -> float:
        """What is kept for combining."""
        return max(1.2 * self._owner._combine_s, _LEAST_S)

    # --- back ----------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        due_s = math.inf
        if self._due is not None:
            due_s = self._due.at_s - min(self._kept_s(), self._due.allowed_s * _MOST_OF_IT)
        while self._calls:
            due_in_s = math.inf if self._answers.late else max(0.0, due_s - time.monotonic())
            left_s = min(_SLICE_S, self._deadline.left_s, due_in_s)
            done = self._reach.wait(list(self._calls.values()), left_s)
            for name in [name for name, call in self._calls.items() if call in done]:
                self._take(self._nodes[name])
            if not done and left_s == _SLICE_S:
                self._owner._look_who_is_gone([self._nodes[name] for name in self._calls])
                for name in [name for name in self._calls if self._nodes[name].gone]:
                    del self._calls[name]
                    node = self._nodes[name]
                    self._failed(node, self._owner._lost(node, node.gone), node.gone)
            if self._calls and self._deadline.left_s <= 0:
                raise self._given_up()
            if self._calls and time.monotonic() >= due_s and self._over_at_due():
                break
        if len(self._answers.done) < self._enough:
            raise self._too_few()

    def _over_at_due(self) -> bool:
        """Whether nobody waits any more, now that the answer is due.

        Raises:
            DeadlineMissed: Too few are done, and that is an error.
        """
        if len(self._answers.done) >= self._enough:
            return True
        if self._options is not None and self._options.otherwise == "error":
            raise self._missed()
        self._answers.late = True
        return False

    def _take(self, node: _Node) -> None:
        call = self._calls.pop(node.name)
        try:
            answer = self._reach.result(call)
        except NodeLost as problem:
            self._owner._note_loss(node, problem)
            self._failed(node, self._owner._lost(node, str(problem)), str(problem))
            return
        if node.loading is not None and not answer.other:  # it has started again, and said with what before it ran
            self._owner._take_loaded(node)
        if answer.other:
            self._load_and_send(node)
        elif answer.problem is not None:
            self._failed(node, _told_by(node, answer.problem), str(answer.problem))
        else:
            told = _Told(node=node, answer=answer, round_s=time.perf_counter() - self._sent_s[node.name])
            node.network_s = told.network_s
            self._answers.take(node.name, answer)
            self._told.append(told)

    def _load_and_send(self, node: _Node) -> None:
        """Have a node load what it is to run, which it does not hold, and run it then."""
        call = node.link.call("load", node.value, self._settings)
        while not self._reach.wait([call], min(_SLICE_S, self._deadline.left_s)):
            self._deadline.check(f"{node.who} to load sub-models that changed")
            self._owner._look_who_is_gone([node])
            if node.gone:
                break
        node.loading = call
        self._owner._take_loaded(node)
        self._send(node)

    def _failed(self, node: _Node, problem: EsenError, told: str) -> None:
        """A node does not answer.

        Raises:
            EsenError: That is an error.
        """
        if not self._leaving_out:
            raise problem
        self._answers.failed(node.name, told, problem)

    def _given_up(self) -> EsenError:
        """The time of the whole call is over: what is at work is ended and starts again, as lanes on one machine do."""
        late = [self._nodes[name] for name in self._calls]
        for node in late:
            node.link.restart()
            node.loading = node.link.call("what_is_loaded")
        return self._deadline.passed(", ".join(node.who for node in late))

    def _missed(self) -> DeadlineMissed:
        assert self._options is not None
        assert self._due is not None
        return self._answers.missed(self._options, self._due, late=list(self._calls))

    def _too_few(self) -> EsenError:
        if self._due is not None and self._answers.problem is None:
            return self._missed()
        return self._answers.too_few(self._enough)

    # --- the answer ----------------------------------------------------------------------------------------------

    def _combined(self) -> Tree:
        import torch

        ensemble, names = self._owner.ensemble, self._answers.done
        outputs = {name: unpack(self._answers.outputs[name]) for name in names}
        rule = (
            ensemble.combine
            if len(names) == len(self._answers.names)
            else ensemble.combine.for_members(names, ensemble.names)
        )
        with torch.no_grad():
            output = rule(outputs)
            if self._options is not None and self._options.uncertainty:
                return uncertain(output, outputs, ensemble.combine, ensemble.names)
        return output

    def _answered(self, end: float) -> Answered | None:
        """Who answered; None where all had to."""
        if self._options is None:
            return None
        missing = self._answers.missing(list(self._calls))
        late = any(one.why == "late" for one in missing)
        return Answered(
            names=self._answers.done,
            missing=missing,
            ended="enough" if self._answers.late else "deadline" if late else "all",
            at_s=end - self._begin if self._due is None else self._due.since_s,
            deadline_s=self._options.deadline_s,
        )

    def _report(self, packed: PackedTree, copied: float, done: float, end: float) -> RunReport:
        plan, looks = self._owner.plan, str(packed.spec)
        as_planned = not plan.example or plan.example == looks
        spans: list[Span] = []
        lanes = self._idle_lanes(done - self._begin)
        for told in self._told:
            spans += self._spans(told, as_planned=as_planned)
            lanes.update(self._lanes(told))
        return RunReport(
            jct_s=end - self._begin,
            spans=tuple(spans),
            lanes=tuple(lanes[number] for number in sorted(lanes)),
            copy_s=copied - self._begin,
            combine_s=end - done,
            predicted_s=plan.jct_s if as_planned else None,
            batch=looks,
            nan=tuple(name for told in self._told for name in told.answer.nan),
            notes=tuple(note for told in self._told for note in told.notes),
            unmeasured=plan.unmeasured if as_planned else {},
            answered=self._answered(end),
            nodes=tuple(sorted((told.report(packed.size_bytes) for told in self._told), key=lambda one: one.name)),
        )

    def _idle_lanes(self, until_s: float) -> dict[int, LaneReport]:
        """All lanes as those of nodes that did not answer: busy until nobody waited, or not at all."""
        return {
            number: LaneReport(
                units=lane.units,
                in_force="",
                members=lane.members,
                start_s=0.0,
                end_s=until_s if lane.device in self._calls else 0.0,
                device=lane.device,
            )
            for number, lane in enumerate(self._owner.plan.lanes)
        }

    def _began_s(self, told: _Told) -> float:
        """When a node began, in seconds since the call: its way there and back are taken to be equally long."""
        return self._sent_s[told.node.name] - self._begin + told.network_s / 2

    def _spans(self, told: _Told, *, as_planned: bool) -> list[Span]:
        plan, began_s, numbers = self._owner.plan, self._began_s(told), told.node.part.lanes
        return [
            replace(
                span,
                lane=numbers[span.lane],
                start_s=span.start_s + began_s,
                end_s=span.end_s + began_s,
                predicted_s=plan.predicted_s.get(span.name) if as_planned else None,
                unmeasured=plan.unmeasured.get(span.name, "") if as_planned else "",
            )
            for span in told.answer.spans
        ]

    def _lanes(self, told: _Told) -> dict[int, LaneReport]:
        began_s = self._began_s(told)
        return {
            number: replace(lane, start_s=lane.start_s + began_s, end_s=lane.end_s + began_s, device=told.node.name)
            for number, lane in zip(told.node.part.lanes, told.answer.lanes, strict=True)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What a node has answered, and how long that took from here."""

    node: _Node
    answer: NodeAnswer
    round_s: float

    @property
    def network_s(self) -> float:
        return max(self.round_s - self.answer.took_s, 0.0)

    @property
    def notes(self) -> list[str]:
        again = ["lanes were started anew."] if self.answer.restarted else []
        return [f"Node {self.node.name}: {note}" for note in (*self.answer.notes, *again)]

    def report(self, sent_bytes: int) -> NodeReport:
        return NodeReport(
            name=self.node.name,
            members=self.node.part.members,
            took_s=self.answer.took_s,
            network_s=self.network_s,
            sent_bytes=sent_bytes,
            received_bytes=sum(output.size_bytes for output in self.answer.outputs.values()),
        )


def _told_by(node: _Node, problem: EsenError) -> EsenError:
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


def _silent(*_: object) -> None:
    """Progress that nobody watches."""
