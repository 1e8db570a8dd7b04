"""Lanes find their cores free: runs start no threads here, and what others left spinning does not hold lanes up."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from models import mlp
from runtime_cases import ensemble_of, plan_of
from threads_seen import in_new_thread, tasks
from torch import nn

from esen_lab.common.trees import Tree, flatten
from esen_lab.devices import CpuDevice
from esen_lab.ensemble import Combine, Ensemble, make_combine
from esen_lab.lanes.openmp import CallersThreads
from esen_lab.planner.plan import Plan
from esen_lab.run import Executor, ForkServer, compare

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
Start = Callable[[Plan, Ensemble], Executor]


class Twice(nn.Module):
    """Puts out what it is given, doubled, as one tensor, a tuple or a dict."""

    def __init__(self, form: str = "tensor", dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.form = form
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> Any:
        y = (x * 2).to(self.dtype or x.dtype)
        return {"tensor": y, "tuple": (y, y[:1]), "dict": {"y": y.transpose(0, 1)}}[self.form]


def started_since(before: set[str]) -> set[str]:
    """Threads that have come to stay: those of a pool do, one that ends what an earlier test left does not."""
    until = time.monotonic() + 20.0
    while (found := tasks() - before) and time.monotonic() < until:
        time.sleep(0.01)
    return found


RULES: dict[str, Combine] = {
    "mean": make_combine("mean"),
    "softmax-mean": make_combine("softmax-mean"),
    "weighted": make_combine("weighted", weights={"a": 1, "b": 2}),
    "majority": make_combine("majority"),
    "stack": make_combine("stack"),
}
SIZES = {"beyond torch's grain": (24, 48, 64), "large": (8, 512, 64)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "half", "double"])
def test_runs_with_large_inputs_and_outputs_start_no_thread_here(
    start: Start, monkeypatch: pytest.MonkeyPatch, form: str, size: str
) -> None:
    monkeypatch.setattr(CallersThreads, "quieten", lambda _: None)  # it would end what the copy started
    dtype = {"half": torch.float16, "double": torch.float64}.get(form)
    kind = "tensor" if dtype else form
    x = torch.randn(SIZES[size])
    executor = start(plan_of(("a",), ("b",)), ensemble_of(a=Twice(kind, dtype), b=Twice(kind, dtype), example=x[:2]))

    given = (x, x.transpose(1, 2).contiguous().transpose(1, 2), x.numpy(), x.clone().requires_grad_())
    outputs: list[tuple[Tree, Tree]] = []

    def run() -> None:
        before = tasks()
        for rule, combine in RULES.items():
            executor.ensemble = Ensemble(submodels=executor.ensemble.submodels, combine=combine)
            for one in given:
                output = executor.run(one).output
                assert started_since(before) == set(), rule
            again = executor.run_members(x).output
            assert started_since(before) == set(), rule
            outputs.append((output, again))

    in_new_thread(run)
    for output, again in outputs:
        assert all(torch.equal(one, other) for one, other in zip(leaves(output), leaves(again), strict=True))


def leaves(tree: Tree) -> list[torch.Tensor]:
    return flatten(tree)[0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("elements", [32_768, 73_728, 131_072, 200_000])
def test_large_outputs_are_combined_to_the_bit_as_with_all_threads(start: Start, rule: str, elements: int) -> None:
    x = torch.randn(elements // 64, 64)
    executor = start(plan_of(("a",), ("b",)), ensemble_of(a=Twice(), b=nn.Tanh(), example=x))
    executor.ensemble = Ensemble(submodels=executor.ensemble.submodels, combine=RULES[rule])
    outputs = [executor.run(x).output for _ in range(3)]
    expected = RULES[rule]({"a": x * 2, "b": torch.tanh(x)})
    assert all(torch.equal(output, expected) for output in outputs)


def test_a_function_of_the_users_own_computes_with_the_threads_it_would_have_outside(start: Start) -> None:
    found: list[int] = []

    def first(outputs: dict[str, Tree]) -> Tree:
        found.append(torch.get_num_threads())
        return outputs["a"]

    executor = start(plan_of(("a",)), ensemble_of(a=mlp()))
    executor.ensemble = Ensemble(submodels=executor.ensemble.submodels, combine=make_combine(first))
    in_new_thread(lambda: executor.run(torch.randn(4, 8)), torch_threads=3)
    assert found == [3]


def test_what_other_threads_took_of_the_lanes_cores_stands_in_the_report(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = start(plan_of(("a",)), ensemble_of(a=mlp()))
    spared = start(plan_of(("a",), units=2), ensemble_of(a=mlp()))
    monkeypatch.setattr(CallersThreads, "disturbed", lambda _, jct_s: "Others computed.")
    assert "Others computed." in executor.run(torch.randn(4, 8)).report.notes
    assert "Others computed." not in spared.run(torch.randn(4, 8)).report.notes


def test_a_comparison_waits_for_the_lanes_of_all_strategies_before_each(
    fork_server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[set[int]] = []
    monkeypatch.setattr(
        import_module("esen_lab.run.in_pairs"), "wait_until_still", lambda pids: waited.append(set(pids))
    )
    device = CpuDevice(cores=[(0,), (0,)])
    compare(
        torch.randn(4, 8),
        plan_of(("a",), ("b",)),
        ensemble_of(a=mlp(seed=1), b=mlp(seed=2)),
        device,
        fork_server,
        rounds=2,
        strategies=["sequential"],
    )
    assert len(waited) == 4  # two strategies, two rounds
    assert [len(pids) for pids in waited] == [3] * 4


@pytest.mark.timing
def test_lanes_start_at_once_after_the_users_own_call_with_several_threads(fork_server: ForkServer) -> None:
    device = CpuDevice()
    units = min(device.units, 4)
    names = [f"m{index}" for index in range(units)]
    x = torch.randn(24, 48, 64)
    plan = plan_of(*((name,) for name in names), units=units)
    deep = nn.Sequential(*(nn.Linear(64, 64) for _ in range(40)))
    ensemble = ensemble_of(example=x, **dict.fromkeys(names, deep))
    executor = Executor.start(plan, ensemble, CpuDevice(cores=device.cores[:units]), fork_server)
    a, b = torch.randn(400_000), torch.empty(400_000)
    latest: list[float] = []

    def run() -> None:
        for _ in range(30):
            time.sleep(0.002)
            b.copy_(a)
            report = executor.run(x).report
            latest.append(max(lane.start_s for lane in report.lanes) - report.copy_s)

    try:
        in_new_thread(run, torch_threads=units)
    finally:
        executor.close()
    assert statistics.median(latest) < 0.001
