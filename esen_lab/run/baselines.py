"""What a plan is compared with: the ways ensembles run today, each written as a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError
from esen_lab.planner.baselines import equal_share
from esen_lab.planner.plan import Lane, Plan, sequential_plan

Strategy = Callable[[Ensemble, int], Plan]


def sequential(ensemble: Ensemble, units: int) -> Plan:
    """One after another, each with the whole device."""
    return sequential_plan(ensemble.names, units)


def unlimited(ensemble: Ensemble, units: int) -> Plan:
    """All at once, each in its own process with the whole device: MPS's default, and plain multiprocessing."""
    lanes = tuple(Lane(units=units, members=(name,)) for name in ensemble.names)
    return Plan(lanes=lanes, units=units, searcher="unlimited")


def equal(ensemble: Ensemble, units: int) -> Plan:
    """All at once, each with 1/n of the device; where that is less than one unit, one unit each, overlapping."""
    share = equal_share(len(ensemble.names), units)
    lanes = tuple(Lane(units=share, members=(name,)) for name in ensemble.names)
    return Plan(lanes=lanes, units=units, searcher="equal")


def threads(ensemble: Ensemble, units: int) -> Plan:
    """All at once in a thread pool of one process that has the whole device."""
    lane = Lane(units=units, members=ensemble.names, mode="threads")
    return Plan(lanes=(lane,), units=units, searcher="threads")


class NotApplicable(UsageError):  # noqa: N818  what is so, not a fault
    """A way to run ensembles that does not exist for this one."""


def vmap(ensemble: Ensemble, units: int) -> Plan:
    """All as one batched call of `torch.func`; only where every sub-model has the same architecture.

    Raises:
        NotApplicable: They differ, keep state between calls, or draw random numbers.
    """
    unfit = [model.name for model in ensemble.submodels if model.traits.keeps_state or model.traits.random]
    if unfit:
        raise NotApplicable(
            "vmap needs sub-models that keep no state and draw no random numbers", given=", ".join(unfit)
        )
    others = [f"{model.name} ({model.kind})" for model in ensemble.submodels if model.kind != "network"]
    if others:
        raise NotApplicable("vmap needs networks of torch", given=", ".join(others))
    # All that is not the values of parameters and buffers must be the same: those are what is stacked.
    shapes = {(model.class_name, str(model.output_spec), model.code_fingerprint) for model in ensemble.submodels}
    if len(shapes) > 1 or len(ensemble.names) < 2:
        raise NotApplicable("vmap needs two or more sub-models of one architecture", given=f"{len(shapes)} kinds")
    lane = Lane(units=units, members=ensemble.names, mode="vmap")
    return Plan(lanes=(lane,), units=units, searcher="vmap")


STRATEGIES: Mapping[str, Strategy] = {
    "sequential": sequential,
    "unlimited": unlimited,
    "equal": equal,
    "threads": threads,
    "vmap": vmap,
}
