"""Of whom an answer was made that may leave members out, and what such an answer is known to be worth. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from esen_lab.common.records import to_dict
from esen_lab.common.units import format_percent, format_seconds
from esen_lab.errors import DeadlineMissed, EsenError
from esen_lab.run.deadline import Deadline

Why: TypeAlias = Literal["late", "failed", "not needed"]
Ended: TypeAlias = Literal["all", "deadline", "enough", "decided", "confident"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A member that an answer was made without.

    Attributes:
        name: The member.
        why: "late" at the deadline, "failed", or "not needed".
        told: More of it: what it raised, or which earlier run its lane was still at; or "".
    """

    name: str
    why: Why
    told: str = ""

    def __str__(self) -> str:
        """For people: "deep (late)"."""
        return f"{self.name} ({self.why}{': ' if self.told else ''}{self.told})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What the members that answered were worth on validation data.

    Attributes:
        accuracy: Of these members together, 0..1.
        of_all: Of all members, 0..1.
        samples: On how many samples.
    """

    accuracy: float
    of_all: float
    samples: int

    def __str__(self) -> str:
        """For people."""
        return (
            f"{format_percent(self.accuracy)} right on {self.samples} validation samples "
            f"(all members: {format_percent(self.of_all)})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Who answered, and who did not.

    Attributes:
        names: The members of whom the answer was made, in the order of the ensemble.
        missing: The others, likewise.
        ended: Why nobody waited longer: "all" had answered that could, the "deadline", "enough" after it, a vote that
            was "decided", or an answer that was "confident".
        at_s: When the answer was there, in seconds from the call, waiting for a turn included.
        deadline_s: When it was due, or None.
        confidence: The probability of the likeliest class in the least sure row, where `ended` is "confident".
        certain_rows: In how many rows no missing member could have changed the class, where that was looked at.
        rows: Of how many.
        cut_rows: Of a plan in stages: rows that were not sure yet when nobody waited any longer, and have the answer of
            the members until then. None for other plans.
        busy: Members whose lanes were still at an earlier run when this one began.
    """

    names: tuple[str, ...]
    missing: tuple[Missing, ...] = ()
    ended: Ended = "all"
    at_s: float = 0.0
    deadline_s: float | None = None
    confidence: float | None = None
    certain_rows: int | None = None
    rows: int | None = None
    cut_rows: int | None = None
    busy: tuple[str, ...] = ()
    _look_up: Callable[[Sequence[str]], Worth | None] | None = field(default=None, repr=False, compare=False)

    def known_by(self, look_up: Callable[[Sequence[str]], Worth | None]) -> Answered:
        """The same, which asks for its worth when somebody looks: called with the names."""
        return replace(self, _look_up=look_up)

    @property
    def worth(self) -> Worth | None:
        """What these members were worth on validation data; None where they have not been asked on any."""
        return None if self._look_up is None else self._look_up(self.names)

    @property
    def kept(self) -> bool | None:
        """Whether the answer was there at the deadline; None where there was none."""
        return None if self.deadline_s is None else self.at_s <= self.deadline_s

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of it for people, a sentence each; failures first."""
        told = []
        failed = [missing for missing in self.missing if missing.why == "failed"]
        if failed:
            told.append(f"LEFT OUT, since they failed: {'; '.join(f'{one.name} ({one.told})' for one in failed)}.")
        of = len(self.names) + len(self.missing)
        late = [str(missing) for missing in self.missing if missing.why != "failed"]
        told.append(
            f"{len(self.names)} of {of} members answered: {', '.join(self.names)}."
            + (f" Missing: {', '.join(late)}." if late else "")
        )
        if self.deadline_s is not None:
            told.append(self._of_the_deadline(self.deadline_s))
        if self.cut_rows and self.rows:
            told.append(
                f"{self.cut_rows} of {self.rows} rows were not sure yet, and have the answer of the members until then."
            )
        waited = [name for name in self.busy if name in self.names]
        if waited:
            told.append(f"The lane of {', '.join(waited)} was still at an earlier run when this one began.")
        if self.ended == "decided":
            told.append("The vote was decided: no missing member could have changed a row.")
        if self.ended == "confident":
            told.append(self._of_confidence())
        worth = self.worth if self.missing else None
        if worth is not None:
            told.append(f"Members that answered: {worth}.")
        return tuple(told)

    def _of_the_deadline(self, deadline_s: float) -> str:
        apart = format_seconds(abs(self.at_s - deadline_s))
        when = f"{apart} before" if self.at_s <= deadline_s else f"{apart} AFTER"
        enough = ", when enough members were done" if self.ended == "enough" else ""
        return f"The answer was there {when} the deadline of {format_seconds(deadline_s)}{enough}."

    def _of_confidence(self) -> str:
        told = f"The least sure row has a probability of {format_percent(self.confidence)}"
        if self.certain_rows is None or self.rows is None:
            return f"{told}; missing members would have changed probabilities, and may have changed classes."
        return (
            f"{told}; in {self.certain_rows} of {self.rows} rows no missing member could have changed the class, "
            "in the others that is likely and not certain."
        )

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        worth = self.worth
        return {**to_dict(self), "kept": self.kept, "worth": None if worth is None else to_dict(worth)}


def too_few_in_time(
    enough: int, of: int, due: Deadline, done: Sequence[str], missing: Sequence[Missing], *, earlier: str = ""
) -> DeadlineMissed:
    """The error of a call of which too few members are done when its answer is due."""
    by_then = f"{len(done)} ({', '.join(done)})" if done else "none"
    return DeadlineMissed(
        f"At least {enough} of {of} members are done within {format_seconds(due.allowed_s)}",
        given=f"{earlier}{by_then} by then; missing: {', '.join(map(str, missing))}",
        hint="Allow more time, ask for fewer (at_least), or take the first that are done (otherwise='first').",
        done=tuple(done),
        missing=tuple((one.name, f"{one.why}{': ' if one.told else ''}{one.told}") for one in missing),
    )


def asked_for_more(problem: EsenError, enough: int, failed: str) -> EsenError:
    """An error of a member, which says that too few others are left whatever time there is."""
    problem.add_note(f"An answer of at least {enough} members was asked for. {failed}")
    return problem
