from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esen_lab import Lab, Plan
from esen_lab.common.children import child_environment
from esen_lab.devices import open_device
from esen_lab.ensemble import Ensemble
from esen_lab.errors import DeviceError
from esen_lab.export import Running
from esen_lab.export.bundle import load_bundle, open_bundle
from esen_lab.planner.plan import Lane
from esen_lab.run import Executor, ForkServer, Switched


def load(folder: Path) -> Running:
    """As the exported script does."""
    plan, ensemble = load_bundle(folder)
    return Running.start(plan, ensemble, open_device("cpu"), fork_server=ForkServer(), start=Executor.start)


class Recorder:
    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def run(self, x: Any, *, at_turn: Any = None) -> types.SimpleNamespace:
        return types.SimpleNamespace(output=x * 2, report="report")

    def look_at_session(self) -> None:
        """Nothing is sent to doubles."""

    @property
    def unlike(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self.log.append(f"{self.name} closed")


def test_it_runs_reports_and_closes_everything(simple: Ensemble, planned: Any) -> None:
    log: list[str] = []
    started = Running.start(
        planned(simple),
        simple,
        Recorder(log, "device"),
        fork_server=Recorder(log, "fork server"),
        start=lambda *a: Recorder(log, "lanes"),
    )
    with started as ensemble:
        assert ensemble(torch.ones(1)).item() == 2
        assert ensemble.report == "report"
    assert log == ["lanes closed", "fork server closed", "device closed"]


def test_a_failed_start_leaves_no_fork_server(simple: Ensemble, planned: Any) -> None:
    log: list[str] = []

    def fails(*args: Any) -> Any:
        raise DeviceError("no")

    device = Recorder(log, "device")
    with pytest.raises(DeviceError):
        Running.start(planned(simple), simple, device, fork_server=Recorder(log, "fork server"), start=fails)
    assert log == ["fork server closed", "device closed"]


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


class MakesZeros(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.zeros(3)


class Underflows(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 1e-41) * 1e38


def run_script(script: Path, output: Path) -> torch.Tensor:
    """The answer of an exported script to its example, in a process that has set nothing."""
    command = [sys.executable, str(script), "--output", str(output)]
    env = child_environment({**os.environ, "PYTHONPATH": str(Path(__file__).parent)})  # where these networks are
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return torch.from_numpy(np.load(output))


@contextmanager
def switched(name: str) -> Iterator[None]:
    if name == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            yield
        return
    switch, on, off = {
        "default dtype": (torch.set_default_dtype, torch.float64, torch.float32),
        "denormals": (torch.set_flush_denormal, True, False),
    }[name]
    switch(on)
    try:
        yield
    finally:
        switch(off)


@pytest.mark.parametrize(
    ("name", "network"),
    [("default dtype", MakesZeros), ("denormals", Underflows), ("autocast", lambda: torch.nn.Linear(3, 3))],
)
def test_a_script_runs_under_what_the_session_had_set(name: str, network: Any, tmp_path: Path) -> None:
    x = torch.ones(2, 3)
    with Lab(device="cpu", store=tmp_path / "store.sqlite") as lab:
        lab.register("a", network(), example=x)
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
        usual = lab.run(x)
        with switched(name):
            wanted = lab.run(x)
            exported = lab.export(tmp_path / "plan.py")
    assert (usual.dtype, usual.tolist()) != (wanted.dtype, wanted.tolist()), "it makes a difference"
    assert "runs under what this session has set now" in str(exported)
    found = run_script(exported.script, tmp_path / "y.npy")
    assert found.tolist() == wanted.tolist()
    with Running.start(
        *load_bundle(exported.folder),
        open_device("cpu"),
        fork_server=ForkServer(),
        start=Executor.start,
        under=Switched(open_bundle(exported.folder).switches),
    ) as ensemble:
        assert ensemble(x).tolist() == wanted.tolist()
        assert (torch.get_default_dtype(), torch.is_autocast_enabled("cpu")) == (torch.float32, False), "put back"


def test_an_export_says_that_the_last_run_was_under_other_switches(tmp_path: Path) -> None:
    x = torch.ones(2, 3)
    with Lab(device="cpu", store=tmp_path / "store.sqlite") as lab:
        lab.register("a", torch.nn.Linear(3, 3), example=x)
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
        with switched("autocast"):
            lab.run(x)
        assert "autocast on cpu (on before, off now)" in str(lab.export(tmp_path / "plan.py"))
        assert lab.export(tmp_path / "again.py").notes == ()


def test_the_first_answer_of_a_script_is_the_first_of_its_network(tmp_path: Path) -> None:
    x = torch.zeros(2, 3)
    with Lab(device="cpu", store=tmp_path / "store.sqlite") as lab:
        lab.register("a", Counts(), example=x)
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
        wanted = lab.run(x)
        exported = lab.export(tmp_path / "plan.py")
    assert run_script(exported.script, tmp_path / "y.npy").tolist() == wanted.tolist()


def test_an_export_names_the_users_own_modules_that_it_imports(tmp_path: Path, monkeypatch: Any) -> None:
    beside = tmp_path / "notebooks"
    beside.mkdir()
    (beside / "nets_beside_the_notebook.py").write_text(
        "from torch import nn\nclass Twice(nn.Module):\n    def forward(self, x): return x * 2\n"
        "def rule(outputs): return outputs['a']\n"
    )
    monkeypatch.syspath_prepend(str(beside))
    nets_beside_the_notebook = importlib.import_module("nets_beside_the_notebook")

    x = torch.ones(2, 3)
    with Lab(device="cpu", store=tmp_path / "store.sqlite") as lab:
        lab.register("a", nets_beside_the_notebook.Twice(), example=x)
        lab.combine(nets_beside_the_notebook.rule)
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
        wanted = lab.run(x)
        notes = lab.export(tmp_path / "plan.py").notes
        note = next(note for note in notes if "no installed package" in note)
        assert f"nets_beside_the_notebook ({beside / 'nets_beside_the_notebook.py'})" in note
        exported = lab.export(beside / "plan.py")
    assert exported.notes == (), "there it is found"
    assert run_script(exported.script, tmp_path / "y.npy").tolist() == wanted.tolist()


def test_a_script_says_that_a_member_answers_otherwise_than_where_it_was_exported(
    tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "nets_with_a_scale.py").write_text(
        "from torch import nn\nSCALE = 1.0\nclass Scaled(nn.Module):\n    def forward(self, x): return x * SCALE\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    nets = importlib.import_module("nets_with_a_scale")
    x = torch.ones(2, 3)
    with Lab(device="cpu", store=tmp_path / "store.sqlite") as lab:
        network = nets.Scaled()
        lab.register("a", network, example=x)
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
        same = lab.export(tmp_path / "same.py")
        assert "OTHER THAN" not in said_by(same.script, tmp_path)
        monkeypatch.setattr(nets, "SCALE", 3.0)  # which a process that imports it does not know of
        assert lab.run(x).tolist() == (3 * x).tolist()
        other = lab.export(tmp_path / "other.py")
    told = said_by(other.script, tmp_path)
    assert "OTHER THAN WHERE IT WAS EXPORTED: a answers otherwise here" in told
    assert "note    OTHER THAN" in told


def test_a_rule_that_answers_otherwise_than_where_it_was_exported_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rules_with_a_weight.py").write_text("W = 1.0\ndef rule(outputs): return outputs['a'] * W\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    rules = importlib.import_module("rules_with_a_weight")
    with Lab(device="cpu", store=tmp_path / "store.sqlite") as lab:
        lab.register("a", torch.nn.Linear(3, 3), example=torch.ones(2, 3))
        lab.combine(rules.rule)
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
        monkeypatch.setattr(rules, "W", 3.0)
        folder = lab.export(tmp_path / "plan.py").folder
    assert not [note for note in open_bundle(folder).plan.notes if "OTHER THAN" in note]
    monkeypatch.setattr(rules, "W", 1.0)  # as a new process has it
    with pytest.warns(UserWarning, match="combine rule rules_with_a_weight:rule answers otherwise here"):
        found = open_bundle(folder)
    assert "OTHER THAN" in found.plan.notes[-1]


def said_by(script: Path, folder: Path) -> str:
    env = child_environment({**os.environ, "PYTHONPATH": str(folder)})
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, env=env)
    return done.stdout + done.stderr


def test_answers_under_other_switches_than_those_of_the_export_are_not_compared(tmp_path: Path) -> None:
    x = torch.rand(4, 8)
    with Lab(device="cpu", store=tmp_path / "store.sqlite") as lab:
        lab.register("a", torch.nn.Linear(8, 8), example=x)
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
        found = open_bundle(lab.export(tmp_path / "plan.py").folder)
    start = partial(Executor.start, exported_under=found.switches)
    with Running.start(
        found.plan, found.ensemble, open_device("cpu"), fork_server=ForkServer(), start=start
    ) as running:
        with torch.autocast("cpu", torch.bfloat16):
            assert running(x).dtype == torch.bfloat16
        assert not running.runner.unlike
