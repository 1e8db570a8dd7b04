"""An engine that ends its process while it is tried: its member runs eagerly, in this session and in later ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from backend_nets import lacking
from torch import nn
from waiting import until

from esen_lab import Lab
from esen_lab.common.trees import flatten
from esen_lab.ensemble import make_submodel
from esen_lab.errors import EsenError, WorkerDied
from esen_lab.lanes.backends import _findings, _findings_of, backend, remember_crash, why_not
from esen_lab.lanes.backends._cache import cache_for
from esen_lab.lanes.backends._findings import CRASHED, Findings
from esen_lab.lanes.backends._protocol import BackendSettings, Example, Refused
from esen_lab.planner.plan import Lane, Plan

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
PLAN = Plan(lanes=(Lane(units=1, members=("b", "a"), backends=("openvino", "openvino")),), units=2)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESEN_LAB_HOME", str(tmp_path))


class EndsItself(nn.Module):
    """Ends its process where it is traced for an engine."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_exporting():
            os.kill(os.getpid(), self.signal_number)
        return x * 2


def registered(signal_number: int) -> Lab:
    lab = Lab(device="cpu", combine="stack")
    lab.register("a", EndsItself(signal_number).eval(), example=X)
    lab.register("b", nn.Identity().eval(), example=X)
    return lab


@lacking("openvino")
def test_a_member_whose_engine_crashes_runs_eagerly_in_this_session_and_in_later_ones() -> None:
    for _ in range(2):
        with registered(signal.SIGSEGV) as lab:
            lab.apply(PLAN)
            torch.testing.assert_close(lab.run(X), torch.stack([X * 2, X]))
            (note,) = [note for note in lab.report.notes if "eagerly" in note]
            assert note == f"a runs eagerly, not as the plan says (openvino): {CRASHED}"


@lacking("openvino")
def test_a_lane_that_somebody_ended_says_nothing_of_its_engine(tmp_path: Path) -> None:
    for _ in range(2):
        with registered(signal.SIGKILL) as lab, pytest.raises(WorkerDied, match="SIGKILL"):
            lab.apply(PLAN)
    kept = [path.read_bytes() for path in tmp_path.glob("backends-1/*")]
    assert not [entry for entry in kept if b"deaths_left" in entry or CRASHED.encode() in entry]


class EndsItselfWhileItIsCompared(nn.Module):
    """Ends its process where an engine is compared with it on negative numbers, of a batch of five alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting() and x.shape[0] == 5 and x.max() < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return x * 2


@lacking("openvino")
def test_a_lane_that_somebody_ended_in_a_run_while_an_engine_answered_says_nothing_of_it(tmp_path: Path) -> None:
    with Lab(device="cpu", combine="stack") as lab:
        lab.register("a", EndsItselfWhileItIsCompared().eval(), example=X)
        lab.apply(Plan(lanes=(Lane(units=1, members=("a",), backends=("openvino",)),), units=2))
        with pytest.raises(WorkerDied, match="SIGKILL"):
            lab.run(torch.ones(5, 6))
    assert not [path for path in tmp_path.glob("backends-1/*") if b"deaths_left" in path.read_bytes()]


@lacking("openvino")
def test_lanes_that_end_with_the_lab_while_an_engine_answers_say_nothing_of_it(tmp_path: Path) -> None:
    begun, mark = tmp_path / "begun", b"deaths_left"
    with Lab(device="cpu", combine="stack") as lab:
        lab.register("a", WaitsWhileItIsCompared(str(begun)).eval(), example=X)
        lab.apply(Plan(lanes=(Lane(units=1, members=("a",), backends=("openvino",)),), units=2))

        def run() -> None:
            with pytest.raises(EsenError):
                lab.run(torch.ones(5, 6))

        running = threading.Thread(target=run)
        running.start()
        until(begun.exists)
        assert [path for path in tmp_path.glob("backends-1/*") if mark in path.read_bytes()]
    running.join()
    assert not [path for path in tmp_path.glob("backends-1/*") if mark in path.read_bytes()]


SESSION = """
import sys, torch
from test_crashing_engines import WaitsWhileItIsCompared
from esen_lab import Lab
from esen_lab.planner.plan import Lane, Plan

with Lab(device="cpu", combine="stack") as lab:
    lab.register("a", WaitsWhileItIsCompared(sys.argv[1]).eval(), example=torch.ones(4, 6))
    lab.apply(Plan(lanes=(Lane(units=1, members=("a",), backends=("openvino",)),), units=2))
    lab.run(torch.ones(5, 6))
"""


@lacking("openvino")
def test_lanes_that_end_with_a_session_that_is_killed_say_nothing_of_the_engine_that_answers(tmp_path: Path) -> None:
    begun, mark = tmp_path / "begun", b"deaths_left"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    session = subprocess.Popen([sys.executable, "-c", SESSION, str(begun)], env={**os.environ, "PYTHONPATH": path})
    try:
        until(begun.exists, 60)
        assert [path for path in tmp_path.glob("backends-1/*") if mark in path.read_bytes()]
    finally:
        session.kill()
        session.wait()
    until(lambda: not [path for path in tmp_path.glob("backends-1/*") if mark in path.read_bytes()], 30)


class WaitsWhileItIsCompared(nn.Module):
    """The same, but it waits instead, and leaves a file."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting() and x.shape[0] == 5 and x.max() < 0:
            Path(self.file).touch()
            time.sleep(60)
        return x * 2


def test_what_torch_compiles_is_compiled_while_it_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    monkeypatch.setattr(torch, "compile", lambda module, **_: lambda x: called.append(1) or module(x))
    answer = torch.zeros(4, 6)
    leaves, structure = flatten(([X], {}))
    example = Example(
        leaves=leaves, structure=structure, answer=[answer], answer_structure=flatten(answer)[1], threads=1
    )
    if why_not("inductor"):
        pytest.skip(why_not("inductor"))
    backend("inductor")(nn.Identity(), BackendSettings()).prepare(example)
    assert called == [1], "else its first answer, which counts as executing, would take that long"


def findings() -> Findings:
    return Findings(cache=cache_for("f", "openvino", "1"), form="one")


def died(monkeypatch: pytest.MonkeyPatch, *, executing: bool) -> None:
    """A trial whose process is gone."""
    with monkeypatch.context() as patch:
        patch.setattr(Findings, "forget_trial", lambda _: None)
        patch.setattr(_findings, "began", lambda _: str(time.monotonic()))
        with findings().trying() as begins:
            if executing:
                begins()


def test_a_trial_that_nobody_saw_end_is_made_twice_where_it_prepared_and_once_where_it_executed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for deaths, executing in ((2, False), (1, True)):
        findings().forget()
        for _ in range(deaths):
            assert findings().known() is None
            died(monkeypatch, executing=executing)
        with pytest.raises(Refused, match=CRASHED), findings().trying():
            pass
        known = findings().known()
        assert known is not None
        assert known.refused == CRASHED


def test_a_trial_in_another_process_at_the_same_time_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with findings().trying() as begins:
        begins()
        with findings().trying() as also:
            also()
    with findings().trying():
        pass
    assert findings().known() is None


def test_what_ended_a_process_on_a_gpu_may_be_tried_on_the_cpu() -> None:
    submodel = make_submodel("a", nn.Linear(6, 2), X)
    assert remember_crash(submodel, "inductor", "cuda:0") == CRASHED
    known = _findings_of(submodel, "inductor", "cuda:1").known()
    assert known is not None
    assert known.refused == CRASHED
    assert _findings_of(submodel, "inductor", "cpu").known() is None
