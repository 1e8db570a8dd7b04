"""One call of a plan on nodes: who is asked for what, who has answered, and what is made of it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

from esen_lab.cluster.combined_there import combined_there, told_of, who_combines
from esen_lab.cluster.held_nodes import SLICE_S, HeldNode, HeldNodes, told_by
from esen_lab.cluster.node_answers import NodeAnswers
from esen_lab.cluster.nodes import NodeLost
from esen_lab.cluster.orders import NodeAnswer, NodeOrder, NodeSettings
from esen_lab.cluster.packing import PackedTree, pack_input, unpack
from esen_lab.common.trees import Tree
from esen_lab.ensemble import Ensemble
from esen_lab.ensemble.chance import draw_seed
from esen_lab.errors import DeadlineMissed, DeviceError, EsenError
from esen_lab.planner.plan import Plan
from esen_lab.run import Answered, Deadline, Run, RunOptions, RunReport
from esen_lab.run.report import LaneReport, NodeReport, Span
from esen_lab.run.uncertainty import uncertain

_LARGE_BYTES = 100_000  # Ray sends smaller ones with the call, which is faster
_RESTART_S = 120.0  # what has not started again by then does not
_MOST_OF_IT = 0.5  # of the time to a deadline is kept for the way back and for combining, at most
_LEAST_S = 0.002
# An answer that comes a millisecond after it was due is lost, with all of its members: on a busy machine, a thread may
# wait for its turn that long several times over.
_LATER_PART, _LEAST_LATER_S, _MOST_LATER_S = 0.05, 0.003, 0.25


class NodesCall:
    """One call.

    Args:
        plan: What runs.
        ensemble: Its sub-models, and the combine rule.
        held: The nodes that run it.
        x: The input.
        deadline: Of the whole call.
        options: What is asked for besides the answer of all members, or None.
        due: When the answer is due, or None.
        settings: What the session has set.
    """

    def __init__(
        self,
        plan: Plan,
        ensemble: Ensemble,
        held: HeldNodes,
        x: Tree,
        deadline: Deadline,
        options: RunOptions | None,
        due: Deadline | None,
        settings: NodeSettings,
    ) -> None:
        self._plan, self._ensemble, self._held, self._reach = plan, ensemble, held, held.reach
        self._x, self._deadline, self._options, self._due, self._settings = x, deadline, options, due, settings
        self._begin = time.perf_counter()
        self._nodes = {node.name: node for node in held.all}
        names = [name for name in ensemble.names if name in plan.names]
        self._answers = NodeAnswers(names, {node.name: node.part.members for node in held.all})
        self._sent_s: dict[str, float] = {}
        self._calls: dict[str, Any] = {}
        self._value: Any = None
        self._seed: int | None = None
        self._told: list[_Told] = []
        self._notes: list[str] = []
        plain = options is None or options.plain
        self._there = who_combines(held.all, ensemble.combine) if plain else None

    @property
    def _leaving_out(self) -> bool:
        return self._options is not None and self._options.on_failure == "leave-out"

    @property
    def _enough(self) -> int:
        return len(self._answers.names) if self._options is None or not self._options.partial else self._options.enough

    def run(self) -> Run:
        """Send, collect, combine; raises as `PlanOnNodes.run` does."""
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
        self._held.combine_s = max(end - done, 0.8 * self._held.combine_s)
        return Run(output=output, report=self._report(packed, copied, done, end))

    # --- there ---------------------------------------------------------------------------------------------------

    def _send_first(self, node: HeldNode) -> None:
        """Ask a node that is there; one that starts again is waited for, unless it may be left out."""
        if node.gone:
            self._failed(node, self._held.lost(node, node.gone), node.gone)
        elif node.loading is not None and self._leaving_out and not self._has_started(node):
            self._answers.failed(node.name, "it starts again after it had ended")
        else:
            try:
                self._wait_for_start(node)
            except DeviceError as problem:
                self._failed(node, problem, str(problem))
            else:
                self._send(node)

    def _wait_for_start(self, node: HeldNode) -> None:
        """Wait for a node that starts again: until then Ray refuses its calls, so it is asked again and again.

        Raises:
            DeviceError: It is gone, or does not start.
        """
        begun = time.monotonic()
        while node.loading is not None:
            if not self._reach.wait([node.loading], min(SLICE_S, self._deadline.left_s)):
                self._held.look_who_is_gone([node])
                if node.gone:
                    raise self._held.lost(node, node.gone)
            else:
                self._take_start(node, patient=time.monotonic() - begun < _RESTART_S)
            self._deadline.check(f"{node.who}, which starts again")

    def _take_start(self, node: HeldNode, *, patient: bool) -> None:
        asked = node.loading
        try:
            self._held.take_loaded(node)
        except DeviceError:
            refused = node.loading is not None and node.loading is not asked and not node.gone
            if not (patient and refused):
                raise
            time.sleep(SLICE_S)
            self._held.look_who_is_gone([node])

    def _has_started(self, node: HeldNode) -> bool:
        if not self._reach.wait([node.loading], 0.0):
            return False
        try:
            self._held.take_loaded(node)
        except EsenError:
            return False
        return True

    def _send(self, node: HeldNode) -> None:
        order = NodeOrder(
            key=node.bundle.key,
            settings=self._settings,
            timeout_s=max(min(self._deadline.left_s, 1e6), 0.001),
            options=self._options_for(node),
            seed=self._seed,
            keep=self._there is not None,
        )
        self._sent_s[node.name] = time.perf_counter()
        self._calls[node.name] = node.link.call("run", self._value, order)

    def _options_for(self, node: HeldNode) -> RunOptions | None:
        """What a node is asked for, so that all of them together have what the call asks for."""
        options = self._options
        if options is None or not options.partial:
            return None
        left = None
        if self._due is not None:
            kept = min(self._kept_s() + self._way_back_s(node), self._due.allowed_s * _MOST_OF_IT)
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
        return max(1.2 * self._held.combine_s, _LEAST_S)

    def _way_back_s(self, node: HeldNode) -> float:
        """What is kept for a node's answer to come back: what ways took of late, and what a busy machine adds."""
        assert self._due is not None
        return node.network_s + min(max(_LATER_PART * self._due.allowed_s, _LEAST_LATER_S), _MOST_LATER_S)

    # --- back ----------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        due_s = math.inf
        if self._due is not None:
            due_s = self._due.at_s - min(self._kept_s(), self._due.allowed_s * _MOST_OF_IT)
        while self._calls:
            due_in_s = math.inf if self._answers.late else max(0.0, due_s - time.monotonic())
            left_s = min(SLICE_S, self._deadline.left_s, due_in_s)
            done = self._reach.wait(list(self._calls.values()), left_s)
            for name in [name for name, call in self._calls.items() if call in done]:
                self._take(self._nodes[name])
            if not done and left_s == SLICE_S:
                self._held.look_who_is_gone([self._nodes[name] for name in self._calls])
                for name in [name for name in self._calls if self._nodes[name].gone]:
                    del self._calls[name]
                    node = self._nodes[name]
                    self._failed(node, self._held.lost(node, node.gone), node.gone)
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

    def _take(self, node: HeldNode) -> None:
        call = self._calls.pop(node.name)
        try:
            answer = self._reach.result(call)
        except NodeLost as problem:
            self._held.note_loss(node, problem)
            self._failed(node, self._held.lost(node, str(problem)), str(problem))
            return
        if node.loading is not None and not answer.other:  # it has started again, and said with what before it ran
            self._held.take_loaded(node)
        if answer.other:
            self._load_and_send(node)
        elif answer.problem is not None:
            self._failed(node, told_by(node, answer.problem), str(answer.problem))
        else:
            told = _Told(node=node, answer=answer, round_s=time.perf_counter() - self._sent_s[node.name])
            node.output_bytes = sum(answer.sizes.values())
            node.network_s = max(told.network_s, 0.8 * node.network_s)
            self._answers.take(node.name, answer)
            self._told.append(told)

    def _load_and_send(self, node: HeldNode) -> None:
        """Have a node load what it is to run, which it does not hold, and run it then."""
        call = node.link.call("load", node.value, self._settings)
        while not self._reach.wait([call], min(SLICE_S, self._deadline.left_s)):
            self._deadline.check(f"{node.who} to load sub-models that changed")
            self._held.look_who_is_gone([node])
            if node.gone:
                break
        node.loading = call
        self._held.take_loaded(node)
        self._send(node)

    def _failed(self, node: HeldNode, problem: EsenError, told: str) -> None:
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

        ensemble, names = self._ensemble, self._answers.done
        if self._there is not None:
            self._notes.append(told_of(self._there, self._held.all))
            return combined_there(self._there, self._held, ensemble.combine, names, self._deadline)
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
        plan, looks = self._plan, str(packed.spec)
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
            notes=(*(note for told in self._told for note in told.notes), *self._notes),
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
            for number, lane in enumerate(self._plan.lanes)
        }

    def _began_s(self, told: _Told) -> float:
        """When a node began, in seconds since the call: its way there and back are taken to be equally long."""
        return self._sent_s[told.node.name] - self._begin + told.network_s / 2

    def _spans(self, told: _Told, *, as_planned: bool) -> list[Span]:
        plan, began_s, numbers = self._plan, self._began_s(told), told.node.part.lanes
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

    node: HeldNode
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
