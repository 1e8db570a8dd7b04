"""How long placements over many nodes take to find, and how far they are at most from the best: prints two tables.

    python benchmarks/bench_cluster.py [--seeds 3] [--members 5,10,40] [--nodes 2,4,10,100]

A simulation: no node is there. Nodes are of four kinds, as a profile of one of each gives them: 8, 16, 16 and 32 cores,
and other processors, so that sub-models are 0.7 to 1.8 times as fast, each its own way. Latencies follow Amdahl's law
with an end of scaling and 3 % noise. The first node is where the caller is; to each other one an input takes 2.5 ms and
outputs 0.5 ms and 0.2 ns a byte, which are figures of Ray actors on one machine with its largest objects. Outputs are
those of classifiers: 4 to 400 kB.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from esen_lab.planner.nodes import NodeLink
from esen_lab.studies.placement import DevicePlacement, DeviceTables, place
from esen_lab.studies.replicas import replicate

UNITS = (8, 16, 16, 32)
LINK = NodeLink(input_s=2.5e-3, latency_s=0.5e-3, byte_s=2e-10)
MEMBERS, NODES = (5, 10, 40), (2, 4, 10, 100)


def a_cluster(members: int, nodes: int, seed: int) -> tuple[list[DeviceTables], dict[str, int]]:
    """Nodes, and how many bytes each sub-model answers with."""
    random = np.random.default_rng([members, seed])
    names = [f"m{i}" for i in range(members)]
    work_s = np.exp(random.uniform(np.log(0.02), np.log(1.0), members))
    serial = random.uniform(0.01, 0.2, members)
    scales_to = random.uniform(2, 32, members)
    kinds = []
    for units in UNITS:
        shares = np.arange(1, units + 1)
        speed = random.uniform(0.7, 1.8, members)
        parallel = (1 - serial)[:, None] / np.minimum(shares, scales_to[:, None])
        table = (work_s / speed)[:, None] * (serial[:, None] + parallel)
        kinds.append(table * np.exp(random.normal(0, 0.03, table.shape)))
    tables = [dict(zip(names, table.tolist(), strict=True)) for table in kinds]
    made = [
        DeviceTables(name=f"n{j}", units=UNITS[j % 4], latencies=tables[j % 4], link=NodeLink() if j == 0 else LINK)
        for j in range(nodes)
    ]
    return made, {name: int(random.choice([4_000, 40_000, 400_000])) for name in names}


def _used(found: DevicePlacement) -> int:
    return sum(lanes is not None for _, lanes in found.devices)


def _numbers(given: str) -> tuple[int, ...]:
    return tuple(int(number) for number in given.split(","))


def main() -> None:
    """Search and print."""
    parser = argparse.ArgumentParser(description="Time placements over many nodes.")
    parser.add_argument("--seeds", type=int, default=3, help="clusters of each size")
    parser.add_argument("--members", type=_numbers, default=MEMBERS, help="numbers of sub-models")
    parser.add_argument("--nodes", type=_numbers, default=NODES, help="numbers of nodes")
    asked = parser.parse_args()
    sizes = [(members, nodes) for members in asked.members for nodes in asked.nodes]
    print("| sub-models x nodes | search, s: median, longest | gap: mean, largest | proven | used | first node alone |")
    print("|---|---|---|---|---|---|")
    for members, nodes in sizes:
        placed = []
        alone = []
        for seed in range(asked.seeds):
            cluster, output_bytes = a_cluster(members, nodes, seed)
            found = place(cluster, output_bytes=output_bytes)
            placed.append(found)
            alone.append(place(cluster[:1], output_bytes=output_bytes).jct_s / found.jct_s)
        took_s, gaps = [found.elapsed_s for found in placed], [found.gap for found in placed]
        used = sorted(_used(found) for found in placed)
        print(
            f"| {members} x {nodes} | {statistics.median(took_s):.2f}, {max(took_s):.2f} | "
            f"{statistics.fmean(gaps):.2%}, {max(gaps):.2%} | "
            f"{sum(found.proven for found in placed)} of {len(placed)} | {used[0]} to {used[-1]} | "
            f"{statistics.median(alone):.1f} times as long |",
            flush=True,
        )
    print(
        "\n| sub-models x nodes | replicas | groups placed | search, s | gap: throughput | nodes for half of it: gap |"
    )
    print("|---|---|---|---|---|---|")
    for members, nodes in sizes:
        cluster, output_bytes = a_cluster(members, nodes, 0)
        begun_s = time.perf_counter()
        most = replicate(cluster, output_bytes=output_bytes)
        both_s = time.perf_counter() - begun_s
        half = replicate(cluster, rate_per_s=most.calls_per_s / 2, busy=1.0, output_bytes=output_bytes)
        print(
            f"| {members} x {nodes} | {len(most.replicas)} on {most.nodes} nodes | {most.evaluations} | {both_s:.2f} | "
            f"{most.gap:.2%}{', proven' if most.proven else ''} | {half.nodes}, at least {half.least_nodes} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
