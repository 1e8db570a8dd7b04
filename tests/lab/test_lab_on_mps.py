"""A lab on a GPU under NVIDIA MPS, whole, on a machine without one.

The control program is scripted, `torch.cuda` is a double, lanes compute on the CPU: what is tried is everything between
them. Nothing here says anything about a GPU.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cuda_doubles
import pytest
import torch
from combine_doubles import combine_on_the_gpu
from cuda_doubles import GPU, MACHINE, DoubleOfMpsPlacement, DoubleOutsideMps, scripted_programs
from models import Draws, WrongAt, mlp

from esen_lab import Lab
from esen_lab.devices.cuda.mps import CudaMpsDevice
from esen_lab.devices.cuda.mps_control import MpsDaemon
from esen_lab.errors import DeviceError, InfeasibleError, WorkerDied
from esen_lab.planner.plan import Lane, Plan
from esen_lab.profiler.numerics import RANDOM
from esen_lab.run.device_combine import ON_THE_GPU

DOUBLES = Path(cuda_doubles.__file__).parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA MPS exists on Linux only")


def start(uuid: str, *, programs: Any = None) -> MpsDaemon:
    return MpsDaemon.start(uuid, programs=programs, parent=Path("/tmp"), timeout_s=10)


@pytest.fixture
def scripted(tmp_path: Path) -> Path:
    return tmp_path / "bin"


@pytest.fixture
def lab(tmp_path: Path, scripted: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("PYTHONPATH", str(DOUBLES))  # where the fork server finds the doubles
    device = CudaMpsDevice(
        GPU, MACHINE, programs=scripted_programs(scripted), start=start, placement=DoubleOfMpsPlacement
    )
    with Lab(device, store=tmp_path / "points.sqlite3") as lab:
        lab.register("a", mlp(seed=1), torch.zeros(2, 8))
        lab.register("b", mlp(seed=2, width=64), torch.zeros(2, 8))
        yield lab


def test_profile_search_run_and_compare_go_all_the_way(lab: Lab, scripted: Path) -> None:
    profile = lab.profile(shares=[30, 60, 100], budget_s=0.05).result(120)
    assert profile.device["kind"] == "cuda mps"
    assert not profile.failures
    point = profile.of("a")[0]
    assert point.units == 30
    assert point.peak_memory_bytes is not None
    assert point.readings["answers_error"] == pytest.approx(0.0, abs=1e-6)
    assert point.readings["events_median_s"] > 0  # type: ignore[operator]
    assert isinstance(point.readings["sm_percent"], str), "no GPU can be read here, and that is said"
    lab.search()
    x = torch.randn(2, 8)
    y = lab.run(x)
    with torch.inference_mode():
        torch.testing.assert_close(y, (mlp(seed=1)(x) + mlp(seed=2, width=64)(x)) / 2)
    assert lab.report is not None
    assert all("listed by the MPS daemon" in lane.in_force for lane in lab.report.lanes)
    table = lab.compare(x, rounds=2, strategies=["sequential", "unlimited", "equal", "threads"])
    assert {row.strategy for row in table.rows} >= {"sequential", "unlimited", "equal", "threads"}
    assert not [row.failed for row in table.rows if row.failed]
    assert all(row.agrees for row in table.rows)
    assert not (scripted / "terminated").exists(), "every lane left by itself"


def test_a_share_with_wrong_answers_is_a_failure_that_says_what_to_do(lab: Lab) -> None:
    torch.manual_seed(0)
    lab.register("wrong", WrongAt(60), torch.ones(2, 8))
    profile = lab.profile(["wrong"], shares=[30, 60, 100], budget_s=0.05).result(120)
    assert [(point.units, point.readings["answers_error"]) for point in profile.points] == [(30, 0.0), (100, 0.0)]
    (failure,) = profile.failures
    assert failure.units == 60
    assert "WRONG ANSWERS" in failure.message
    assert "Check the answers" in failure.message
    assert "0.33" in failure.message or "3.3e-01" in failure.message or "5.0e-01" in failure.message
    again = lab.profile(["wrong"], shares=[30, 60], budget_s=0.05).result(120)
    assert [failure.units for failure in again.failures] == [60], "the answers of the whole device are had again"
    assert [point.reused for point in again.points if point.units == 30] == [True]


def test_no_search_uses_a_share_with_wrong_answers_and_a_plan_by_hand_is_warned_of(lab: Lab) -> None:
    for name in ("a", "b"):
        lab.unregister(name)
    lab.register("wrong", WrongAt(60), torch.ones(2, 8))
    lab.profile(shares=[30, 60, 100], budget_s=0.05).result(120)
    assert lab.points.fit()["wrong"].avoid == (60,)
    assert "wrong: kept off 60 units, where its answers were wrong" in lab.search().notes
    with pytest.raises(InfeasibleError, match=r"share that is not ruled out.*none of 60 to 60"):
        lab.search(limits={"pinned": {"wrong": 60}})
    lab.plan = Plan(lanes=(Lane(units=60, members=("wrong",)),), units=100)
    lab.run(torch.ones(2, 8))
    assert lab.report is not None
    assert any("WRONG ANSWERS were found for wrong with 60 " in note for note in lab.report.notes)


def test_answers_that_are_random_are_not_compared(lab: Lab) -> None:
    lab.register("draws", Draws(), torch.ones(2, 8))
    profile = lab.profile(["draws"], shares=[30, 100], budget_s=0.05).result(120)
    assert not profile.failures
    assert {point.readings["answers_error"] for point in profile.points} == {RANDOM}


def two_lanes() -> Plan:
    return Plan(lanes=(Lane(units=50, members=("b",)), Lane(units=50, members=("a",))), units=100, searcher="by hand")


def shared(lab: Lab) -> bool:
    assert lab.state.executor is not None
    return lab.state.executor.lanes.input.shared


def test_a_large_input_is_brought_once_and_lent_to_the_other_lanes(lab: Lab, scripted: Path) -> None:
    lab.plan = two_lanes()
    first, second = mlp(seed=1), mlp(seed=2, width=64)
    for rows, large in ((4, False), (50_000, True), (60_000, True), (2, False)):
        for _ in range(3):  # every call has another input: one of the call before would be seen
            x = torch.randn(rows, 8)
            y = lab.run(x)
            assert shared(lab) == large
            with torch.inference_mode():
                torch.testing.assert_close(y, (first(x) + second(x)) / 2)
    (scripted / "no_ipc").touch()
    x = torch.randn(70_000, 8)
    y = lab.run(x)
    assert not shared(lab), "where memory cannot be lent, each lane brings its own"
    with torch.inference_mode():
        torch.testing.assert_close(y, (first(x) + second(x)) / 2)


def test_outputs_that_stay_on_the_gpu_are_combined_by_one_lane_which_reads_those_of_the_others(
    lab: Lab, scripted: Path
) -> None:
    lab.plan = two_lanes()
    first, second = mlp(seed=1), mlp(seed=2, width=64)

    def run(turn: int) -> bool:
        x = torch.randn(6, 8, generator=torch.Generator().manual_seed(turn))
        y = lab.run(x)
        with torch.inference_mode():
            torch.testing.assert_close(y, (first(x) + second(x)) / 2)
        assert lab.report is not None
        return ON_THE_GPU in lab.report.notes

    def choose_anew() -> None:
        assert lab.state.executor is not None
        combine_on_the_gpu(lab.state.executor)

    run(0)
    choose_anew()
    assert [run(turn) for turn in range(4)] == [False, True, True, True]
    choose_anew()
    (scripted / "no_ipc").touch()
    assert [run(turn) for turn in range(4)] == [False, False, False, False]
    assert lab.report is not None
    assert any("combined on the CPU" in note and "not supported" in note for note in lab.report.notes)


def test_a_lane_alone_combines_on_the_gpu_without_ipc(lab: Lab, scripted: Path) -> None:
    lab.plan = Plan(lanes=(Lane(units=50, members=("b", "a")),), units=100, searcher="by hand")
    x = torch.randn(6, 8)
    want = lab.run(x)
    assert lab.state.executor is not None
    combine_on_the_gpu(lab.state.executor)
    (scripted / "no_ipc").touch()
    for turn in range(3):
        torch.testing.assert_close(lab.run(x), want)
        assert lab.report is not None
        assert (ON_THE_GPU in lab.report.notes) == (turn > 0)


def test_a_lane_that_combines_and_dies_is_replaced(lab: Lab) -> None:
    lab.plan = two_lanes()
    x = torch.randn(6, 8)
    want = lab.run(x)
    assert lab.state.executor is not None
    executor = lab.state.executor
    combine_on_the_gpu(executor)
    lab.run(x)
    lab.run(x)
    assert executor.lanes.where.on_gpu
    for worker in executor._workers:
        os.kill(worker.pid, signal.SIGKILL)
    with contextlib.suppress(WorkerDied):  # seen at once or with the first word to it
        lab.run(x)
    torch.testing.assert_close(lab.run(x), want)


def test_a_lane_that_does_not_leave_is_ended_by_the_daemon_before_anything_kills_it(lab: Lab, scripted: Path) -> None:
    lab.run(torch.zeros(2, 8))
    (worker,) = [pid for label, pid in lab._runtime.fork_server.processes if label == "lane 1"]
    os.kill(worker, signal.SIGSTOP)  # it will not read that its lab has hung up, nor act on a SIGTERM
    lab.close()
    assert (scripted / "terminated").read_text().split() == [str(worker)]


def test_a_limit_that_is_not_in_force_stops_the_run_with_its_reason(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.device, "_placement", DoubleOutsideMps)
    with pytest.raises(DeviceError, match="is listed by the daemon"):
        lab.run(torch.zeros(2, 8))
    monkeypatch.undo()


def test_a_fault_ends_the_lanes_and_the_next_run_starts_afresh(lab: Lab, scripted: Path) -> None:
    x = torch.zeros(2, 8)
    y = lab.run(x)
    before = dict(lab._runtime.fork_server.processes)
    (scripted / "faulty").touch()
    with pytest.raises(DeviceError, match="stopped serving this lane while it ran"):
        lab.run(x)
    (scripted / "faulty").unlink()
    assert lab._runtime.fork_server.processes == ()
    assert torch.equal(lab.run(x), y)
    assert dict(lab._runtime.fork_server.processes) != before


def test_a_program_that_ends_without_closing_its_lab_ends_lanes_before_their_daemon(
    scripted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(DOUBLES), str(Path(__file__).parent), str(Path(__file__).parents[2])])
    )
    scripted_programs(scripted)
    program = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from cuda_doubles import GPU, MACHINE, DoubleOfMpsPlacement\n"
        "from models import Draws, WrongAt, mlp\n"
        "from test_lab_on_mps import start\n"
        "from esen_lab import Lab\n"
        "from esen_lab.devices.cuda.mps import CudaMpsDevice\n"
        "from esen_lab.devices.cuda.mps_control import find_programs\n"
        f"programs = find_programs([{str(scripted)!r}])\n"
        "device = CudaMpsDevice(GPU, MACHINE, programs=programs, start=start, placement=DoubleOfMpsPlacement)\n"
        f"lab = Lab(device, store={str(tmp_path / 'points.sqlite3')!r})\n"
        "lab.register('a', mlp(), torch.zeros(2, 8))\n"
        "lab.run(torch.zeros(2, 8))\n"
        "print(device.daemon.folder)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert not Path(ran.stdout.strip()).exists()
    assert (scripted / "clients_at_quit").read_text() == "0"
