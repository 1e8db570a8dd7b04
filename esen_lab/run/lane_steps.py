"""What lanes run in the place of sub-models: groups and parts, made for the lanes, and their outputs parted again."""

from __future__ import annotations

from collections.abc import Mapping

from esen_lab.common.trees import Tree
from esen_lab.ensemble import Ensemble, SubModel
from esen_lab.ensemble.derived import group_of, part_of
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import Step, is_plain


def submodel_of(name: str, ensemble: Ensemble) -> SubModel:
    """The sub-model that a lane loads for a step (see `esen_lab.planner.steps`).

    Raises:
        UsageError: A group is not of equal sub-models, or what it asks for cannot be.
    """
    if is_plain(name):
        return ensemble.get(name)
    step = Step.of(name)
    members = [ensemble.get(member) for member in step.members]
    if step.parts > 1:
        return part_of(name, members[0], step.part, step.parts)
    return group_of(name, members)


def steps_of(plan: Plan, ensemble: Ensemble) -> Ensemble:
    """What the lanes of a plan load, by the names of its steps; raises as `submodel_of` does."""
    if all(map(is_plain, plan.steps)):
        return ensemble
    return Ensemble(submodels=tuple(submodel_of(name, ensemble) for name in plan.steps))


def answers_of_members(outputs: Mapping[str, Tree], derived: Mapping[str, Step]) -> dict[str, Tree]:
    """What each sub-model answered, of what steps did: groups parted, and parts joined in order."""
    found: dict[str, Tree] = {}
    split: dict[str, dict[int, Tree]] = {}
    for name, output in outputs.items():
        step = derived.get(name)
        if step is None:
            found[name] = output
        elif step.parts > 1:
            split.setdefault(step.members[0], {})[step.part] = output
        else:
            found.update(zip(step.members, output, strict=True))
    if split:
        from esen_lab.ensemble.batch_part import joined

        for member, parts in split.items():
            found[member] = joined([parts[part] for part in sorted(parts)])
    return found
