from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import triton_python_backend_utils as triton
from torch import nn

from esen_lab.common.trees import tree_spec
from esen_lab.ensemble import Ensemble, make_submodel
from esen_lab.errors import UsageError
from esen_lab.export.triton import PlanPorts, plan_ports
from esen_lab.export.triton.answering import ModelAnswers
from esen_lab.export.triton.ports import read, written
from esen_lab.planner.plan import Lane, Plan


class Takes(nn.Module):
    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.keys = keys

    def forward(self, **given: torch.Tensor) -> torch.Tensor:
        return sum((given[key].float() for key in self.keys), torch.zeros(2, 3))


class Takes2(nn.Module):
    def forward(self, x: Any, more: Any) -> Any:
        return {"y": x + more["z"], "n": torch.tensor(3.0)}


def ports_of(*members: tuple[str, nn.Module, Any], output: Any = None) -> PlanPorts:
    ensemble = Ensemble(submodels=tuple(make_submodel(name, module, x) for name, module, x in members))
    plan = Plan(lanes=tuple(Lane(units=1, members=(name,)) for name, _, _ in members), units=4)
    return plan_ports(plan, ensemble, ensemble, tree_spec(torch.zeros(2, 3) if output is None else output))


def test_a_tensor_is_called_input_and_its_first_size_is_free() -> None:
    ports = ports_of(("a", nn.Linear(8, 3), torch.randn(2, 8)))
    (port,) = ports.input.ports
    assert (port.name, port.data_type, port.dims) == ("INPUT", "TYPE_FP32", (-1, 8))
    assert ports.steps[0].ports[0].name == "STEP_0_0"
    assert ports.output.ports[0].dims == (-1, 3)


def test_a_lane_takes_the_keys_of_its_own_sub_models_under_the_names_of_the_ensemble() -> None:
    ids, mask = torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)
    ports = ports_of(
        ("a", Takes("ids"), {"ids": ids}),
        ("b", Takes("ids", "mask"), {"ids": ids, "mask": mask}),
    )
    assert [port.name for port in ports.input.ports] == ["ids", "mask"]
    assert [[port.name for port in lane.ports] for lane in ports.lane_inputs] == [["ids"], ["ids", "mask"]]
    assert ports.input.ports[1].data_type == "TYPE_BOOL"


def test_nested_inputs_have_names_unlike_each_other_and_scalars_travel_as_one_number() -> None:
    x = (torch.randn(2, 3), {"z": torch.tensor(1.0)})
    ports = ports_of(("a", Takes2(), x), output={"y": torch.zeros(2, 3), "n": torch.tensor(0.0)})
    assert [port.name for port in ports.input.ports] == ["INPUT_0", "INPUT_1_z"]
    assert ports.input.ports[1].scalar
    assert ports.input.ports[1].dims == (1,)
    assert [port.name for port in ports.output.ports] == ["y", "n"]


def test_the_batch_of_an_answer_is_free_wherever_it_is() -> None:
    ports = ports_of(("a", nn.Linear(8, 5), torch.randn(2, 8)), output=torch.zeros(3, 2, 5))
    assert ports.output.ports[0].dims == (-1, -1, 5)


def test_what_triton_has_no_type_for_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="INPUT, which is complex64"):
        ports_of(("a", nn.Identity(), torch.zeros(2, 3, dtype=torch.complex64)))


def test_ports_come_back_from_the_text_that_a_model_carries() -> None:
    ports = ports_of(("a", Takes2(), (torch.randn(2, 3), {"z": torch.tensor(1.0)})))
    assert read(written([ports.input], ports.steps)) == ((ports.input,), ports.steps)


def test_a_model_computes_with_numbers_where_torch_would_have_put_them() -> None:
    """Some kernels choose their last bits by the address; the server puts tensors anywhere."""
    x = torch.randn(3, 8)
    ports = ports_of(("a", nn.Linear(8, 3), x), output=x)
    places: list[int] = []

    def echo(trees: Sequence[Any]) -> Sequence[Any]:
        places.extend(tree.data_ptr() % 64 for tree in trees)
        return trees

    model = ModelAnswers(triton, written([ports.input], [ports.output]), echo)
    response = model.answer(triton.Request({"INPUT": x}))
    assert places == [0]
    assert torch.equal(response.tensors[0].value, x)


def test_a_tensor_of_the_answer_is_called_unlike_every_input_and_every_step() -> None:
    x = torch.randn(2, 3)
    ports = ports_of(("a", Takes("logits", "STEP_0_0"), {"logits": x, "STEP_0_0": x}), output={"logits": x, "y": x})
    sides = (ports.input.ports, ports.steps[0].ports, ports.output.ports)
    names = [port.name for side in sides for port in side]
    assert len(set(names)) == len(names)
    assert [port.name for port in ports.output.ports] == ["logits_2", "y"]
