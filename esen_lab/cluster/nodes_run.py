"""One run over nodes: each is asked once, and what it answers is taken in until nobody waits any longer.

A call of a plan without stages is one of these, a call of one with stages is one for each stage that rows come to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esen_lab.cluster.held_nodes import SLICE_S, HeldNode, told_by
from esen_lab.cluster.node_messages import NodeAnswer, NodeOrder
from esen_lab.cluster.nodes import NodeLost
from esen_lab.cluster.requests import MOST_OF_IT, CallRequest, NodesRequest
from esen_lab.cluster.tensor_packing import PackedTree
from esen_lab.errors import DeadlineMissed, DeviceError, EsenError, UsageError
from esen_lab.run import Deadline, Missing, RunOptions
from esen_lab.run.answered import Ended, asked_for_more, too_few_in_time
from esen_lab.run.options import weightless


class NodeAnswers:
    """One call's members.

    Args:
        names: Who is to answer, in the order of the ensemble.
        members: For each node, who answers from there.
        weightless: Members that an answer cannot be made of alone, since the rule gives them no weight.

    Attributes:
        names: See above.
        outputs: What members that answered have put out, as far as it has come here.
        late: Whether the answer was due before enough had answered, and is waited for.
        problem: The first error of a node, or None.
    """

    def __init__(
        self, names: Sequence[str], members: Mapping[str, Sequence[str]], weightless: Collection[str] = ()
    ) -> None:
        self.names = tuple(names)
        self._members = members
        self._weightless = weightless
        self._why: dict[str, Missing] = {}
        self._answered: set[str] = set()
        self.outputs: dict[str, PackedTree] = {}
        self.late = False
        self.problem: EsenError | None = None

    @property
    def done(self) -> tuple[str, ...]:
        """Who has answered, in the order of the ensemble."""
        return tuple(name for name in self.names if name in self._answered)

    @property
    def count(self) -> int:
        """How many of those count: all, but for members without weight."""
        return sum(name not in self._weightless for name in self._answered)

    def take(self, node: str, answer: NodeAnswer) -> None:
        """A node has answered."""
        self._answered.update(name for name in self._members[node] if name in answer.sizes)
        self.outputs.update(answer.outputs)
        self._why.update({missing.name: missing for missing in answer.missing})

    def failed(self, node: str, told: str, problem: EsenError | None = None) -> None:
        """A node does not answer."""
        self.problem = self.problem or problem
        for name in self._members[node]:
            self._why[name] = Missing(name=name, why="failed", told=f"node {node}: {told}")

    def missing(self, late: Sequence[str]) -> tuple[Missing, ...]:
        """Who has not answered, and why."""
        waiting = {name: f"node {node}" for node in late for name in self._members[node]}
        return tuple(
            self._why.get(name) or Missing(name=name, why="late", told=waiting.get(name, ""))
            for name in self.names
            if name not in self._answered
        )

    def missed(self, options: RunOptions, due: Deadline, late: Sequence[str], *, before: int = 0) -> DeadlineMissed:
        """The error of a call of which too few members are done when it is due; so many had answered before these."""
        earlier = f"{before} in earlier stages, " if before else ""
        of = before + len(self.names)
        return too_few_in_time(options.enough, of, due, self.done, self.missing(late), earlier=earlier)

    def too_few(self, enough: int) -> EsenError:
        """The error of a call of which too few members can answer, whatever time it has."""
        missing = "; ".join(map(str, self.missing(())))
        problem = self.problem or DeviceError("The members of a run answer", given=missing)
        return asked_for_more(problem, enough, missing)


_LARGE_BYTES = 100_000  # Ray sends smaller ones with the call, which is faster
_RESTART_S = 120.0  # what has not started again by then does not
# An answer that comes a millisecond after it was due is lost, with all of its members: on a busy machine, a thread may
# wait for its turn that long several times over.
_LATER_PART, _LEAST_LATER_S, _MOST_LATER_S = 0.05, 0.003, 0.25


class NodesRun:
    """One run.

    Attributes:
        answers: Who has answered.
        told: What each node that answered has told.
        late: Nodes that nobody waits for any more.
    """

    def __init__(self, asked: CallRequest, of_nodes: NodesRequest) -> None:
        self._asked, self._of_nodes, self._held, self._reach = asked, of_nodes, asked.held, asked.held.reach
        self._nodes = {node.name: node for node in asked.held.all if node.name in of_nodes.members}
        members = {name for own in of_nodes.members.values() for name in own}
        names = [name for name in asked.ensemble.names if name in members]
        without = weightless(asked.ensemble.combine, asked.ensemble.names)
        self.answers = NodeAnswers(names, of_nodes.members, without)
        self._all = sum(name not in without for name in names)
        self.told: list[NodeTold] = []
        self._sent_s: dict[str, float] = {}
        self._calls: dict[str, Any] = {}
        self._value: Any = None

    @property
    def late(self) -> tuple[str, ...]:
        """See above."""
        return tuple(self._calls)

    @property
    def unfinished(self) -> tuple[str, ...]:
        """The same, and nodes of which no member was done in time."""
        return (*self.late, *(told.node.name for told in self.told if not told.answer.lanes))

    @property
    def ended(self) -> Ended:
        """Why nobody waited any longer."""
        if self.answers.late and self._count >= self._enough:
            return "enough"
        return "deadline" if any(one.why == "late" for one in self.answers.missing(self.late)) else "all"

    @property
    def _enough(self) -> int:
        options = self._asked.options
        return self._all if options is None or not options.partial else options.enough

    @property
    def _count(self) -> int:
        return self._of_nodes.before + self.answers.count

    def run(self) -> None:
        """Send, and collect; raises as `PlanOnNodes.run` does."""
        alive = [node for node in self._nodes.values() if not node.gone]
        packed = self._of_nodes.input
        many = len(alive) > 1 and packed.size_bytes > _LARGE_BYTES
        self._value = self._reach.put(packed) if many else packed
        for node in self._nodes.values():
            self._send_first(node)
        self._collect()

    # --- there ---------------------------------------------------------------------------------------------------

    def _send_first(self, node: HeldNode) -> None:
        """Ask a node that is there; one that starts again is waited for, unless it may be left out."""
        if node.gone:
            self._failed(node, self._held.lost(node, node.gone), node.gone)
        elif node.loading is not None and self._asked.leaving_out and not self._has_started(node):
            self.answers.failed(node.name, "it starts again after it had ended")
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
            if not self._reach.wait([node.loading], min(SLICE_S, self._asked.deadline.left_s)):
                self._held.look_who_is_gone([node])
                if node.gone:
                    raise self._held.lost(node, node.gone)
            else:
                self._take_start(node, patient=time.monotonic() - begun < _RESTART_S)
            self._asked.deadline.check(f"{node.who}, which starts again")

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
        of_nodes = self._of_nodes
        order = NodeOrder(
            key=node.bundle.key,
            settings=self._asked.settings,
            timeout_s=max(min(self._asked.deadline.left_s, 1e6), 0.001),
            options=self._options_for(node),
            seed=of_nodes.seed,
            stage=of_nodes.stage,
            ran=of_nodes.ran,
            keep=of_nodes.keep,
        )
        self._sent_s[node.name] = time.perf_counter()
        self._calls[node.name] = node.link.call(of_nodes.method, self._value, order)

    def _options_for(self, node: HeldNode) -> RunOptions | None:
        """What a node is asked for, so that all of them together have what the call asks for."""
        options, due = self._asked.options, self._asked.due
        if options is None or not options.partial:
            return None
        left = None
        if due is not None:
            kept = min(self._asked.kept_s + _way_back_s(node, due), due.allowed_s * MOST_OF_IT)
            left = max(due.left_s - kept, 0.001)
        lacking = max(options.enough - self._of_nodes.before, 1)
        return RunOptions(
            deadline_s=left,
            at_least=min(lacking, len(self._of_nodes.members[node.name])) if options.otherwise == "first" else 1,
            otherwise=options.otherwise,
            on_failure=options.on_failure,
        )

    # --- back ----------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        due_s = self._asked.due_s
        while self._calls:
            due_in_s = math.inf if self.answers.late else max(0.0, due_s - time.monotonic())
            left_s = min(SLICE_S, self._asked.deadline.left_s, due_in_s)
            done = self._reach.wait(list(self._calls.values()), left_s)
            for name in [name for name, call in self._calls.items() if call in done]:
                self._take(self._nodes[name])
            if not done and left_s == SLICE_S:
                self._held.look_who_is_gone([self._nodes[name] for name in self._calls])
                for name in [name for name in self._calls if self._nodes[name].gone]:
                    del self._calls[name]
                    node = self._nodes[name]
                    self._failed(node, self._held.lost(node, node.gone), node.gone)
            if self._calls and self._asked.deadline.left_s <= 0:
                raise self._given_up()
            if self._calls and time.monotonic() >= due_s and self._over_at_due():
                break
        if self._count < self._enough and not self._of_nodes.more:
            raise self.too_few()

    def _over_at_due(self) -> bool:
        """Whether nobody waits any more, now that the answer is due.

        Raises:
            DeadlineMissed: Too few are done, and that is an error.
        """
        if self._count >= self._enough:
            return True
        if self._asked.options is not None and self._asked.options.otherwise == "error":
            raise self._missed()
        self.answers.late = True
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
        elif isinstance(answer.problem, UsageError):  # of what was given, which no other node would take either
            raise told_by(node, answer.problem)
        elif answer.problem is not None:
            self._failed(node, told_by(node, answer.problem), str(answer.problem))
        else:
            sent_s = self._sent_s[node.name]
            told = NodeTold(
                node=node,
                answer=answer,
                stage=self._of_nodes.stage,
                sent_bytes=self._of_nodes.input.size_bytes,
                sent_s=sent_s,
                round_s=time.perf_counter() - sent_s,
            )
            node.output_bytes = sum(answer.sizes.values())
            node.network_s = max(told.network_s, 0.8 * node.network_s)
            self.answers.take(node.name, answer)
            self.told.append(told)

    def _load_and_send(self, node: HeldNode) -> None:
        """Have a node load what it is to run, which it does not hold, and run it then."""
        call = node.link.call("load", node.value, self._asked.settings)
        while not self._reach.wait([call], min(SLICE_S, self._asked.deadline.left_s)):
            self._asked.deadline.check(f"{node.who} to load sub-models that changed")
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
        if not self._asked.leaving_out:
            raise problem
        self.answers.failed(node.name, told, problem)

    def _given_up(self) -> EsenError:
        """The time of the whole call is over: what is at work is ended and starts again, as lanes on one machine do."""
        late = [self._nodes[name] for name in self._calls]
        for node in late:
            node.link.restart()
            node.loading = node.link.call("what_is_loaded")
        return self._asked.deadline.passed(", ".join(node.who for node in late))

    def _missed(self) -> DeadlineMissed:
        options, due = self._asked.options, self._asked.due
        assert options is not None
        assert due is not None
        return self.answers.missed(options, due, late=self.late, before=self._of_nodes.before)

    def too_few(self) -> EsenError:
        """The error of a call of which too few members have answered."""
        if self._asked.due is not None and self.answers.problem is None:
            return self._missed()
        return self.answers.too_few(self._enough)


def _way_back_s(node: HeldNode, due: Deadline) -> float:
    """What is kept for a node's answer to come back: what ways took of late, and what a busy machine adds."""
    return node.network_s + min(max(_LATER_PART * due.allowed_s, _LEAST_LATER_S), _MOST_LATER_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTold:
    """What a node has answered in one run.

    Attributes:
        node: Which.
        answer: What it answered.
        stage: To what it was asked.
        sent_bytes: How much it was sent.
        sent_s: When, on `time.perf_counter`.
        round_s: How long it took from here.
    """

    node: HeldNode
    answer: NodeAnswer
    stage: int
    sent_bytes: int
    sent_s: float
    round_s: float

    @property
    def network_s(self) -> float:
        """What it took besides the node's own work."""
        return max(self.round_s - self.answer.took_s, 0.0)

    @property
    def began_s(self) -> float:
        """When the node began, on `time.perf_counter`: its way there and back are taken to be equally long."""
        return self.sent_s + self.network_s / 2

    @property
    def lanes(self) -> tuple[int, ...]:
        """Which lanes of the whole plan ran there."""
        return self.node.part.lanes_in(self.stage)

    @property
    def received_bytes(self) -> int:
        """How much came back."""
        return sum(output.size_bytes for output in self.answer.outputs.values())

    @property
    def notes(self) -> list[str]:
        """What is to be said of it."""
        again = ["lanes were started anew."] if self.answer.restarted else []
        return [f"Node {self.node.name}: {note}" for note in (*self.answer.notes, *again)]
