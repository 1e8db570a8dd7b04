"""NVIDIA MPS on a real GPU: what the other tests can only assume. Skipped where there is none, or no MPS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from combine_doubles import combine_on_the_gpu
from models import mlp

from esen_lab import Lab
from esen_lab.devices import this_machine
from esen_lab.devices.cuda.mps import CudaMpsDevice, most_sms
from esen_lab.devices.cuda.mps_trial import try_lane
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run.device_combine import ON_THE_GPU

OFFER = next(offer for offer in this_machine().offers(test=False) if offer.name.startswith("cuda:0 mps"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not OFFER.available, reason=f"{OFFER.name} needs {'; '.join(OFFER.missing)}"),
]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab("cuda:0 mps", store=tmp_path / "points.sqlite3") as lab:
        lab.register("a", mlp(seed=1, width=512), torch.zeros(2, 8))
        lab.register("b", mlp(seed=2, width=1024), torch.zeros(2, 8))
        yield lab


def expected(x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        answer: torch.Tensor = (mlp(seed=1, width=512)(x) + mlp(seed=2, width=1024)(x)) / 2
        return answer


@pytest.mark.parametrize("percentage", [10, 25, 50, 75])
def test_a_limit_is_in_force(percentage: int) -> None:
    device = this_machine().open("cuda:0 mps")
    assert isinstance(device, CudaMpsDevice)
    try:
        found = try_lane(device.place([percentage])[0])
    finally:
        device.close()
    sms = re.match(r"(\d+) of (\d+) SMs", found)
    assert sms is not None
    assert int(sms[1]) <= most_sms(percentage, int(sms[2])) < int(sms[2])


def test_two_lanes_answer_as_the_cpu_does_and_this_process_starts_no_cuda(lab: Lab) -> None:
    lab.plan = Plan(
        lanes=(Lane(units=50, members=("b",)), Lane(units=50, members=("a",))), units=100, searcher="by hand"
    )
    for rows in (4, 50_000):
        x = torch.randn(rows, 8)
        torch.testing.assert_close(lab.run(x), expected(x), rtol=1e-3, atol=1e-4)
    assert lab.state.executor is not None
    assert lab.state.executor.lanes.input.shared, "a large input crosses once and is lent by CUDA IPC"
    assert not torch.cuda.is_initialized()


def test_a_profile_holds_the_gpus_own_readings(lab: Lab) -> None:
    profile = lab.profile(["a"], shares=[50, 100], budget_s=0.2).result(180)
    device = lab.device
    assert isinstance(device, CudaMpsDevice)
    for point in profile.points:
        assert isinstance(point.readings["events_median_s"], float)
        assert 0 < point.readings["events_median_s"] < point.median_s
        assert isinstance(point.readings["sm_percent"], float) == (device.gpu.gpm is True)


def test_outputs_that_stay_on_the_gpu_are_combined_as_on_the_cpu(lab: Lab) -> None:
    lab.plan = Plan(
        lanes=(Lane(units=50, members=("b",)), Lane(units=50, members=("a",))), units=100, searcher="by hand"
    )
    lab.run(torch.randn(2000, 8))
    assert lab.state.executor is not None
    combine_on_the_gpu(lab.state.executor)
    for turn in range(6):
        x = torch.randn(2000, 8)
        torch.testing.assert_close(lab.run(x), expected(x), rtol=1e-3, atol=1e-4)
        assert lab.report is not None
        assert (ON_THE_GPU in lab.report.notes) == (turn > 0), lab.report.notes


def test_a_sub_model_as_a_graph_answers_as_it_does_eagerly(lab: Lab) -> None:
    lane = Lane(units=50, members=("a", "b"), backends=("cuda-graph", "cuda-graph"))
    lab.plan = Plan(lanes=(lane,), units=100, searcher="by hand")
    for _ in range(3):
        x = torch.randn(16, 8)
        torch.testing.assert_close(lab.run(x), expected(x), rtol=1e-3, atol=1e-4)
    assert lab.report is not None
    assert not [note for note in lab.report.notes if "eagerly" in note]
