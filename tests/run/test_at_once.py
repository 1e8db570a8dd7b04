"""Which plans with all sub-models at once a refinement tries."""

from __future__ import annotations

import pytest
import torch
from backend_nets import Counts, lacking
from models import mlp
from torch import nn

from esen_lab.devices import CpuDevice
from esen_lab.ensemble import Ensemble, make_submodel
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run import at_once

pytestmark = [lacking("openvino"), lacking("onnxruntime")]
DEVICE = CpuDevice(cores=[(0,), (0,)])
ENGINES = dict.fromkeys("ab", ("openvino", "onnxruntime", "openvino@bf16"))
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def ensemble_of(**modules: nn.Module) -> Ensemble:
    return Ensemble(submodels=tuple(make_submodel(name, module, X) for name, module in modules.items()))


def two(*backends: str) -> Plan:
    lanes = tuple(Lane(units=1, members=(name,), backends=(how,)) for name, how in zip("ab", backends, strict=True))
    return Plan(lanes=lanes, units=2)


def ways(plans: tuple[Plan, ...]) -> set[tuple[str, tuple[str, ...]]]:
    return {(plan.searcher, plan.lanes[0].backends) for plan in plans}


def test_each_engine_that_overlaps_networks_gets_the_whole_device_by_every_setting_worth_trying() -> None:
    plans = at_once(two("eager", "openvino"), ensemble_of(a=mlp(seed=1), b=mlp(seed=2)), DEVICE, ENGINES)
    assert ways(plans) == {("openvino-async", ("openvino",) * 2), ("onnxruntime-pool", ("onnxruntime",) * 2)}
    assert {plan.lanes[0].active_units for plan in plans} == {(1, 1), (2, 2)}
    assert all(len(plan.lanes) == 1 and plan.lanes[0].units == 2 for plan in plans)
    assert all(plan.notes[-1].startswith("all at once: ") for plan in plans)


@pytest.mark.parametrize("backends", [(), ("eager",), ("inductor",)])
def test_no_engine_is_brought_in_that_is_not_allowed(backends: tuple[str, ...]) -> None:
    allowed = dict.fromkeys("ab", backends)
    assert at_once(two("eager", "eager"), ensemble_of(a=mlp(seed=1), b=mlp(seed=2)), DEVICE, allowed) == ()


def test_an_engine_takes_those_sub_models_alone_for_which_it_is_allowed() -> None:
    allowed = {"a": ("openvino",), "b": ("onnxruntime",)}
    plans = at_once(two("eager", "eager"), ensemble_of(a=mlp(seed=1), b=mlp(seed=2)), DEVICE, allowed)
    assert ways(plans) == {("openvino-async", ("openvino", "eager")), ("onnxruntime-pool", ("eager", "onnxruntime"))}


def test_the_precision_of_each_sub_model_stays_and_an_engine_without_it_does_not_take_it() -> None:
    plans = at_once(two("eager", "openvino@bf16"), ensemble_of(a=mlp(seed=1), b=mlp(seed=2)), DEVICE, ENGINES)
    assert ways(plans) == {
        ("openvino-async", ("openvino", "openvino@bf16")),
        ("onnxruntime-pool", ("onnxruntime", "openvino@bf16")),
    }


def test_a_sub_model_with_state_stays_with_what_executes_it() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.counts = Counts()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.counts(x)[:, :3]

    plans = at_once(two("openvino", "eager"), ensemble_of(a=mlp(seed=1), b=Odd()), DEVICE, ENGINES)
    assert {plan.lanes[0].backends[1] for plan in plans} == {"eager"}


def test_one_sub_model_and_groups_and_parts_have_no_such_plan() -> None:
    alone = Plan(lanes=(Lane(units=1, members=("a",)),), units=2)
    assert at_once(alone, ensemble_of(a=mlp(seed=1)), DEVICE, ENGINES) == ()
    parts = Plan(lanes=(Lane(units=1, members=("a 1/2",)), Lane(units=1, members=("a 2/2",))), units=2)
    assert at_once(parts, ensemble_of(a=mlp(seed=1)), DEVICE, ENGINES) == ()
