"""How long the search takes on large CPU servers, and how far its plans are at most from the best: prints a table.

    python benchmarks/bench_large.py [--seeds 3] [--limit 2.0]

Ensembles are made up as they come from a profile: each sub-model by five backends, measured with 2 % noise at the
shares that are measured by default, fitted, and the fastest backend taken at each share. Latencies have a serial part,
an end of scaling and a cost of each core, and rise where a lane leaves its L3 domain (8 cores) and its node (half of
the machine).
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from esen_lab.cost_model import fit_points
from esen_lab.planner import allocate
from esen_lab.profiler import default_shares

BACKENDS = 5
L3_CORES = 8
SIZES = ((12, 64), (24, 64), (12, 192), (16, 192), (24, 192), (32, 192))

Tables = dict[str, list[float]]


def on_a_server(n: int, units: int, seed: int) -> Tables:
    """Seconds of `n` sub-models at 1..units cores, each by its fastest backend."""
    random = np.random.default_rng([n, units, seed])
    return {f"m{i}": _fastest(random, units) for i in range(n)}


def _fastest(random: np.random.Generator, units: int) -> list[float]:
    shares = np.arange(1, units + 1)
    measured = default_shares(units, (L3_CORES, units // 2))
    work_s = np.exp(random.uniform(np.log(5e-3), np.log(1.0)))
    curves = []
    for _ in range(BACKENDS):
        alone_s = work_s * np.exp(random.normal(0, 0.35))
        serial, each_core_s, scales_to = random.uniform(0.005, 0.15), random.uniform(0, 3e-5), random.uniform(8, units)
        curve = alone_s * (serial + (1 - serial) / np.minimum(shares, scales_to)) + each_core_s * shares
        curve *= np.where(shares > L3_CORES, random.uniform(1, 1.15), 1)
        curve *= np.where(shares > units // 2, random.uniform(1, 1.3), 1)
        points = {share: float(curve[share - 1] * np.exp(random.normal(0, 0.02))) for share in measured}
        curves.append(fit_points("m", points, units).latency_s)
    return [float(latency_s) for latency_s in np.min(curves, axis=0)]


def main() -> None:
    """Search and print."""
    parser = argparse.ArgumentParser(description="Time the search on large CPU servers.")
    parser.add_argument("--seeds", type=int, default=3, help="ensembles of each size")
    parser.add_argument("--limit", type=float, default=2.0, help="the search's time limit, in seconds")
    asked = parser.parse_args()
    print("| sub-models x cores | tables, s | search, s: median, longest | gap: mean, largest | proven |")
    print("|---|---|---|---|---|")
    for n, units in SIZES:
        made_s, took_s, gaps, proven = [], [], [], 0
        for seed in range(asked.seeds):
            begun_s = time.perf_counter()
            tables = on_a_server(n, units, seed)
            made_s.append(time.perf_counter() - begun_s)
            begun_s = time.perf_counter()
            found = allocate(tables, units, time_limit_s=asked.limit)
            took_s.append(time.perf_counter() - begun_s)
            gaps.append(found.gap)
            proven += found.proven
        print(
            f"| {n} x {units} | {statistics.median(made_s):.2f} | {statistics.median(took_s):.2f}, {max(took_s):.2f} | "
            f"{statistics.fmean(gaps):.2%}, {max(gaps):.2%} | {proven} of {asked.seeds} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
