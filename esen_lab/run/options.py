"""What a run may be asked for besides the answer of all members: an answer by a deadline, early, without who failed."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from esen_lab.common.surroundings import step
from esen_lab.common.words import unknown
from esen_lab.ensemble import Combine, Ensemble
from esen_lab.ensemble.combine_rules import weights_for
from esen_lab.errors import UsageError

Otherwise: TypeAlias = Literal["error", "first"]
OnFailure: TypeAlias = Literal["error", "leave-out"]
StopEarly: TypeAlias = "Literal['decided'] | float | None"
NEEDS_ALL = ("stack",)
"""Rules whose answer has another shape, or another meaning, without all members."""

_MAJORITY = ("lab.combine('majority')", "%esen combine majority")
SOFTMAX = ("lab.combine('softmax-mean')", "%esen combine softmax-mean")
"""How scores become answers that can be confident, as `step` takes it."""
_STAGES = ("lab.studies.thresholds()", "%esen tune")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of one run.

    Attributes:
        deadline_s: Seconds from the call, above 0: then the answer is made of the members that are done.
        at_least: The fewest members that an answer is made of; None: 1.
        otherwise: Where fewer are done at the deadline: "error", or "first": the first moment that enough are.
        on_failure: A member that raises, or whose lane ends, is an "error" or is left out: "leave-out".
        stop_early: "decided": stop where no member that is missing could change a majority's vote. A number above 0, at
            most 1: stop where the likeliest class of every row has that probability. None: never.
        uncertainty: Whether the run answers with an `Uncertain` in the place of the bare answer.

    Raises:
        UsageError: A field is none of these, or stands without what it belongs to.
    """

    deadline_s: float | None = None
    at_least: int | None = None
    otherwise: Otherwise = "error"
    on_failure: OnFailure = "error"
    stop_early: StopEarly = None
    uncertainty: bool = False

    def __post_init__(self) -> None:
        """Check the fields, and against each other."""
        self._take_numbers()
        if self.otherwise not in ("error", "first"):
            known = ("error", "first")
            raise unknown("The option otherwise is 'error' or 'first'", self.otherwise, known, given=self.otherwise)
        if self.on_failure not in ("error", "leave-out"):
            rule = "The option on_failure is 'error' or 'leave-out'"
            raise unknown(rule, self.on_failure, ("error", "leave-out"), given=self.on_failure)
        early = self.stop_early
        if early is not None and early != "decided" and not (_is_number(early) and 0 < early <= 1):
            rule = "The option stop_early is 'decided', or a probability above 0 and at most 1"
            raise unknown(rule, early, ("decided",), given=early)
        if early is not None and early != "decided":
            object.__setattr__(self, "stop_early", float(early))
        if not isinstance(self.uncertainty, bool):
            raise UsageError("The option uncertainty is True or False", given=self.uncertainty)
        if self.otherwise == "first" and self.deadline_s is None:
            raise UsageError(
                "The option otherwise says what is done at a deadline",
                given="otherwise='first' without one",
                hint="Give deadline_s too.",
            )
        if self.at_least is not None and not self.partial:
            raise UsageError(
                "The option at_least says of how many members an answer is made that some may be missing from",
                given=f"at_least={self.at_least} alone",
                hint="Give deadline_s, stop_early or on_failure='leave-out' too.",
            )

    def _take_numbers(self) -> None:
        """Check deadline and members; numbers of NumPy are welcome, and kept as plain ones."""
        if self.deadline_s is not None:
            if not (_is_number(self.deadline_s) and 0 < self.deadline_s < math.inf):
                raise UsageError("A deadline is a number of seconds above 0", given=self.deadline_s)
            object.__setattr__(self, "deadline_s", float(self.deadline_s))
        if self.at_least is not None:
            given: Any = self.at_least
            if isinstance(given, bool) or not isinstance(given, numbers.Integral) or given < 1:
                raise UsageError("The option at_least is a whole number of members above 0", given=self.at_least)
            object.__setattr__(self, "at_least", int(self.at_least))

    @property
    def plain(self) -> bool:
        """Whether nothing is asked for but the answer of all members."""
        return not (self.partial or self.uncertainty)

    @property
    def partial(self) -> bool:
        """Whether an answer may be made of some of the members."""
        return self.deadline_s is not None or self.stop_early is not None or self.on_failure == "leave-out"

    @property
    def enough(self) -> int:
        """The fewest members that an answer is made of."""
        return 1 if self.at_least is None else self.at_least

    def check(self, ensemble: Ensemble, names: Sequence[str], keeping: Sequence[str]) -> None:
        """Refuse what cannot be answered, before anything runs.

        Args:
            ensemble: Has the combine rule.
            names: Who runs, of its members.
            keeping: Members that keep state between calls.

        Raises:
            UsageError: The rule needs all members, more are asked for than there are, a member's state would miss a
                batch, or an early stop has no meaning for the rule.
        """
        if not self.partial:
            return
        rule = ensemble.combine
        check_rule(rule)
        if self.enough > len(names):
            raise UsageError(
                f"at_least is at most the number of members that run, {len(names)}", given=f"at_least={self.enough}"
            )
        if keeping:
            raise UsageError(
                "A run that may leave members out needs members that keep no state between calls",
                given=f"state is kept by {', '.join(keeping)}, which would miss a batch",
                hint="Run without a deadline, or leave these members out of the plan.",
            )
        if self.stop_early == "decided" and rule.name != "majority":
            raise UsageError(
                "Only a majority's vote can be decided before all members have answered",
                given=f"the rule {rule.describe()}: every member changes its answer",
                hint=f"Give a probability such as stop_early=0.95, or set another rule: {step(*_MAJORITY)}.",
            )
        if self.stop_early not in (None, "decided") and rule.name == "majority":
            raise UsageError(
                "A confident answer is one of probabilities, and a majority's vote has none",
                given=f"stop_early={self.stop_early}",
                hint=f"Give stop_early='decided', or set another rule: {step(*SOFTMAX)}.",
            )

    def check_stages(self) -> None:
        """Refuse what has no meaning for a plan in stages.

        Raises:
            UsageError: It is an early stop, which its thresholds are row by row, or uncertainty, which would compare
                rows that one member has answered with rows that all have.
        """
        if self.stop_early is not None:
            raise UsageError(
                "A plan in stages stops early by itself, row by row, at its thresholds",
                given=f"stop_early={self.stop_early!r}",
                hint=f"Set its thresholds ({step(*_STAGES)}), or put a plan without stages in force.",
            )
        if self.uncertainty:
            raise UsageError(
                "Members are compared where all of them have answered a row, and in a plan in stages they have not",
                given="uncertainty=True: of a row that leaves after one member, no disagreement is known",
                hint="Put a plan without stages in force for it.",
            )


def weightless(rule: Combine, names: Sequence[str]) -> frozenset[str]:
    """Members to which a rule gives no weight: without another one they make no answer."""
    if not rule.weights:
        return frozenset()
    return frozenset(name for name, weight in weights_for(rule.weights, list(names)).items() if not weight)


def needs_all(rule: Combine) -> bool:
    """Whether a rule's answer has no meaning without all members: "stack", or a function of the user's own."""
    return rule.function is not None or rule.name in NEEDS_ALL


def check_rule(rule: Combine) -> None:
    """Refuse a rule whose answer has no meaning without all members.

    Raises:
        UsageError: It is "stack", or a function of the user's own.
    """
    if needs_all(rule):
        raise UsageError(
            "An answer without some of the members needs a rule that has a meaning for any of them: mean, "
            "softmax-mean, weighted or majority",
            given=f"the rule {rule.describe()}, which is given all members",
            hint=f"Set another rule with {step('lab.combine(...)', '%esen combine')}, or run without these options.",
        )


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
