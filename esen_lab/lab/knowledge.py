"""What a lab knows of its sub-models on one device: points, precisions, shares with wrong answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from esen_lab.cost_model import CostModel, Experience, Quantile, fit, fit_points
from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble
from esen_lab.lanes.settings import Settings
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import Step, is_plain
from esen_lab.profiler import Failure, Point, Profile, ProfileStore, stored_curves
from esen_lab.profiler.records import curves_of, doubts_about, under_other_switches, wrong_shares
from esen_lab.run.numerics import CheckedAnswers
from esen_lab.studies import DerivedPoints, PrecisionTable


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Knowledge:
    """What is known of sub-models on one device. It never changes: what is learned makes another one.

    All of it holds for a sub-model as it was registered: one that changed is known anew.

    Attributes:
        points: What has been measured, or None; those of sub-models that have gone or changed may be among them.
        found_wrong: By (sub-model, fingerprint): the (backend, share) at which checks of plans found wrong answers; for
            groups and parts, (`Step.kind`, share).
        precision: What was found when another precision was asked for; None: fp32.
        derived: What has been measured of groups and parts.
    """

    points: Profile | None = None
    found_wrong: Mapping[tuple[str, str], frozenset[tuple[str, int]]] = field(default_factory=dict)
    precision: PrecisionTable | None = None
    derived: DerivedPoints = field(default_factory=DerivedPoints)

    # --- points --------------------------------------------------------------------------------------------------

    def measured(self, ensemble: Ensemble) -> Profile | None:
        """The points that fit the registered sub-models, or None."""
        points = self.points
        if points is None:
            return None
        fitting = {name: ensemble.fingerprints[name] for name in _fitting(points, ensemble)}
        # In the same order, too: it is that of all that is made from the points.
        return points if list(fitting.items()) == list(points.fingerprints.items()) else _merged([points], ensemble)

    def merged(self, ensemble: Ensemble, found: Profile | None) -> Knowledge:
        """With what was found; points that do not fit the registered sub-models are let go of."""
        if found is None:
            return self
        parts = [found] if self.points in (None, found) else [self.points, found]
        return replace(self, points=_merged([part for part in parts if part is not None], ensemble))

    def values_changed(self, name: str, before: str, after: str) -> Knowledge:
        """Keep what is known of a sub-model whose weights have other values now: it takes the same time.

        Args:
            name: The sub-model.
            before: Its fingerprint until now.
            after: Its fingerprint from now on.
        """
        points = self.points
        if points is None or points.fingerprints.get(name) != before:
            return self
        return replace(self, points=replace(points, fingerprints={**points.fingerprints, name: after}))

    def doubts(
        self, plan: Plan, ensemble: Ensemble, device: Device, settings: Settings | None = None
    ) -> tuple[str, ...]:
        """What is known against the measurements behind a plan made for this device: load, age, a wrong clock.

        And that other switches were set, where it is told what is set now.
        """
        profile = self.measured(ensemble)
        made_on = plan.device.get("name")
        if profile is None or plan.jct_s is None or made_on not in (None, device.identity.name):
            return ()
        points = [
            point
            for lane in plan.lanes
            for name, active, backend in zip(lane.members, lane.active_units, lane.backends, strict=True)
            for point in _nearest(self._points_of(name, backend, profile, ensemble), active)
        ]
        if settings is None or device.identity.simulated:
            return doubts_about(points)
        return (*under_other_switches(points, settings.unusual), *doubts_about(points))

    def _points_of(self, name: str, backend: str, profile: Profile, ensemble: Ensemble) -> Sequence[Point]:
        """The points of a step of a lane."""
        if is_plain(name):
            return profile.of(name, backend) or profile.of(name)
        derived = self.derived.of(name, ensemble)
        return () if derived is None else derived.points

    def derived_model(self, name: str, ensemble: Ensemble, units: int, quantile: Quantile) -> CostModel | None:
        """The cost model of a group or a part (see `Step`), or None where none of its size was measured."""
        if not self.derived.profiles:
            return None
        step = Step.of(name)
        # One of a size stands for all: what is wrong of one is not trusted of the others.
        wrong = {share for pairs in self.wrong(ensemble).values() for found_as, share in pairs if found_as == step.kind}
        return self.derived.model(name, ensemble, units, quantile, wrong)

    # --- wrong answers -------------------------------------------------------------------------------------------

    def wrong(self, ensemble: Ensemble) -> dict[str, frozenset[tuple[str, int]]]:
        """For each sub-model, the (backend, share) at which checks of plans found it wrong."""
        return {key[0]: self.found_wrong.get(key, frozenset()) for key in ensemble.fingerprints.items()}

    def wrong_in(self, plan: Plan, ensemble: Ensemble) -> list[tuple[str, int]]:
        """The (sub-model, share) of a plan at which a check or a profile found wrong answers."""
        profile = self.measured(ensemble)
        profiled = {} if profile is None else wrong_shares(profile.failures)
        checked = self.wrong(ensemble)
        found = []
        for lane in plan.lanes:
            for name, way in zip(lane.members, lane.backends, strict=True):
                if is_plain(name):
                    wrong = _shares(checked.get(name, ()), way) | profiled.get(name, set())
                else:
                    step = Step.of(name)
                    pairs = {pair for member in step.members for pair in checked.get(member, ())}
                    derived = self.derived.of(name, ensemble)
                    failed = {} if derived is None else wrong_shares(derived.failures)
                    wrong = {share for found_as, share in pairs if found_as == step.kind}.union(*failed.values())
                if lane.units in wrong:
                    found.append((name, lane.units))
        return found

    def with_wrong(self, rows: Iterable[CheckedAnswers], fingerprints: Mapping[str, str]) -> Knowledge:
        """With what a check of a plan found wrong."""
        wrong = dict(self.found_wrong)
        for row in rows:
            key = row.name, fingerprints[row.name]
            wrong[key] = wrong.get(key, frozenset()) | {(row.backend, row.units)}
        return replace(self, found_wrong=wrong)

    def without_wrong(self, ensemble: Ensemble, names: Iterable[str]) -> Knowledge:
        """Without what checks of plans found wrong of these sub-models."""
        keys = {(name, ensemble.get(name).fingerprint) for name in names}
        return replace(self, found_wrong={key: pairs for key, pairs in self.found_wrong.items() if key not in keys})

    def shares_found_wrong(self, ensemble: Ensemble, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """For each of these sub-models that checks of plans found wrong, at which shares."""
        found = {name: self.found_wrong.get((name, ensemble.get(name).fingerprint), ()) for name in names}
        return {name: tuple(sorted({share for _, share in pairs})) for name, pairs in found.items() if pairs}


class Fits:
    """Cost models from points, with what the store knows of the device: that is read once for the same points."""

    def __init__(self) -> None:
        self._last: tuple[Profile | None, Experience | None] = (None, None)  # points, and what was known for them

    def fit(
        self,
        profile: Profile,
        device: Device,
        store: ProfileStore,
        *,
        quantile: Quantile,
        wrong: Mapping[str, frozenset[tuple[str, int]]],
        backends: Mapping[str, Sequence[str]],
    ) -> dict[str, CostModel]:
        """Cost models of every sub-model; see `esen_lab.cost_model.fit`."""
        known = None
        if min(len(profile.of(name)) for name in profile.names) < device.units:  # something is left to predict
            asked, known = self._last
            if asked != profile:
                known = Experience(stored_curves(device, store))
                self._last = (profile, known)
        return fit(profile, device.units, quantile=quantile, experience=known, wrong=wrong, backends=backends)


def _shares(found: Iterable[tuple[str, int]], way: str) -> set[int]:
    """The shares that wrong answers rule out for a way of execution: eager ones that are wrong do for every way."""
    return {share for found_as, share in found if found_as in ("eager", way)}


def _nearest(points: Sequence[Point], units: int) -> Sequence[Point]:
    """The point at a share; else its neighbours, which a prediction there comes from."""
    at = [point for point in points if point.units == units]
    if at:
        return at
    below = [point for point in points if point.units < units]
    above = [point for point in points if point.units > units]
    return (*below[-1:], *above[: 1 if below else 2])


def fit_so_far(points: Sequence[Point], ensemble: Ensemble, units: int) -> dict[str, CostModel]:
    """Cost models of those registered sub-models that two points or more are known of, executed eagerly."""
    curves = curves_of(point for point in points if point.name in ensemble.names)
    return {name: fit_points(name, curve, units) for name, curve in curves.items() if len(curve) > 1}


def _fitting(profile: Profile, ensemble: Ensemble) -> list[str]:
    """Of which members it measured what a run does: the same network, on what the ensemble's example gives it."""
    inputs = ensemble.inputs
    return [
        name
        for name, fingerprint in ensemble.fingerprints.items()
        if profile.fingerprints.get(name) == fingerprint and profile.examples.get(name, "") in ("", inputs[name])
    ]


def _merged(parts: Sequence[Profile], ensemble: Ensemble) -> Profile:
    """Several profiles as one, without what was measured of sub-models that have changed or gone.

    Nor what was measured on another example than the ensemble has now.
    """
    fingerprints = ensemble.fingerprints
    points, failures, examples = _by_share([(part, _fitting(part, ensemble)) for part in parts])
    order = {name: index for index, name in enumerate(ensemble.names)}
    ordered = [points[key] for key in sorted(points, key=lambda key: (order[key[0]], *key[1:]))]
    refusals = {
        (refusal.name, refusal.backend): refusal
        for part in parts
        for refusal in part.refusals
        if part.fingerprints.get(refusal.name) == fingerprints.get(refusal.name, "")
    }
    return replace(
        parts[-1],
        points=tuple(point for point in ordered if point.backend == "eager"),
        failures=tuple(failure for key, failure in failures.items() if (key[0], "eager", key[1]) not in points),
        examples=examples,
        fingerprints={name: fingerprints[name] for name in examples},
        backend_points=tuple(point for point in ordered if point.backend != "eager"),
        refusals=tuple(refusals.values()),
    )


def _by_share(
    parts: Sequence[tuple[Profile, Sequence[str]]],
) -> tuple[dict[tuple[str, str, int], Point], dict[tuple[str, int], Failure], dict[str, str]]:
    """Points by (sub-model, backend, share), failures by (sub-model, share), examples.

    Of each part, of the sub-models named beside it; later parts count for more.
    """
    points: dict[tuple[str, str, int], Point] = {}
    failures: dict[tuple[str, int], Failure] = {}
    examples: dict[str, str] = {}
    for part, same in parts:
        examples |= {name: part.examples.get(name, "") for name in same}
        for point in (point for point in (*part.points, *part.backend_points) if point.name in same):
            points[point.name, point.backend, point.units] = point
            if point.backend == "eager":
                failures.pop((point.name, point.units), None)
        for failure in (failure for failure in part.failures if failure.name in same):
            failures[failure.name, failure.units] = failure
            if failure.wrong_answers:  # whatever it took before
                points.pop((failure.name, "eager", failure.units), None)
    return points, failures, examples
