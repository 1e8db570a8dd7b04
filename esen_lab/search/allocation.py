"""The noun of searching: the lanes that were found, what they promise, and what is proven about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from esen_lab.showing import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation(Shown):
    """Lanes for one ensemble on one device, with how good they are known to be.

    Two bounds, which are not to be confused:

    Attributes:
        lanes: (units, names) per lane, widest first; names in the order they were given. Every sub-model is in
            exactly one lane; the lanes' units sum to at most what the device (or the limit in force) has.
        active_units: Per lane and member, the share of at most the lane's units that the member should use: its own
            fastest one (fewer units where its table says that fewer are faster).
        jct_s: Predicted job completion time: over lanes, the largest sum of the members' latencies, in seconds.
        measured_s: Its median measured JCT, where that was the objective; None where only predicted.
        bound_s: No *plan of lanes* that keeps the limits can be faster than this, under the cost model: proven. Where
            `proven`, it is the optimum itself.
        schedule_bound_s: No *schedule whatsoever* can be faster, lanes or not, each sub-model run once at one share
            of its choice: the larger of the area and the critical-path bound. At most `bound_s`.
        gap: jct_s / bound_s - 1.
        proven: Whether `bound_s` is known to be the optimum over plans of lanes, to a relative 1e-9. `jct_s` then
            equals it, or exceeds it by what the notes state where sequential was preferred.
        searcher: Who found it.
        evaluations: How many candidate plans (or, for a proof, deadlines) were examined.
        elapsed_s: Wall time of the search in seconds.
        trace: (elapsed_s, jct_s, evaluations so far) each time a better plan was found; measured JCTs where those are
            the objective.
        notes: Honest remarks for the reader.
    """

    lanes: tuple[tuple[int, tuple[str, ...]], ...]
    active_units: tuple[tuple[int, ...], ...]
    jct_s: float
    bound_s: float
    schedule_bound_s: float
    gap: float
    proven: bool
    searcher: str
    evaluations: int
    elapsed_s: float
    trace: tuple[tuple[float, float, int], ...]
    notes: tuple[str, ...] = ()
    measured_s: float | None = None

    @property
    def is_sequential(self) -> bool:
        """Whether everything runs in one lane."""
        return len(self.lanes) == 1

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "lanes": [[units, list(names)] for units, names in self.lanes],
            "active_units": [list(active) for active in self.active_units],
            "jct_s": self.jct_s,
            "measured_s": self.measured_s,
            "bound_s": self.bound_s,
            "schedule_bound_s": self.schedule_bound_s,
            "gap": self.gap,
            "proven": self.proven,
            "searcher": self.searcher,
            "evaluations": self.evaluations,
            "elapsed_s": self.elapsed_s,
            "trace": [list(step) for step in self.trace],
            "notes": list(self.notes),
        }
