"""Green contexts on a real GPU: what the other tests can only assume. Skipped where there is none, or an old driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from combine_doubles import combine_on_the_gpu
from models import MakesNan, mlp

from esen_lab import Lab
from esen_lab.devices import this_machine
from esen_lab.devices.cuda.green import GreenDevice
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run.device_combine import ON_THE_GPU
from esen_lab.run.graph_runner import AS_ONE_GRAPH

OFFER = next(offer for offer in this_machine().offers(test=False) if offer.name.startswith("cuda:0 green"))
pytestmark = [
    pytest.mark.gpu("here"),
    pytest.mark.skipif(not OFFER.available, reason=f"{OFFER.name} needs {'; '.join(OFFER.missing)}"),
]
WIDTHS = {"a": 512, "b": 1024, "c": 256, "d": 128}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab("cuda:0 green", store=tmp_path / "points.sqlite3") as lab:
        for seed, (name, width) in enumerate(WIDTHS.items()):
            lab.register(name, mlp(seed=seed, width=width), torch.zeros(2, 8))
        yield lab


def expected(x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        answers = [mlp(seed=seed, width=width)(x) for seed, width in enumerate(WIDTHS.values())]
        return torch.stack(answers).mean(0)


def two_lanes(lab: Lab, how: str = "eager") -> None:
    large, small = max(1, lab.device.units // 2), max(1, lab.device.units // 4)
    lanes = (
        Lane(units=large, members=("b", "c"), backends=(how, how)),
        Lane(units=small, members=("a", "d"), backends=(how, how)),
    )
    lab.plan = Plan(lanes=lanes, units=lab.device.units, searcher="by hand")


def test_unequal_lanes_have_sms_of_their_own() -> None:
    device = this_machine().open("cuda:0 green")
    assert isinstance(device, GreenDevice)
    try:
        shares = (device.units // 2, device.units // 4, device.units // 8)
        proof = device.prove(shares)
        assert proof.disjoint
        assert list(proof.sms) == [share * device.grain for share in shares]
    finally:
        device.close()


def test_two_lanes_answer_as_the_cpu_does_and_outputs_may_be_combined_there(lab: Lab) -> None:
    two_lanes(lab)
    for rows in (4, 50_000):
        x = torch.randn(rows, 8)
        torch.testing.assert_close(lab.run(x), expected(x), rtol=1e-3, atol=1e-4)
    assert lab.state.executor is not None
    combine_on_the_gpu(lab.state.executor)
    for turn in range(6):
        x = torch.randn(50_000, 8)
        torch.testing.assert_close(lab.run(x), expected(x), rtol=1e-3, atol=1e-4)
        assert lab.report is not None
        assert (ON_THE_GPU in lab.report.notes) == (turn > 0), lab.report.notes


def test_a_plan_of_graphs_is_one_graph_whose_marks_tell_when_each_sub_model_ran(lab: Lab) -> None:
    two_lanes(lab, "cuda-graph")
    ends: set[tuple[float, ...]] = set()
    for _ in range(5):
        x = torch.randn(16, 8)
        torch.testing.assert_close(lab.run(x), expected(x), rtol=1e-3, atol=1e-4)
        assert lab.report is not None
        assert AS_ONE_GRAPH in lab.report.notes or not ends, lab.report.notes
        assert all(0 <= span.start_s <= span.end_s <= lab.report.jct_s for span in lab.report.spans)
        ends.add(tuple(span.end_s for span in lab.report.spans))
    assert len(ends) == 5, "the times of each replay, and not those of the capture"


def test_nan_is_named_in_a_graph_too(lab: Lab) -> None:
    for name in WIDTHS:
        lab.unregister(name)
    lab.register("fine", mlp(outputs=8), torch.ones(2, 8))
    lab.register("nan", MakesNan(), torch.ones(2, 8))
    half = max(1, lab.device.units // 2)
    lanes = tuple(Lane(units=half, members=(name,), backends=("cuda-graph",)) for name in ("fine", "nan"))
    lab.plan = Plan(lanes=lanes, units=lab.device.units, searcher="by hand")
    for _ in range(2):
        lab.run(torch.ones(2, 8))
        assert lab.report is not None
        assert lab.report.nan == ("nan",)
