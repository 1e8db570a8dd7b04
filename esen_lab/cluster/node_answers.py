"""What one call has of which node so far: members that answered, failed, or are late."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from esen_lab.cluster.orders import NodeAnswer
from esen_lab.cluster.packing import PackedTree
from esen_lab.errors import DeadlineMissed, DeviceError, EsenError
from esen_lab.run import Deadline, Missing, RunOptions
from esen_lab.run.answered import asked_for_more, too_few_in_time


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
        """Who has not answered, and why.

        Args:
            late: Nodes that nobody waits for any more.
        """
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
