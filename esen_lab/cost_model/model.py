"""The cost model of one sub-model: its latency at every share, with its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from esen_lab.common.display import Shown
from esen_lab.common.units import format_units
from esen_lab.files.schemas import plain

EXTRAPOLATED = "extrapolated"
FAR_APART = "interpolated far"
"""What predictions are called that rest on no measurement nearby."""
FAR = 4.0
"""Between measured shares of which one is more than so many times the other, the curve is not known."""
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
        points: What it was fitted to: (units, seconds) of the fastest backend at each measured share, by ascending
            units.
        notes: What a reader should know about it.
        avoid: Shares at which its answers were wrong: no lane that it is in may have one, whatever is predicted there.
        backends: What executes it in a lane of k units, at index k - 1: of those measured, the fastest; () is eager at
            every share.
    """

    name: str
    latency_s: tuple[float, ...]
    active_units: tuple[int, ...]
    method: Method
    error: float | None
    points: tuple[tuple[int, float], ...]
    notes: tuple[str, ...] = ()
    avoid: tuple[int, ...] = ()
    backends: tuple[str, ...] = ()

    @property
    def by(self) -> str:
        """Which backends execute it where, in words: "by openvino with 2 units"; "" where eager does everywhere."""
        parts = []
        for backend in dict.fromkeys(name for name in self.backends if name != "eager"):
            shares = [units for units, name in enumerate(self.backends, start=1) if name == backend]
            if len(shares) == len(self.backends):
                return f"by {backend}"
            span = format_units(shares[0], "unit") if len(shares) == 1 else f"{shares[0]} to {shares[-1]} units"
            parts.append(f"by {backend} with {span}")
        return "; ".join(parts)

    def backend(self, units: int) -> str:
        """What executes it in a lane of so many units."""
        return self.backends[units - 1] if self.backends else "eager"

    def table(self, units: int) -> tuple[float | None, ...]:
        """Seconds at 1..units units as searches take them: None at shares to avoid."""
        return tuple(None if k in self.avoid else t for k, t in enumerate(self.latency_s[:units], start=1))

    def unmeasured(self, units: int) -> str:
        """What the prediction for a lane of so many units is called where no measurement is near: "" where one is.

        `EXTRAPOLATED` outside of the measured shares, `FAR_APART` between two that are far from each other. A lane may
        use fewer units than it has (`active_units`): what counts is the share that the prediction is of.
        """
        shares = [share for share, _ in self.points]
        if units > shares[-1]:
            return EXTRAPOLATED
        active = self.active_units[units - 1]
        if active in shares:
            return ""
        if active < shares[0]:
            return EXTRAPOLATED
        below = max(share for share in shares if share < active)
        above = min(share for share in shares if share > active)
        return FAR_APART if above > FAR * below else ""

    @property
    def units(self) -> int:
        """Up to how many units it predicts."""
        return len(self.latency_s)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**plain(self), "unmeasured": [self.unmeasured(units) for units in range(1, self.units + 1)]}
