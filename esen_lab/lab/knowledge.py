"""What a lab knows of its sub-models on one device: points, ways of execution, shares with wrong answers."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from esen_lab.fitting import CostModel, Experience, Quantile, fit, fit_points
from esen_lab.profiling import Profile, ProfileStore, stored_curves
from esen_lab.profiling.records import wrong_shares

if TYPE_CHECKING:
    from esen_lab.devices import Device
    from esen_lab.ensemble import Ensemble
    from esen_lab.planning import Plan
    from esen_lab.profiling import Point
    from esen_lab.profiling.mechanisms import MechanismTable
    from esen_lab.runtime.gate import Gated


class Knowledge:
    """What is known of sub-models on one device; safe to ask and to tell from several threads.

    All of it holds for a sub-model as it was registered: one that changed is known anew.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the innermost one: nothing that takes the lab's is called under it
        self._measured: Profile | None = None
        self._experience: tuple[Profile | None, Experience | None] = (None, None)  # and the points it was asked for
        # (sub-model, fingerprint) -> how it is executed, at what part of the eager time, and at which share that was
        self._ways: dict[tuple[str, str], tuple[str, float, int]] = {}
        # (sub-model, fingerprint) -> (way of execution, share) at which checks of plans found wrong answers
        self._wrong: dict[tuple[str, str], set[tuple[str, int]]] = {}

    # --- points --------------------------------------------------------------------------------------------------

    @property
    def measured(self) -> Profile | None:
        """All points that fitted the sub-models of the last `merge`, or None."""
        return self._measured

    def merge(self, ensemble: Ensemble, found: Profile | None = None) -> Profile | None:
        """Take in what was found, and let go of points that do not fit the registered sub-models; returns the rest."""
        with self._lock:
            parts = [] if self._measured is None else [self._measured]
            if found is not None and found not in parts:
                parts.append(found)
            if parts:
                self._measured = _merged(parts, ensemble)
            return self._measured

    def fit(
        self, profile: Profile, ensemble: Ensemble, device: Device, store: ProfileStore, quantile: Quantile
    ) -> dict[str, CostModel]:
        """Cost models from points of every sub-model, executed eagerly; see `esen_lab.fitting.fit`."""
        known = self._complete_curves(profile, device, store)
        return fit(profile, device.units, quantile=quantile, known=known, wrong=self.wrong(ensemble))

    def _complete_curves(self, profile: Profile, device: Device, store: ProfileStore) -> Experience | None:
        """What the store knows of the device, where something is left to predict."""
        if min(len(profile.of(name)) for name in profile.names) >= device.units:
            return None
        with self._lock:
            asked, known = self._experience
            if asked != profile:
                known = Experience(stored_curves(device, store))
                self._experience = (profile, known)
        return known

    # --- ways of execution ---------------------------------------------------------------------------------------

    def ways(self, ensemble: Ensemble) -> dict[str, tuple[str, float, int]]:
        """For sub-models that are not executed eagerly: how, at what part of the eager time, and where measured."""
        with self._lock:
            known = {key[0]: self._ways.get(key) for key in ensemble.fingerprints.items()}
        return {name: way for name, way in known.items() if way is not None}

    def executed(self, models: Mapping[str, CostModel], ensemble: Ensemble) -> dict[str, CostModel]:
        """Cost models of sub-models as they are executed: what plans are made from."""
        ways = self.ways(ensemble)
        return {name: model.executed(*ways[name]) if name in ways else model for name, model in models.items()}

    def choose(self, found: MechanismTable, fingerprints: Mapping[str, str], units: Mapping[str, int]) -> None:
        """Keep the ways that were measured to be the fastest; `units` are the shares they were measured at."""
        with self._lock:
            for name, way in found.chosen.items():
                key = name, fingerprints[name]
                if way == "eager":
                    self._ways.pop(key, None)
                else:
                    self._ways[key] = (way, found.part(name), units[name])

    # --- wrong answers -------------------------------------------------------------------------------------------

    def wrong(self, ensemble: Ensemble) -> dict[str, set[int]]:
        """For each sub-model, the shares at which checks of plans found it wrong, executed as it is now or eagerly."""
        ways = self.ways(ensemble)
        return {
            name: _shares(found, ways[name][0] if name in ways else "eager")
            for name, found in self._found_wrong(ensemble).items()
        }

    def wrong_in(self, plan: Plan, ensemble: Ensemble) -> list[tuple[str, int]]:
        """The (sub-model, share) of a plan at which a check or a profile found wrong answers."""
        profile = self._measured
        profiled = {} if profile is None else wrong_shares(profile.failures)
        checked = self._found_wrong(ensemble)
        return [
            (name, lane.units)
            for lane in plan.lanes
            for name, way in zip(lane.members, lane.mechanisms, strict=True)
            if lane.units in _shares(checked[name], way) | profiled.get(name, set())
        ]

    def _found_wrong(self, ensemble: Ensemble) -> dict[str, set[tuple[str, int]]]:
        with self._lock:
            return {key[0]: set(self._wrong.get(key, ())) for key in ensemble.fingerprints.items()}

    def keep_wrong(self, rows: Iterable[Gated], fingerprints: Mapping[str, str]) -> None:
        """Keep what a check of a plan found wrong."""
        with self._lock:
            for row in rows:
                self._wrong.setdefault((row.name, fingerprints[row.name]), set()).add((row.mechanism, row.units))

    def forget_wrong(self, ensemble: Ensemble, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Forget what checks of plans found wrong of these sub-models; returns the shares, where there were any."""
        keys = [(name, ensemble.get(name).fingerprint) for name in names]
        with self._lock:
            found = {key[0]: self._wrong.pop(key, set()) for key in keys}
        return {name: tuple(sorted({share for _, share in pairs})) for name, pairs in found.items() if pairs}


def _shares(found: Iterable[tuple[str, int]], way: str) -> set[int]:
    """The shares that wrong answers rule out for a way of execution: eager ones that are wrong do for every way."""
    return {share for found_as, share in found if found_as in ("eager", way)}


def fit_so_far(points: Sequence[Point], ensemble: Ensemble, units: int) -> dict[str, CostModel]:
    """Cost models of those registered sub-models that two points or more are known of."""
    known: dict[str, dict[int, float]] = {}
    for point in points:
        if point.name in ensemble.names:
            known.setdefault(point.name, {})[point.units] = point.median_s
    return {name: fit_points(name, at, units) for name, at in known.items() if len(at) > 1}


def _merged(parts: Sequence[Profile], ensemble: Ensemble) -> Profile:
    """Several profiles as one, without what was measured of sub-models that have changed or gone."""
    fingerprints = ensemble.fingerprints
    points, failures, examples = _by_share(parts, fingerprints)
    order = {name: index for index, name in enumerate(ensemble.names)}
    return replace(
        parts[-1],
        points=tuple(points[key] for key in sorted(points, key=lambda key: (order[key[0]], key[1]))),
        failures=tuple(failure for key, failure in failures.items() if key not in points),
        examples=examples,
        fingerprints={name: fingerprints[name] for name in examples},
    )


def _by_share(
    parts: Sequence[Profile], fingerprints: Mapping[str, str]
) -> tuple[dict[tuple[str, int], Any], dict[tuple[str, int], Any], dict[str, str]]:
    """Points and failures by (sub-model, share), and examples, of those sub-models that have not changed since.

    Later parts count for more; points measured with another example than the last one are left out.
    """
    points: dict[tuple[str, int], Any] = {}
    failures: dict[tuple[str, int], Any] = {}
    examples: dict[str, str] = {}
    for part in parts:
        for name, fingerprint in fingerprints.items():
            if part.fingerprints.get(name) != fingerprint:
                continue
            example = part.examples.get(name, "")
            if name in examples and examples[name] != example:
                points = {key: value for key, value in points.items() if key[0] != name}
            examples[name] = example
            for point in part.of(name):
                points[name, point.units] = point
                failures.pop((name, point.units), None)
            for failure in part.failures:
                if failure.name == name:
                    failures[name, failure.units] = failure
                    if failure.wrong_answers:  # whatever it took before
                        points.pop((name, failure.units), None)
    return points, failures, examples
