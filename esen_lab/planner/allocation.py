"""The result of a search: its plan, and what is known and proven about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.cost_model.model import CostModel
from esen_lab.files.schemas import plain
from esen_lab.planner.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation(Shown):
    """What a search found: a plan, with how good it is known to be.

    Two bounds, which are not to be confused: `bound_s` of plans, `schedule_bound_s` of schedules.

    Attributes:
        plan: Its lanes, widest first; members in the order they were given. The shares sum to at most what the device
            (or the limit in force) has. A member's `active_units` are its own fastest share within its lane.
        schedule_bound_s: No *schedule whatsoever* can be faster, lanes or not, each sub-model run once at one share
            of its choice: the larger of the area and the critical-path bound. At most `bound_s`.
        proven: Whether `bound_s` is known to be the optimum over plans of lanes, to a relative 1e-9. `jct_s` then
            equals it, or exceeds it by what the notes state where sequential was preferred.
        evaluations: How many candidate plans (or, for a proof, deadlines) were examined.
        elapsed_s: Wall time of the search in seconds.
        trace: (elapsed_s, jct_s, evaluations so far) each time a better plan was found; measured JCTs where those are
            the objective.
    """

    plan: Plan
    schedule_bound_s: float
    proven: bool
    evaluations: int
    elapsed_s: float
    trace: tuple[tuple[float, float, int], ...]

    @property
    def lanes(self) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """The lanes of the plan at a glance: (units, names) of each."""
        return tuple((lane.units, lane.members) for lane in self.plan.lanes)

    @property
    def jct_s(self) -> float:
        """Predicted job completion time: over lanes, the largest sum of the members' latencies, in seconds."""
        assert self.plan.jct_s is not None  # a search predicts
        return self.plan.jct_s

    @property
    def bound_s(self) -> float:
        """No *plan of lanes* that keeps the limits can be faster than this, under the cost model: proven.

        Where `proven`, it is the optimum itself.
        """
        assert self.plan.bound_s is not None  # every search has one
        return self.plan.bound_s

    @property
    def gap(self) -> float:
        """jct_s / bound_s - 1; 0 where both are."""
        return self.plan.gap or 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the fields of the plan, and beside them what is known about it."""
        own = {name: value for name, value in plain(self).items() if name != "plan"}
        return {**self.plan.to_dict(), "gap": self.gap, **own}

    def under(self, models: Mapping[str, CostModel]) -> Allocation:
        """The same, its plan with what cost models say of it; see `under_models`."""
        return replace(self, plan=under_models(self.plan, models))


def under_models(plan: Plan, models: Mapping[str, CostModel]) -> Plan:
    """The same lanes with what cost models say of each member.

    That is: which of the lane's units it uses, how it is executed, its predicted latency, and whether that rests on no
    measurement nearby.

    Args:
        plan: Any lanes of one device.
        models: The cost models; a member that has none keeps what the plan says of it.
    """
    modelled = {
        name: models[name]
        for lane in plan.lanes
        for name in lane.members
        if name in models and lane.units <= models[name].units
    }
    lanes = tuple(
        replace(
            lane,
            active_units=tuple(
                modelled[name].active_units[lane.units - 1] if name in modelled else active
                for name, active in zip(lane.members, lane.active_units, strict=True)
            ),
            backends=tuple(
                modelled[name].backend(lane.units) if name in modelled and lane.mode != "vmap" else way
                for name, way in zip(lane.members, lane.backends, strict=True)
            ),
        )
        for lane in plan.lanes
    )
    share_of = {name: lane.units for lane in lanes for name in lane.members if name in modelled}
    words = {name: modelled[name].unmeasured(units) for name, units in share_of.items()}
    predicted_s = {name: modelled[name].latency_s[units - 1] for name, units in share_of.items()}
    return replace(
        plan,
        lanes=lanes,
        predicted_s={**plan.predicted_s, **predicted_s},
        unmeasured={
            **{name: word for name, word in plan.unmeasured.items() if name not in modelled},
            **{name: word for name, word in words.items() if word},
        },
    )


def remarks_of(models: Mapping[str, CostModel]) -> tuple[str, ...]:
    """What cost models say of themselves, whatever the lanes: notes for every plan that is made from them."""
    return tuple(f"{name}: {note}" for name, model in models.items() for note in model.notes if note != model.by)
