"""The noun of fitting: the cost model of one sub-model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from esen_lab.showing import Shown
from esen_lab.units import format_percent

Method: TypeAlias = Literal["table", "interpolated", "parametric", "constant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel(Shown):
    """The latency of one sub-model as a function of its lane's share.

    More units are never slower here: a lane may use fewer units than it has, so the latency at k units is the least
    over all shares up to k (the running minimum), and `active_units` says which share attains it.

    Attributes:
        name: The sub-model.
        latency_s: Predicted seconds of one step in a lane of k units, at index k - 1. Never increasing, save after
            shares to avoid at the very beginning.
        active_units: The share of at most k units that attains `latency_s[k - 1]`, at index k - 1; of several, one
            that was really measured where there is such a one, and the largest.
        method: "table": every share was measured and nothing is predicted. "interpolated": between measured shares.
            "parametric": halfway between a + b / share and the lines through two or three points. "constant": one
            point, so no knowledge of how the share matters.
        error: Mean relative error of predicting each measured point between the smallest and the largest share from
            all the others (leave-one-out); where complete curves of the device correct the prediction, that of
            predicting those, each by the others. None where that is not known: fewer than three points; or not asked:
            a table predicts nothing.
        points: What it was fitted to: (units, seconds), by ascending units.
        notes: What a reader should know about it.
        avoid: Shares at which its answers were wrong: no lane that it is in may have one, whatever is predicted there.
        mechanism: How it is executed: "eager" as it was profiled, or as `executed` says.
    """

    name: str
    latency_s: tuple[float, ...]
    active_units: tuple[int, ...]
    method: Method
    error: float | None
    points: tuple[tuple[int, float], ...]
    notes: tuple[str, ...] = ()
    avoid: tuple[int, ...] = ()
    mechanism: str = "eager"

    def executed(self, mechanism: str, part: float, units: int) -> CostModel:
        """The model of the same sub-model executed in another way, which was measured at one share.

        Args:
            mechanism: The way.
            part: Its time as a part of the eager one, above 0.
            units: The share at which that was measured; it is taken to be so at every share.
        """
        told = f"by {mechanism}: {format_percent(part)} of its eager time, as measured at a share of {units}"
        return replace(
            self,
            latency_s=tuple(part * latency for latency in self.latency_s),
            notes=(*self.notes, told),
            mechanism=mechanism,
        )

    def table(self, units: int) -> tuple[float | None, ...]:
        """Seconds at 1..units units as searches take them: None at shares to avoid."""
        return tuple(None if k in self.avoid else t for k, t in enumerate(self.latency_s[:units], start=1))

    @property
    def units(self) -> int:
        """Up to how many units it predicts."""
        return len(self.latency_s)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name,
            "latency_s": list(self.latency_s),
            "active_units": list(self.active_units),
            "method": self.method,
            "error": self.error,
            "points": [list(point) for point in self.points],
            "notes": list(self.notes),
            "avoid": list(self.avoid),
            "mechanism": self.mechanism,
        }
