"""What another precision does to the answers of an ensemble, as records.

A variant is a backend with a precision: "openvino@bf16". Agreement is the part of the samples whose answer stays: with
classes their likeliest one (the top-1), else that every number of the answer is off by no more than the error allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.records import to_dict
from esen_lab.common.units import format_percent, format_table


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionPoint:
    """One sub-model by one backend in another precision.

    Attributes:
        name: The sub-model.
        backend: The backend and the precision, such as "openvino@bf16".
        error: The largest error of its answers, relative to the largest value; None where there were none.
        agreement: The part of the samples for which its answer stays; None without data.
        together: The part for which the ensemble's answer stays when it alone is so executed; None without data.
        accuracy: The part of the samples whose top-1 is the label; None without labels, or classes.
        why: Why it is not taken; "" where it may be.
    """

    name: str
    backend: str
    error: float | None = None
    agreement: float | None = None
    together: float | None = None
    accuracy: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionTable(Shown):
    """What another precision does to the answers of an ensemble, and which variants may be taken.

    Attributes:
        precision: The precision that was asked for.
        points: Every sub-model with every variant, a sub-model's points side by side.
        agree: The agreement that is asked for, in 0..1; None without data.
        error: The largest error that is allowed, relative to the largest value of an answer.
        samples: How many samples were compared.
        by_class: Whether agreement is that of the top-1.
        together: The least agreement of the ensemble in any combination of the variants that may be taken.
        combinations: How many combinations were looked at, and how many there are.
        accuracy: For each sub-model that of its own precision, None where its answers have no classes; empty without
            labels.
        ensemble_accuracy: Of the ensemble in its own precision, and in the combination of least agreement; None
            without labels.
        fingerprints: Of the sub-models that were looked at.
        notes: What else the reader should know.
    """

    precision: str
    points: tuple[PrecisionPoint, ...]
    agree: float | None
    error: float
    samples: int = 0
    by_class: bool = True
    together: float | None = None
    combinations: tuple[int, int] = (0, 0)
    accuracy: Mapping[str, float | None] = field(default_factory=dict)
    ensemble_accuracy: tuple[float | None, float | None] | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def of(self, name: str) -> tuple[PrecisionPoint, ...]:
        """The points of one sub-model."""
        return tuple(point for point in self.points if point.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        """The sub-models."""
        return tuple(dict.fromkeys(point.name for point in self.points))

    @property
    def allowed(self) -> Mapping[str, tuple[str, ...]]:
        """For each sub-model the variants that may be taken."""
        return {name: tuple(point.backend for point in self.of(name) if not point.why) for name in self.names}

    @property
    def what_stays(self) -> str:
        """What agreement counts, in words."""
        return "top-1 as before" if self.by_class else f"off by {self.error:g} at most"

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the tables that show it."""
        stays = (self.what_stays, "of the ensemble") if self.agree is not None else ()
        accuracy = ("accuracy before", "after") if self.accuracy else ()
        return ("sub-model", "backend", "furthest off", *stays, *accuracy, "taken")

    def cells(self, point: PrecisionPoint) -> tuple[str, ...]:
        """A point as a row of `columns`."""
        stays = (share_text(point.agreement), share_text(point.together)) if self.agree is not None else ()
        before = (share_text(self.accuracy.get(point.name)), share_text(point.accuracy)) if self.accuracy else ()
        off = "-" if point.error is None else f"{point.error:.1e}"
        return (point.name, point.backend, off, *stays, *before, f"no: {point.why}" if point.why else "may be")

    @property
    def summary(self) -> str:
        """What was checked, in a line for plans."""
        if self.together is None:
            return f"Its {self.precision} was compared on the example alone: off by {self.error:g} at most is allowed."
        stays = "top-1 stays" if self.by_class else f"answer is off by {self.error:g} at most"
        return (
            f"Its {self.precision} was checked on {self.samples} samples: the ensemble's {stays} for "
            f"{share_text(self.together)} of them or more."
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """What it comes to, a line each."""
        told = []
        if self.together is not None and self.combinations[1] > 1:
            what = "top-1 is as before" if self.by_class else f"answer is off by {self.error:g} at most"
            tried, all_of_them = self.combinations
            told.append(
                f"The ensemble's {what} for {share_text(self.together)} of {self.samples} samples in the worst of "
                + (f"{tried} combinations" if tried == all_of_them else f"{tried} of {all_of_them} combinations")
                + f" of what may be taken ({share_text(self.agree)} is asked for)."
            )
        if self.ensemble_accuracy is not None:
            before, after = self.ensemble_accuracy
            told.append(f"The ensemble's accuracy there: {share_text(before)} before, {share_text(after)} after.")
        kept = [name for name, variants in self.allowed.items() if not variants]
        if kept:
            told.append(f"In their own precision: {', '.join(kept)}.")
        return (*told, *self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**to_dict(self), "allowed": {name: list(found) for name, found in self.allowed.items()}}

    def __str__(self) -> str:
        """For a terminal."""
        table = format_table(self.columns, [self.cells(point) for point in self.points])
        return "\n".join([table, *self.sentences])


def share_text(part: float | None) -> str:
    """A part of samples for people, such as "99.93 %", never rounded up to all of them; "-" where it is None."""
    if part is None:
        return "-"
    return format_percent(part) if part in (0.0, 1.0) else f"{min(100 * part, 99.99):.2f} %"
