"""The thresholds of a cascade, moved by hand: what is then expected of time and accuracy, at once.

Every figure comes of the validation answers that were kept when the cascade was planned; nothing is run for a move.
All panels of a lab share one editor, and are told of every move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from esen_lab.common.bell import Listeners
from esen_lab.common.display import Shown
from esen_lab.common.locks import Lock
from esen_lab.common.records import to_dict
from esen_lab.common.surroundings import step
from esen_lab.common.units import format_confidence, format_percent, format_seconds
from esen_lab.errors import EsenError, UsageError
from esen_lab.planner.plan import Plan
from esen_lab.studies.batch_times import RowTimes
from esen_lab.studies.cascade import Cascade, check_threshold
from esen_lab.studies.exits import Exits
from esen_lab.studies.members import at_thresholds


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlannedCascade:
    """A cascade, and what it takes to say what it would be with other thresholds.

    Attributes:
        cascade: As it was planned.
        exits: Of its stages, on the validation data.
        row_times: What fewer rows take.
        stage_overhead_s: What one more stage costs.
    """

    cascade: Cascade
    exits: Exits
    row_times: RowTimes
    stage_overhead_s: float

    def at(self, thresholds: tuple[float, ...]) -> Cascade:
        """The same stages with these thresholds, one for each stage but the last."""
        given = self.cascade
        return at_thresholds(
            given, self.exits, thresholds, self.row_times, self.stage_overhead_s, deadline_s=given.deadline_s
        )

    def is_of(self, plan: Plan) -> bool:
        """Whether a plan asks the same members in the same stages, on this machine, for which times are expected."""
        if plan.devices:
            return False
        asked = [{name for number in stage for name in plan.lanes[number].members} for stage in plan.stages]
        return asked == [set(stage.names) for stage in self.cascade.stages]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdState(Shown):
    """What the editor shows.

    Attributes:
        thresholds: One for each stage but the last.
        cascade: What is expected with them.
        revision: Counts the states.
        in_force: Whether the plan in force has these thresholds.
        message: What could not be done, or "".
    """

    thresholds: tuple[float, ...]
    cascade: Cascade
    revision: int = 0
    in_force: bool = False
    message: str = ""

    @property
    def figures(self) -> tuple[str, ...]:
        """What is expected, a few words each."""
        found = self.cascade
        told = [
            f"expected JCT {format_seconds(found.expected_s)}",
            f"worst {format_seconds(found.worst_s)}",
            f"all at once {format_seconds(found.at_once_s)}",
        ]
        if found.accuracy is not None and found.whole_accuracy is not None:
            told.append(f"accuracy {format_percent(found.accuracy)} (all {format_percent(found.whole_accuracy)})")
        if found.agreement is not None:
            told.append(f"answers as all for {format_percent(found.agreement)}")
        if found.late is not None and found.deadline_s is not None:
            told.append(f"{format_percent(found.late)} later than {format_seconds(found.deadline_s)}")
        told.append("in force" if self.in_force else "not in force")
        return tuple(told)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**to_dict(self), "cascade": self.cascade.to_dict()}

    def __str__(self) -> str:
        """One line for each stage, and the figures."""
        lines = [
            f"stage {number}: {' + '.join(stage.names)}, reached by {format_percent(stage.reach)}"
            + (f", done at {format_confidence(self.thresholds[number - 1])}" if number <= len(self.thresholds) else "")
            for number, stage in enumerate(self.cascade.stages, 1)
        ]
        return "\n".join([*lines, " · ".join(self.figures), *([self.message] if self.message else [])])


class ThresholdEditor:
    """Moves thresholds. Safe for several threads; whoever listens is told outside of its lock.

    Args:
        planned: The cascade.
        plan: Gives the plan in force, or None.
        apply: Puts a plan in force and has its lanes running.
    """

    def __init__(
        self, planned: PlannedCascade, plan: Callable[[], Plan | None], apply: Callable[[Plan], object]
    ) -> None:
        self._lock = Lock()
        self._planned = planned
        self._plan = plan
        self._apply = apply
        self._listeners: Listeners[ThresholdState] = Listeners()
        self._state = self._made(self._of_plan(), 0)

    @property
    def planned(self) -> PlannedCascade:
        """What it moves."""
        return self._planned

    @property
    def state(self) -> ThresholdState:
        """What is so now."""
        return self._state

    def _of_plan(self) -> tuple[float, ...]:
        plan = self._plan()
        if plan is not None and plan.staged and self._planned.is_of(plan):
            return plan.thresholds
        given = self._planned.cascade.threshold
        count = len(self._planned.cascade.stages) - 1
        return given if isinstance(given, tuple) else (given or 1.0,) * count

    def _made(self, thresholds: tuple[float, ...], revision: int, message: str = "") -> ThresholdState:
        return ThresholdState(
            thresholds=thresholds,
            cascade=self._planned.at(thresholds),
            revision=revision,
            in_force=self._is_in_force(self._plan(), thresholds),
            message=message,
        )

    def _is_in_force(self, plan: Plan | None, thresholds: tuple[float, ...]) -> bool:
        return plan is not None and self._planned.is_of(plan) and plan.thresholds == thresholds

    def _show(self, thresholds: tuple[float, ...], message: str = "") -> ThresholdState:
        with self._lock:
            state = self._state = self._made(thresholds, self._state.revision + 1, message)
        for problem in self._listeners.tell(state):  # a broken view must not undo a move, nor silence other views
            with self._lock:
                said = f"A view of these thresholds stopped: {type(problem).__name__}: {problem}"
                state = self._state = replace(self._state, message=said)
        return state

    def listen(self, tell: Callable[[ThresholdState], object]) -> Callable[[], None]:
        """Have every later state told; what is returned ends that. Who raises is told nothing more."""
        return self._listeners.add(tell)

    def follow(self) -> None:
        """Another plan may be in force now: whoever listens is told, where these thresholds came in force or went."""
        state, plan = self._state, self._plan()
        if state.in_force != self._is_in_force(plan, state.thresholds):
            self._show(state.thresholds, state.message)

    def set(self, threshold: float, stage: int | None = None) -> ThresholdState:
        """Move one threshold, or all.

        Args:
            threshold: Above 0 and at most 1.
            stage: After which stage, from 1; None: after every stage but the last.

        Raises:
            UsageError: It is no confidence, or there is no such stage with another behind it.
        """
        check_threshold(threshold)
        count = len(self._state.thresholds)
        if stage is not None and (not isinstance(stage, int) or not 1 <= stage <= count):
            raise UsageError(f"Inputs leave after stages 1 to {count}", given=stage)
        before = self._state.thresholds
        return self._show(tuple(threshold if stage in (None, number) else old for number, old in enumerate(before, 1)))

    def reset(self) -> ThresholdState:
        """Back to the thresholds of the plan in force, or of the cascade as it was planned."""
        return self._show(self._of_plan())

    def apply(self) -> ThresholdState:
        """Put these thresholds in force: warm lanes of the same stages go on with them.

        Raises:
            EsenError: The plan in force is another one, or its lanes could not start.
        """
        thresholds, plan = self._state.thresholds, self._plan()
        try:
            if plan is None or not self._planned.is_of(plan):
                raise UsageError(
                    "Thresholds are put in force for the plan in force",
                    given="no plan of these stages",
                    hint=f"Put it in force first: {step('lab.studies.take(cascade)', '%esen cascade x_val --take')}.",
                )
            self._apply(with_thresholds(plan, self._planned.at(thresholds)))
        except EsenError as problem:
            self._show(thresholds, str(problem))
            raise
        return self._show(thresholds)


def with_thresholds(plan: Plan, found: Cascade) -> Plan:
    """A plan in stages with the thresholds of a cascade of the same stages, and what is expected with them."""
    return replace(
        plan,
        threshold=found.threshold,
        reach=tuple(stage.reach for stage in found.stages),
        jct_s=found.expected_s,
        worst_s=found.worst_s,
        measured_s=None,
        notes=found.notes,
    )
