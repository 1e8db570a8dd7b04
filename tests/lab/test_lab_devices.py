"""Changing a lab's device: what stays, what is put away, what the store knows. The second device is a simulated one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from models import mlp

from esen_lab import FakeDevice, Lab
from esen_lab.devices import CpuDevice
from esen_lab.errors import DeviceError, UsageError
from esen_lab.lab import DeviceChange
from esen_lab.lanes.settings import SessionSettings, put
from esen_lab.planner.plan import sequential_plan

CORE = CpuDevice(cores=[(0,)])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(CORE, store=tmp_path / "points.sqlite3") as lab:
        yield lab


def test_another_device_puts_the_plan_away_and_brings_its_own_back(lab: Lab) -> None:
    lab.register("a", mlp(), torch.zeros(1, 8))
    lab.plan = mine = sequential_plan(("a",), 1)
    fake = FakeDevice({"a": {1: 0.002, 4: 0.001}}, units=4)
    change = lab.use_device(fake)
    assert lab.device is fake
    assert change.put_away is mine
    assert lab.plan is None
    assert "put away" in " ".join(change.notes)
    assert any("Simulated" in note for note in change.device_notes)
    back = lab.use_device(CORE)
    assert lab.plan is mine
    assert back.plan is mine
    assert back.to_dict()["plan"] == mine.to_dict()


@pytest.fixture(params=["highest", "high"])
def precision(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the session has set, which points are told apart by; no lane of the second lab was told of it."""
    before = SessionSettings().now()
    torch.set_float32_matmul_precision(request.param)
    yield
    put(before)  # "highest" by its name would leave other switches than there were


@pytest.mark.usefixtures("precision")
def test_what_is_stored_for_the_new_device_is_known_at_once(lab: Lab) -> None:
    lab.register("a", mlp(), torch.zeros(1, 8))
    lab.profile(budget_s=0.02).result(60)
    with Lab(FakeDevice({"a": {1: 0.002}}, units=4), store=lab._runtime.store_path) as other:
        other.register("a", mlp(), torch.zeros(1, 8))
        assert other.measurements is None
        change = other.use_device(CpuDevice(cores=[(0,)]))
        assert dict(change.profiled) == {"a": 1}
        assert other.measurements is not None
        assert other.measurements.points[0].reused
        assert other.search().jct_s > 0


def test_the_same_kind_of_device_changes_nothing(lab: Lab) -> None:
    lab.register("a", mlp(), torch.zeros(1, 8))
    lab.plan = plan = sequential_plan(("a",), 1)
    change: DeviceChange = lab.use_device(CpuDevice(cores=[(0,)]))
    assert lab.plan is plan
    assert change.put_away is None


def test_an_unknown_device_leaves_the_lab_where_it_was(lab: Lab) -> None:
    with pytest.raises(UsageError, match="A device is one of"):
        lab.use_device("abacus")
    assert lab.device is CORE


def test_modules_that_are_on_no_gpu_are_left_alone(lab: Lab) -> None:
    kept = mlp()
    lab.register("kept", kept, torch.zeros(1, 8))
    lab.register("gone", mlp(), torch.zeros(1, 8))
    assert lab.lanes.leave_gpu() == ()


def test_the_labs_offers_are_the_machines(lab: Lab) -> None:
    assert lab.offers(test=False)[-1].name == "cpu"


class Shrunken(CpuDevice):
    """A device of one core that is taken away when the test says so: a test double."""

    gone = ""

    def lost(self) -> str:
        return self.gone


def test_warm_lanes_whose_cores_are_taken_away_go_on_and_say_so_and_new_ones_are_refused(tmp_path: Path) -> None:
    device = Shrunken(cores=[(0,)])
    with Lab(device, store=tmp_path / "points.sqlite3") as lab:
        lab.register("a", mlp(), torch.zeros(1, 8))
        lab.plan = sequential_plan(("a",), 1)
        lab.run(torch.zeros(1, 8))
        assert lab.report is not None
        assert "taken" not in " ".join(lab.report.notes)
        device.gone = "CPU 0 was taken."
        lab.run(torch.zeros(1, 8))
        assert "CPU 0 was taken." in lab.report.notes
        with pytest.raises(DeviceError, match=r"CPU 0 was taken\..*Make the device anew"):
            lab.profile(budget_s=0.02).result(60)
        lab.use_device(CpuDevice(cores=[(0,)]))
        assert lab.profile(budget_s=0.02).result(60).points
