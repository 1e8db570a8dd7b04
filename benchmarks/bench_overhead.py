"""What a run costs beyond its slowest lane: copies, wake-ups, collecting, combining.

    python benchmarks/bench_overhead.py [--runs 300]

Four lanes whose sub-models sleep and use no core, so that four lanes can be timed on a machine with two cores. The
longer they sleep, the colder the caches of the process that waits for them: a call of torch then costs 0.1 ms instead
of 0.005 ms. "spare" leaves the waiting process a core of its own, "full" gives every core to a lane.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from esen_lab.devices import CpuDevice
from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.planning import Lane, Plan
from esen_lab.runtime import Executor, Nursery, RunReport

NAMES = "abcd"
CORES = [(0,), (1,)]


class Sleeper(nn.Module):
    """Takes a fixed time and no core."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input, later."""
        time.sleep(self.seconds)
        return x * 2


def measure(nursery: Nursery, x: torch.Tensor, seconds: float, spare: bool, runs: int) -> list[RunReport]:
    """Reports of `runs` runs."""
    device = CpuDevice(cores=[CORES[index % 2] for index in range(len(NAMES) + spare)])
    plan = Plan(lanes=tuple(Lane(units=1, members=(name,)) for name in NAMES), units=device.units)
    submodels = tuple(make_submodel(name, Sleeper(seconds), x) for name in NAMES)
    executor = Executor.start(plan, Ensemble(submodels=submodels, combine=make_combine("mean")), device, nursery)
    try:
        return [executor.run(torch.randn(4, 8))[1] for _ in range(runs)]
    finally:
        executor.close()


def main() -> None:
    """Print a table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=int, default=300)
    runs = words.parse_args().runs
    x = torch.randn(4, 8)
    nursery = Nursery()
    print(f"{'lanes':>8} {'core':>6} {'overhead: median':>18} {'p10':>9} {'p90':>9} {'copy+wake':>10} {'combine':>9}")
    try:
        for seconds in (0.0002, 0.001, 0.01):
            for spare in (False, True):
                reports = measure(nursery, x, seconds, spare, runs)
                spent = statistics.quantiles([report.overhead_s for report in reports], n=10)
                copy = statistics.median(min(span.start_s for span in report.spans) for report in reports)
                combine = statistics.median(report.combine_s for report in reports)
                micro = [f"{value * 1e6:.0f} µs" for value in (spent[4], spent[0], spent[8], copy, combine)]
                core = "spare" if spare else "full"
                print(
                    f"{seconds * 1e3:5g} ms {core:>6} {micro[0]:>18} {micro[1]:>9} {micro[2]:>9} {micro[3]:>10}"
                    f" {micro[4]:>9}"
                )
    finally:
        nursery.close()


if __name__ == "__main__":
    main()
