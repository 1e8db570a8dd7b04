"""What a call of a plan over two nodes of Ray costs, by payload: beside the same plan's lanes on one machine.

    python benchmarks/cluster/bench_nodes.py [--calls 100]

Two raylets on this machine, one core each; members that copy their input, so that nearly all of it is the way. Then
the same with outputs as wide as the input, combined here and on the node that has most of them: where that is faster
is for `COMBINED_THERE_BYTES` of `esen_lab/cluster/nodes_call.py`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "doubles"))

import torch
from torch import nn

from esen_lab import Lab
from esen_lab.cluster import nodes_call
from esen_lab.planner.plan import Lane, Plan

ROWS = (1, 100, 10_000, 300_000)
COLUMNS = 64
STORE_BYTES = 600 * 2**20  # as large inputs need: less would be written to the disk with every call


def seconds(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """The median and the 90th percentile of a call, in seconds, after a few that do not count."""
    for _ in range(5):
        call()
    taken = []
    for _ in range(calls):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken), statistics.quantiles(taken, n=10)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100)
    calls = parser.parse_args().calls
    from local_ray import LocalRay

    with LocalRay("left", "right", store_bytes=STORE_BYTES) as ray, Lab("cpu") as lab:
        register(lab, columns=4)
        here = Plan(lanes=(Lane(units=1, members=("a", "b")), Lane(units=1, members=("c", "d"))), units=2)
        lanes = (Lane(units=1, members=("a", "b"), device="left"), Lane(units=1, members=("c", "d"), device="right"))
        nodes = Plan(lanes=lanes, units=1, devices={"left": 1, "right": 1})
        print(f"{'input':>10} {'one machine':>22} {'two nodes':>22} {'of it network':>15}")
        inputs = [torch.randn(rows, COLUMNS) for rows in ROWS]
        lab.plan = here
        alone = [(lab.run(x), *seconds(lambda x=x: lab.run(x), calls)) for x in inputs]
        lab.cluster.connect(ray.address)
        lab.plan = nodes
        for x, (answer, median, high) in zip(inputs, alone, strict=True):
            assert torch.equal(lab.run(x), answer)
            there, there_high = seconds(lambda x=x: lab.run(x), calls)
            assert lab.report is not None
            network = max(node.network_s for node in lab.report.nodes)
            size = f"{x.numel() * 4 / 1e3:.1f} kB"
            print(
                f"{size:>10} {median * 1e3:9.2f} ({high * 1e3:7.2f}) ms {there * 1e3:9.2f} ({there_high * 1e3:7.2f}) ms"
                f" {network * 1e3:12.2f} ms",
                flush=True,
            )
        register(lab, columns=COLUMNS)
        print(f"{'outputs':>10} {'combined here':>22} {'on a node':>22}")
        for x in inputs:
            size = f"{4 * x.numel() * 4 / 1e3:.1f} kB"
            took = []
            for least in (2**62, 0):
                nodes_call.COMBINED_THERE_BYTES = least
                took.append(seconds(lambda x=x: lab.run(x), calls))
            (here_s, here_high), (there_s, there_high) = took
            print(
                f"{size:>10} {here_s * 1e3:9.2f} ({here_high * 1e3:7.2f}) ms"
                f" {there_s * 1e3:9.2f} ({there_high * 1e3:7.2f}) ms",
                flush=True,
            )


def register(lab: Lab, columns: int) -> None:
    """Four members that answer with so many columns."""
    for name in "abcd":
        lab.register(name, nn.Sequential(nn.Linear(COLUMNS, columns)), example=torch.zeros(1, COLUMNS))


if __name__ == "__main__":
    main()
