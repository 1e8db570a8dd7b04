from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import torch

from esen_lab import Lab, Plan
from esen_lab.devices import open_device
from esen_lab.ensemble import Ensemble
from esen_lab.errors import DeviceError
from esen_lab.export import Running
from esen_lab.export.bundle import load_bundle
from esen_lab.planner.plan import Lane
from esen_lab.run import Executor, ForkServer


def load(folder: Path) -> Running:
    """As the exported script does."""
    plan, ensemble = load_bundle(folder)
    return Running.start(plan, ensemble, open_device("cpu"), fork_server=ForkServer(), start=Executor.start)


class Recorder:
    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def run(self, x: Any) -> types.SimpleNamespace:
        return types.SimpleNamespace(output=x * 2, report="report")

    def look_at_session(self) -> None:
        """Nothing is sent to doubles."""

    def close(self) -> None:
        self.log.append(f"{self.name} closed")


def test_it_runs_reports_and_closes_everything(simple: Ensemble, planned: Any) -> None:
    log: list[str] = []
    started = Running.start(
        planned(simple),
        simple,
        "device",
        fork_server=Recorder(log, "fork server"),
        start=lambda *a: Recorder(log, "lanes"),
    )
    with started as ensemble:
        assert ensemble(torch.ones(1)).item() == 2
        assert ensemble.report == "report"
    assert log == ["lanes closed", "fork server closed"]


def test_a_failed_start_leaves_no_fork_server(simple: Ensemble, planned: Any) -> None:
    log: list[str] = []

    def fails(*args: Any) -> Any:
        raise DeviceError("no")

    with pytest.raises(DeviceError):
        Running.start(planned(simple), simple, "device", fork_server=Recorder(log, "fork server"), start=fails)
    assert log == ["fork server closed"]


class MonteCarlo(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x, 0.5, training=True)


class Forces(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            return torch.autograd.grad((x**3).sum(), x)[0]


class Counts(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + self.calls


@pytest.mark.parametrize("kind", [MonteCarlo, Forces, Counts])
def test_an_exported_network_is_called_as_in_the_notebook(kind: type[torch.nn.Module], tmp_path: Path) -> None:
    x = torch.rand(4, 8)
    with Lab(device="cpu", store=tmp_path / "store.sqlite") as lab:
        lab.register("a", kind(), example=x)
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
        torch.manual_seed(0)
        wanted = [lab.run(x) for _ in range(2)]
        exported = lab.export(tmp_path / "plan.py")
    torch.manual_seed(0)
    with load(exported.folder) as ensemble:
        torch.testing.assert_close([ensemble(x) for _ in range(2)], wanted)


def test_an_exported_plan_runs_under_the_switches_of_whoever_calls_it(tmp_path: Path) -> None:
    x = torch.rand(4, 8)
    network = torch.nn.Linear(8, 8)
    with Lab(device="cpu", store=tmp_path / "store.sqlite") as lab:
        lab.register("a", network, example=x)
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
        exported = lab.export(tmp_path / "plan.py")
    with load(exported.folder) as ensemble:
        with torch.autocast("cpu", torch.bfloat16):
            assert ensemble(x).dtype == torch.bfloat16
        assert ensemble(x).dtype == torch.float32
