"""What cost models say of drafts: seconds, bounds, shares with wrong answers; and a draft as a plan."""

from __future__ import annotations

from collections.abc import Mapping

from esen_lab.common.units import format_units
from esen_lab.cost_model import CostModel
from esen_lab.errors import UsageError
from esen_lab.planner.allocation import under_models
from esen_lab.planner.editor.draft import Draft, DraftLane, Forecast, Tables, bound_for, forecast
from esen_lab.planner.editor.editor_state import EditedLane
from esen_lab.planner.editor.moves import most_units
from esen_lab.planner.plan import Lane, Plan


class Predictions:
    """Predicts drafts. Not locked: its owner is.

    Raises:
        UsageError: There is no model, or one predicts for fewer units.
    """

    def __init__(self, models: Mapping[str, CostModel], units: int) -> None:
        short = [name for name, model in models.items() if model.units < units]
        if not models or short:
            raise UsageError(
                f"PlanEditor needs cost models that predict up to {units} units",
                given=f"{models[short[0]].units} for {short[0]!r}" if short else "none",
                hint="Profile first, and fit up to the device's units.",
            )
        self.models = dict(models)
        self.tables: Tables = {name: model.latency_s[:units] for name, model in models.items()}
        self._units = units
        self._bounds: dict[int, float] = {}
        self._proven_s = 0.0

    def draft_of(self, plan: Plan | None) -> Draft:
        """A plan as a draft; everything in one lane where it is none of these sub-models and units."""
        if plan is None or set(plan.steps) != set(self.models) or plan.units > self._units:
            whole = DraftLane(units=self._units, members=tuple(self.models))
            return Draft(lanes=(whole,), units=self._units)
        lanes = tuple(DraftLane(units=lane.units, members=lane.members) for lane in plan.lanes)
        return Draft(lanes=lanes, units=self._units, oversubscribe=plan.oversubscribed)

    def forecast(self, draft: Draft) -> Forecast:
        """What the draft promises."""
        return forecast(draft, self.tables, self._bound_s(draft))

    def lanes(self, draft: Draft, promised: Forecast) -> tuple[EditedLane, ...]:
        """The lanes of the draft with what is promised of them."""
        return tuple(
            EditedLane(
                units=lane.units,
                members=lane.members,
                pinned=lane.pinned,
                predicted_s=seconds,
                member_s=tuple(self.tables[name][lane.units - 1] for name in lane.members),
                unmeasured=tuple(self.models[name].unmeasured(lane.units) for name in lane.members),
                backends=tuple(self.models[name].backend(lane.units) for name in lane.members),
                most_units=most_units(draft, at),
            )
            for at, (lane, seconds) in enumerate(zip(draft.lanes, promised.lane_s, strict=True))
        )

    def plan(self, draft: Draft) -> Plan:
        """The draft as a plan, with its predictions."""
        promised = self.forecast(draft)
        lanes = tuple(Lane(units=lane.units, members=lane.members) for lane in draft.lanes)
        plan = Plan(lanes=lanes, units=draft.units, jct_s=promised.jct_s, bound_s=promised.bound_s)
        return under_models(plan, self.models)

    def warning(self, draft: Draft, unit: str) -> str:
        """Which lanes have a share at which answers were wrong, for people; "" where none has."""
        wrong = [
            f"{name} with {format_units(lane.units, unit)}"
            for lane in draft.lanes
            for name in lane.members
            if lane.units in self.models[name].avoid
        ]
        return f"WRONG ANSWERS were found for {', '.join(wrong)}: give it another share." if wrong else ""

    def guessed(self, draft: Draft, unit: str) -> str:
        """Which predictions rest on no measurement nearby, for people; "" where all are measured."""
        told = []
        for lane in draft.lanes:
            for name in lane.members:
                model = self.models[name]
                if model.unmeasured(lane.units):
                    shares = [share for share, _ in model.points]
                    known = format_units(shares[0], unit)
                    known += f" to {format_units(shares[-1], unit)}" if len(shares) > 1 else " only"
                    told.append(f"{name} with {format_units(lane.units, unit)} (measured: {known})")
        return ", ".join(told)

    @property
    def proven_s(self) -> float:
        """What searches proved: no plan of the device's own units is faster; 0 where nothing is proven."""
        return self._proven_s

    def prove(self, models: Mapping[str, CostModel], bound_s: float) -> bool:
        """Take in what a search of all plans of one device's units proved; whether that is news.

        Args:
            models: What it planned with: it counts where these are the same.
            bound_s: No plan is faster.
        """
        # What is proven for plans that keep off some shares does not hold for a draft that need not.
        holds = dict(models) == self.models and not any(model.avoid for model in models.values())
        if not holds or bound_s <= self._proven_s:
            return False
        self._proven_s = bound_s
        return True

    def _bound_s(self, draft: Draft) -> float:
        total = max(draft.total_units, draft.units)
        if total not in self._bounds:
            self._bounds[total] = bound_for(self.tables, draft.units, total)
        return max(self._bounds[total], self._proven_s if total == draft.units else 0.0)
