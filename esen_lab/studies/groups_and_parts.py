"""Groups and parts of an ensemble: which are worth measuring, and what is known of those that were measured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from esen_lab.common.trees import tree_spec
from esen_lab.cost_model import CostModel, Quantile, fit
from esen_lab.ensemble import Ensemble, SubModel
from esen_lab.ensemble.derived import kind_of, seconds_of, why_alone, why_not_grouped, why_not_split
from esen_lab.planner.steps import Step
from esen_lab.planner.ways import EqualSet, Split
from esen_lab.profiler import Failure, Profile
from esen_lab.run.lane_steps import submodel_of

PARTS = (2, 3, 4)
"""Into how many parts a batch is split."""
_HEAVY = 2  # so many sub-models are split at most
_LONGEST_NAME = 64  # of what is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What of an ensemble is worth measuring besides its sub-models.

    Attributes:
        submodels: Groups, and first parts of batches: one for each size.
        refused: Why others cannot be, sentences.
    """

    submodels: tuple[SubModel, ...]
    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedPoints:
    """What was measured of groups and parts, by fingerprint: that of one of a size stands for all of that size.

    Attributes:
        profiles: For each fingerprint, its points alone.
    """

    profiles: Mapping[str, Profile] = field(default_factory=dict)

    def merged(self, found: Profile, names: Collection[str]) -> DerivedPoints:
        """With what a job measured of those of its sub-models that are groups or parts.

        Args:
            found: The profile.
            names: How they are called in it.
        """
        profiles = dict(self.profiles)
        for name in names:
            fingerprint = found.fingerprints.get(name)
            if fingerprint is None:
                continue
            example = found.examples.get(name, "")
            before = profiles.get(fingerprint)
            if before is not None and example not in before.examples.values():
                before = None  # of another batch
            points = {} if before is None else {point.units: point for point in before.points}
            points |= {point.units: point for point in found.of(name)}
            failures = tuple(failure for failure in found.failures if failure.name == name)
            for failure in failures:
                if failure.wrong_answers:
                    points.pop(failure.units, None)
            profiles[fingerprint] = Profile(
                device=found.device,
                units=found.units,
                # Names differ from group to group of a size.
                points=tuple(replace(points[units], name=name) for units in sorted(points)),
                failures=failures,
                examples={name: example},
                fingerprints={name: fingerprint},
            )
        return DerivedPoints(profiles=profiles)

    def of(self, name: str, ensemble: Ensemble) -> Profile | None:
        """What was measured of groups or parts of the size of this one, which is written as steps are; None: nothing.

        Raises:
            UsageError: It cannot be made of these sub-models.
        """
        derived = submodel_of(name, ensemble)
        found = self.profiles.get(derived.fingerprint)
        looks = str(tree_spec(ensemble.as_run(derived).example))
        # Its own example may be another than a run of this ensemble gives it.
        return found if found is not None and {"", looks} & {*found.examples.values()} else None

    def model(
        self, name: str, ensemble: Ensemble, units: int, quantile: Quantile, wrong: Collection[int]
    ) -> CostModel | None:
        """The cost model of a group or part, or None where none of its size was measured.

        Args:
            name: As steps are written.
            ensemble: Its sub-models.
            units: Units of the device.
            quantile: What to plan with.
            wrong: Shares at which checks of plans found it wrong.
        """
        profile = self.of(name, ensemble)
        if profile is None or not profile.points or profile.units != units:
            return None
        [measured] = profile.fingerprints
        ruled_out = {
            share: Failure(name=measured, units=share, message="wrong answers", wrong_answers=True) for share in wrong
        }
        points = tuple(point for point in profile.points if point.units not in ruled_out)
        if not points:
            return None
        known = replace(profile, points=points, failures=(*profile.failures, *ruled_out.values()))
        return replace(fit(known, units, quantile=quantile)[measured], name=name)


def equal_sets(ensemble: Ensemble) -> list[tuple[str, ...]]:
    """The names of sub-models that may be one group, as sets of two or more, in the order of the ensemble."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for submodel in ensemble.submodels:
        if not why_alone(submodel) and submodel.traits.grad != "on":
            kinds.setdefault(kind_of(submodel), []).append(submodel.name)
    return [tuple(names) for names in kinds.values() if len(names) > 1]


def candidates(
    ensemble: Ensemble, units: int, *, groups: bool, parts: bool, measured: Profile | None = None
) -> Candidates:
    """Which groups and parts are worth measuring. Their answers are compared here with those of the sub-models.

    Groups: of all equal sub-models, of half of them, of a quarter, ... Parts: halves, thirds and quarters of the
    batch of the two heaviest sub-models, of those that take more than a fair share of one unit.

    Args:
        ensemble: The sub-models. Each is built here, and runs on its example a few times.
        units: Units of the device.
        groups: Whether to look for groups.
        parts: Whether to look for parts.
        measured: What is known of the sub-models: who is heavy. Whoever it does not know is timed here.
    """
    found: list[SubModel] = []
    refused: list[str] = []
    for names in equal_sets(ensemble) if groups else ():
        why = why_not_grouped([ensemble.get(name) for name in names])
        if why:
            refused.append(f"no group of {', '.join(names)}: {why}")
            continue
        found += [submodel_of("+".join(names[:size]), ensemble) for size in _sizes(len(names))]
    if groups and not found and not refused:
        refused.append("no groups: no two sub-models are of one architecture and run as one call")
    if parts and units == 1:
        refused.append("no parts: the device has one unit")
    heaviest = _heaviest(ensemble, units, measured) if parts and units > 1 else []
    if parts and units > 1 and not heaviest:
        refused.append("no parts: no sub-model takes more than a fair share of the device")
    for submodel in heaviest:
        for count in (count for count in PARTS if count <= units):
            why = why_not_split(submodel, count)
            if why:
                refused.append(f"no {count} parts of {submodel.name}: {why}")
                break
            found.append(submodel_of(Step(members=(submodel.name,), part=1, parts=count).name, ensemble))
    named = [replace(one, name=_short(one.name, number)) for number, one in enumerate(found)]
    return Candidates(submodels=tuple(named), refused=tuple(refused))


def _sizes(count: int) -> list[int]:
    """All, and halves of what was there before, rounded up and down; two at least."""
    sizes, layer = {count}, {count}
    while layer := {half for size in layer for half in (size // 2, size - size // 2) if half > 1} - sizes:
        sizes |= layer
    return sorted(sizes, reverse=True)


def _heaviest(ensemble: Ensemble, units: int, measured: Profile | None) -> list[SubModel]:
    known = {} if measured is None else {name: measured.of(name) for name in ensemble.names}
    if known and all(known.values()):
        took_s = {name: points[0].median_s for name, points in known.items()}
    else:
        took_s = {submodel.name: seconds_of(submodel) for submodel in ensemble.submodels}
    fair_s = sum(took_s.values()) / units
    heavy = [submodel for submodel in ensemble.submodels if took_s[submodel.name] >= fair_s]
    return sorted(heavy, key=lambda submodel: -took_s[submodel.name])[:_HEAVY]


def _short(name: str, number: int) -> str:
    """What a group or part is called while it is measured: stores take names of one length at most."""
    tail = f"+... ({number})"
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - len(tail)] + tail


def measured_sets(ensemble: Ensemble, model: Callable[[str], CostModel | None]) -> tuple[EqualSet, ...]:
    """Equal sub-models with the sizes of groups that were measured.

    Args:
        ensemble: The sub-models.
        model: The cost model of a step, or None.
    """
    sets = []
    for names in equal_sets(ensemble):
        known = {size: model("+".join(names[:size])) for size in _sizes(len(names))}
        groups = {size: found for size, found in known.items() if found is not None}
        if groups:
            sets.append(EqualSet(members=names, groups=groups))
    return tuple(sets)


def measured_splits(ensemble: Ensemble, model: Callable[[str], CostModel | None]) -> tuple[Split, ...]:
    """Sub-models with the numbers of parts that were measured; arguments as for `measured_sets`."""
    splits = []
    for submodel in ensemble.submodels:
        if why_alone(submodel):
            continue
        known = {count: model(Step(members=(submodel.name,), part=1, parts=count).name) for count in PARTS}
        parts = {count: found for count, found in known.items() if found is not None}
        if parts:
            splits.append(Split(name=submodel.name, parts=parts))
    return tuple(splits)
