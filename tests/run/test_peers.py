"""Engines as people use them without a plan, beside one: what they are, that they run apart, and what rows say."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from backend_nets import Branches, lacking
from models import mlp
from runtime_cases import X, ensemble_of, plan_of
from torch import nn

from esen_lab.devices import CpuDevice
from esen_lab.errors import UsageError, WorkerDied
from esen_lab.planner.plan import Plan
from esen_lab.run import PEERS, Comparison, Executor, ForkServer, compare, peer_of, peers_here
from esen_lab.run.baselines import NotApplicable
from esen_lab.run.peer_start import PeerStart
from esen_lab.run.peers import peer_plans, setting_of

DEVICE = CpuDevice(cores=[(0,), (0,)])
TWO = {"a": mlp(seed=1), "b": mlp(seed=2)}
openvino = lacking("openvino")
onnxruntime = lacking("onnxruntime")


def compared(fork_server: ForkServer, modules: dict[str, nn.Module], **options: object) -> Comparison:
    plan = plan_of(*((name,) for name in modules))
    return compare(X, plan, ensemble_of(**modules), DEVICE, fork_server, **{"rounds": 2, **options})  # type: ignore[arg-type]


def test_a_peer_is_one_lane_with_the_whole_device_and_every_network_in_its_engine() -> None:
    for name in peers_here(DEVICE):
        for plan in peer_plans(name, ensemble_of(**TWO), DEVICE):
            (lane,) = plan.lanes
            assert lane.units == DEVICE.units
            assert set(lane.backends) == {PEERS[name].backend}


@onnxruntime
def test_where_networks_run_side_by_side_one_thread_an_equal_part_and_all_are_tried() -> None:
    eight = CpuDevice(cores=[(0,)] * 8)
    plans = peer_plans("onnxruntime-pool", ensemble_of(**TWO), eight)
    assert [plan.lanes[0].active_units for plan in plans] == [(1, 1), (4, 4), (8, 8)]
    assert "in a thread pool, each with 4 threads" in setting_of("onnxruntime-pool", plans[1])


@openvino
def test_bfloat16_is_asked_for_with_the_name_and_said() -> None:
    (plan,) = peer_plans("openvino-sequential@bf16", ensemble_of(**TWO), DEVICE)
    assert plan.lanes[0].backends == ("openvino@bf16",) * 2
    assert "bfloat16" in setting_of("openvino-sequential@bf16", plan)
    assert peer_of("sequential@bf16") is None


def test_what_is_not_installed_is_not_applicable_and_not_among_those_that_are_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert peers_here(DEVICE) == ("channels_last", "inductor")
    with pytest.raises(NotApplicable, match="OpenVINO is not installed"):
        peer_plans("openvino-async", ensemble_of(**TWO), DEVICE)


@openvino
@onnxruntime
def test_peers_run_in_the_same_rounds_and_say_how_they_are_set(fork_server: ForkServer) -> None:
    table = compared(fork_server, TWO, strategies=["openvino-async"], peers=["onnxruntime-pool"])
    assert [row.strategy for row in table.rows] == ["sequential", "openvino-async", "onnxruntime-pool", "plan"]
    for name in ("openvino-async", "onnxruntime-pool"):
        row = table.row(name)
        assert row.agrees
        assert not row.fallen_back
        assert len(row.times_s) == 2
        assert "the fastest of 2 settings" in row.setting
        assert f"{name}: {row.setting}." in str(table)
    assert {worker for worker in fork_server._workers if worker.alive} == set()


@openvino
def test_a_network_that_a_peer_does_not_take_runs_eagerly_there_and_its_row_says_so(fork_server: ForkServer) -> None:
    table = compared(fork_server, {"a": mlp(outputs=8), "odd": Branches()}, strategies=["openvino-async"])
    row = table.row("openvino-async")
    assert row.agrees
    assert list(row.fallen_back) == ["odd"]
    assert row.cells["lanes"].endswith("but eagerly: odd")
    assert any("torch.export cannot trace it" in note for note in table.notes)


def test_a_peer_that_takes_no_network_at_all_is_not_applicable(fork_server: ForkServer) -> None:
    row = compared(fork_server, TWO, strategies=["channels_last"]).row("channels_last")
    assert not row.applicable
    assert "no weights of four or five dimensions" in row.failed


def test_a_peer_that_nobody_named_is_left_out_where_it_is_not_ready_in_time(fork_server: ForkServer) -> None:
    table = compared(fork_server, {"image": nn.Flatten()}, peers=["inductor"], strategies=[], prepare_s=0.0)
    row = table.row("inductor")
    assert not row.applicable
    assert "peers=inductor waits for it" in row.failed
    assert not table.row("plan").failed


def test_the_verdict_is_against_the_best_of_all(fork_server: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.reshape(-1, 1, 4, 2).repeat(1, 1, 1, 2)).flatten(1)

    run = Executor.run

    def slowed(self: Executor, x: torch.Tensor, **given: object) -> object:
        found = run(self, x, **given)  # type: ignore[arg-type]
        factor = 1.0 if self.plan.searcher == "channels_last" else 1000.0
        object.__setattr__(found.report, "jct_s", found.report.jct_s * factor)
        return found

    monkeypatch.setattr(Executor, "run", slowed)
    ensemble = ensemble_of(a=Image(), b=Image())
    table = compare(
        X, plan_of(("a",), ("b",)), ensemble, DEVICE, fork_server, rounds=6, strategies=["equal", "channels_last"]
    )
    assert "channels_last" in table.verdict
    assert "loses" in table.verdict or "too unsteady" in table.verdict


# --- functions of one's own -------------------------------------------------------------------------------------------


def test_functions_of_ones_own_are_called_in_the_same_rounds_and_checked(fork_server: ForkServer) -> None:
    def mean(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return torch.stack([module(x) for module in TWO.values()]).mean(0)

    def raises(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such server")

    ways = {"by hand": mean, "wrong": lambda x: mean(x) + 1, "broken": raises}
    table = compared(fork_server, TWO, strategies=["sequential"], ways=ways)
    assert [row.strategy for row in table.rows] == ["sequential", "by hand", "wrong", "broken", "plan"]
    assert table.row("by hand").agrees
    assert len(table.row("by hand").times_s) == 2
    assert not table.row("wrong").agrees
    assert table.row("broken").outputs == "failed"
    assert "broken: ValueError: no such server." in str(table)


def test_names_that_are_taken_and_what_is_no_function_are_refused(fork_server: ForkServer) -> None:
    with pytest.raises(UsageError, match="A function to compare with has a name that no strategy has"):
        compared(fork_server, TWO, ways={"inductor": lambda x: x})
    with pytest.raises(UsageError, match="is called with the input"):
        compared(fork_server, TWO, ways={"mine": 3})
    with pytest.raises(UsageError, match=r"A strategy is one of: sequential, .*inductor"):
        compared(fork_server, TWO, peers=["tensorflow"])


class Lanes:
    """Of a setting of a peer: raises in its first run, or not."""

    def __init__(self, plan: Plan, problem: BaseException | None) -> None:
        self.plan, self.problem = plan, problem
        self.history = SimpleNamespace(fallen_back={})
        self.pids: list[int] = []
        self.closed = False

    def run(self, _: object) -> Any:
        if self.problem is not None:
            raise self.problem
        return SimpleNamespace(report=SimpleNamespace(jct_s=0.001))

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("problem", [WorkerDied("the lane ended"), KeyboardInterrupt()])
@onnxruntime
def test_a_setting_that_fails_while_it_is_tried_leaves_no_lanes(problem: BaseException) -> None:
    plans = peer_plans("onnxruntime-pool", ensemble_of(**TWO), CpuDevice(cores=[(0,)] * 4))
    lanes = [Lanes(plan, problem if number == 1 else None) for number, plan in enumerate(plans)]
    waiting = iter(lanes)
    start = PeerStart(lambda *_: next(waiting), X, (), None)  # type: ignore[arg-type, return-value]
    if isinstance(problem, WorkerDied):
        kept, told = start("onnxruntime-pool", plans)
        assert (kept, [each.closed for each in lanes]) == (lanes[0], [False, True, False])
        assert "each with 1 thread" in told
    else:
        with pytest.raises(KeyboardInterrupt):
            start("onnxruntime-pool", plans)
        assert [each.closed for each in lanes] == [True, True, False]
