"""What a run costs beyond its slowest lane: copies, wake-ups, collecting, combining, and cores that are not free.

    python benchmarks/bench_overhead.py [--seconds 2] [--runs 300] [--json benchmarks/results/overhead.json]

Two parts. In the first, lanes compute: an LSTM, depthwise convolutions, attention and an MLP on two cores, at batches
of 1, 24 and 512 sequences of 48 x 64, called back to back and with pauses. Their prediction comes from each network
alone in a lane, by the search, so JCT / bound says what running them together costs. Before some series the caller
computes something with all cores of its own, as notebooks do: the threads of that go on spinning for a while.

In the second, four lanes sleep and use no core, so that four lanes can be timed on a machine with two cores. The
longer they sleep, the colder the caches of the process that waits for them: a call of torch then costs 0.1 ms instead
of 0.005 ms. "spare" leaves the waiting process a core of its own, "full" gives every core to a lane.

    first     when the first lane starts, after the batch was handed over: copying and ending what spins is in it
    latest    how much later the last lane starts
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from esen_lab.devices import CpuDevice
from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.planner import allocate
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run import Executor, ForkServer, RunReport

NAMES = "abcd"
STEPS, WIDTH = 48, 64
BATCHES = (1, 24, 512)
PAUSES_S = (0.0, 0.002, 0.02)
LEAST_RUNS, MOST_RUNS = 8, 200

Row = dict[str, Any]


class Sleeper(nn.Module):
    """Takes a fixed time and no core."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input, later."""
        time.sleep(self.seconds)
        return x * 2


class Recurrent(nn.Module):
    """Two LSTM layers, one after another through time."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, T, C] -> [B, T, C]
        """Every step's hidden state."""
        return self.lstm(x)[0]


class Depthwise(nn.Module):
    """Depthwise convolutions over time, each with a pointwise one."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Conv1d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH), nn.Conv1d(WIDTH, WIDTH, 1), nn.GELU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, T, C] -> [B, T, C]
        """The convolved sequence."""
        return self.layers(x.transpose(1, 2)).transpose(1, 2)


def networks() -> dict[str, nn.Module]:
    """The four networks; the same seed makes the same ones."""
    torch.manual_seed(0)
    attention = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
    mlp: list[nn.Module] = []
    for _ in range(6):
        mlp += [nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH)]
    found = {"lstm": Recurrent(), "depthwise": Depthwise(), "attention": attention, "mlp": nn.Sequential(*mlp)}
    return {name: module.eval() for name, module in found.items()}


def computing(batch: int) -> Ensemble:
    """The four networks with an example of so many sequences."""
    x = torch.randn(batch, STEPS, WIDTH)
    submodels = tuple(make_submodel(name, module, x) for name, module in networks().items())
    return Ensemble(submodels=submodels, combine=make_combine("mean"))


def two_cores() -> CpuDevice:
    """The first two cores: the figures of the largest and the smallest machine can be compared."""
    return CpuDevice(cores=CpuDevice().cores[:2])


def planned(ensemble: Ensemble, device: CpuDevice, fork_server: ForkServer, *, budget_s: float = 0.5) -> Plan:
    """The exact search's plan from latencies of each network alone, as a profile finds them."""
    latencies: dict[str, list[float]] = {name: [] for name in ensemble.names}
    for units in range(1, device.units + 1):
        worker = fork_server.worker(device.place([units])[0])
        try:
            for submodel in ensemble.submodels:
                worker.load(submodel.name, submodel.payload(), submodel.example)
                timing = worker.call("esen_lab.profiler.timing:measure", submodel.name, timeout_s=60, budget_s=budget_s)
                latencies[submodel.name].append(timing["median_s"])
        finally:
            worker.close()
    found = allocate(latencies, units=device.units)
    lanes = tuple(Lane(units=units, members=members) for units, members in found.lanes)
    return Plan(lanes=lanes, units=device.units, jct_s=found.jct_s, bound_s=found.bound_s)


def by_torch() -> Callable[[], object]:
    """The caller's own work with two threads of torch."""
    a, b = torch.randn(400_000), torch.empty(400_000)
    return lambda: b.copy_(a)


def by_numpy() -> Callable[[], object]:
    """The caller's own work with the threads of NumPy's BLAS."""
    a = torch.randn(500, 500).numpy()
    return lambda: a @ a


BEFORE: Mapping[str, Callable[[], Callable[[], object]]] = {
    "": lambda: lambda: None,
    "torch": by_torch,
    "numpy": by_numpy,
}


def series(
    executor: Executor, x: torch.Tensor, *, pause_s: float, seconds: float, before: Callable[[], object]
) -> list[RunReport]:
    """Reports of as many runs as fit into `seconds`."""
    reports = []
    until = time.perf_counter() + seconds
    executor.run(x)
    while len(reports) < MOST_RUNS and (len(reports) < LEAST_RUNS or time.perf_counter() < until):
        if pause_s:
            time.sleep(pause_s)
        before()
        reports.append(executor.run(x).report)
    return reports


def row_of(reports: Sequence[RunReport], plan: Plan, **what: Any) -> Row:
    """What one series comes to: seconds, and ratios to the plan's prediction and bound."""
    starts = [[lane.start_s for lane in report.lanes] for report in reports]
    jct_s = statistics.median(report.jct_s for report in reports)
    assert plan.jct_s is not None
    assert plan.bound_s is not None
    return {
        **what,
        "runs": len(reports),
        "first_s": statistics.median(min(run) for run in starts),
        "latest_s": statistics.median(max(run) - min(run) for run in starts),
        "lanes_start_s": [statistics.median(lane) for lane in zip(*starts, strict=True)],
        "copy_s": statistics.median(report.copy_s for report in reports),
        "combine_s": statistics.median(report.combine_s for report in reports),
        "jct_s": jct_s,
        "predicted_s": plan.jct_s,
        "to_predicted": jct_s / plan.jct_s,
        "to_bound": jct_s / plan.bound_s,
    }


def lanes_that_compute(fork_server: ForkServer, seconds: float) -> list[Row]:
    """A row for every batch, pause and work of the caller's own."""
    rows = []
    device = two_cores()
    print(f"\n{'batch':>5} {'pause':>6} {'before':>7} {'copy':>8} {'first':>8} {'latest':>8} {'combine':>8}", end="")
    print(f" {'JCT':>9} {'/predicted':>10} {'/bound':>7}")
    for batch in BATCHES:
        ensemble = computing(batch)
        plan = planned(ensemble, device, fork_server)
        executor = Executor.start(plan, ensemble, device, fork_server)
        try:
            x = torch.randn(batch, STEPS, WIDTH)
            for before in BEFORE:
                for pause_s in PAUSES_S if not before else PAUSES_S[:1]:
                    reports = series(executor, x, pause_s=pause_s, seconds=seconds, before=BEFORE[before]())
                    row = row_of(reports, plan, batch=batch, pause_s=pause_s, before=before, lanes=plan.describe())
                    rows.append(row)
                    print(told(row), flush=True)
        finally:
            executor.close()
    return rows


def told(row: Row) -> str:
    """One line of the table of lanes that compute."""
    milli = [f"{row[key] * 1e3:8.2f}" for key in ("copy_s", "first_s", "latest_s", "combine_s")]
    return (
        f"{row['batch']:>5} {row['pause_s'] * 1e3:4.0f} ms {row['before'] or '-':>7} {' '.join(milli)}"
        f" {row['jct_s'] * 1e3:6.2f} ms {row['to_predicted']:10.2f} {row['to_bound']:7.2f}"
    )


def lanes_that_sleep(fork_server: ForkServer, runs: int) -> list[Row]:
    """A row for every length of sleep, with a core to spare and without."""
    cores = two_cores().cores
    rows = []
    x = torch.randn(4, 8)
    print(f"\n{'lanes':>8} {'core':>6} {'overhead: median':>18} {'p10':>9} {'p90':>9} {'copy+wake':>10} {'combine':>9}")
    for seconds in (0.0002, 0.001, 0.01):
        for spare in (False, True):
            device = CpuDevice(cores=[cores[index % len(cores)] for index in range(len(NAMES) + spare)])
            plan = Plan(lanes=tuple(Lane(units=1, members=(name,)) for name in NAMES), units=device.units)
            submodels = tuple(make_submodel(name, Sleeper(seconds), x) for name in NAMES)
            ensemble = Ensemble(submodels=submodels, combine=make_combine("mean"))
            executor = Executor.start(plan, ensemble, device, fork_server)
            try:
                reports = [executor.run(torch.randn(4, 8)).report for _ in range(runs)]
            finally:
                executor.close()
            spent = statistics.quantiles([report.overhead_s for report in reports], n=10)
            copy = statistics.median(min(span.start_s for span in report.spans) for report in reports)
            combine = statistics.median(report.combine_s for report in reports)
            row = {"sleep_s": seconds, "spare": spare, "overhead_s": spent[4], "p10_s": spent[0], "p90_s": spent[8]}
            rows.append({**row, "copy_s": copy, "combine_s": combine})
            micro = [f"{value * 1e6:.0f} µs" for value in (spent[4], spent[0], spent[8], copy, combine)]
            print(
                f"{seconds * 1e3:5g} ms {'spare' if spare else 'full':>6} {micro[0]:>18} {micro[1]:>9} {micro[2]:>9}"
                f" {micro[3]:>10} {micro[4]:>9}",
                flush=True,
            )
    return rows


def about() -> Row:
    """What the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": CpuDevice().units,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "environment": {key: value for key, value in os.environ.items() if key.startswith(("OMP_", "GOMP_", "KMP_"))},
    }


def main() -> None:
    """Print both tables and write them as JSON."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seconds", type=float, default=2.0, help="of each series of lanes that compute")
    words.add_argument("--runs", type=int, default=300, help="of each series of lanes that sleep")
    words.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "overhead.json")
    given = words.parse_args()
    fork_server = ForkServer()
    try:
        computed = lanes_that_compute(fork_server, given.seconds)
        slept = lanes_that_sleep(fork_server, given.runs)
    finally:
        fork_server.close()
    given.json.parent.mkdir(parents=True, exist_ok=True)
    record = {"about": about(), "compute": computed, "sleep": slept}
    given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
