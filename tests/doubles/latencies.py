"""Ensembles to plan for: made up from a seed, so that every figure can be repeated; and curves that were recorded."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Latencies = dict[str, list[float]]
_RECORDED = Path(__file__).parents[1] / "data" / "muxserve_a100_mps.csv"


def make_latencies(n: int, units: int, seed: int | Sequence[int], *, noise: float = 0.0) -> Latencies:
    """Latencies between 1 and 10 ms with a part that no share shortens, knees from a quarter of the device up.

    With noise, tables are not monotone.
    """
    random = np.random.default_rng(seed)
    shares = np.arange(1, units + 1)
    tables = {}
    for i in range(n):
        base_s = np.exp(random.uniform(np.log(1e-3), np.log(1e-2)))
        knee = random.uniform(max(1, units / 4), 1.5 * units)
        fixed = random.uniform(0.02, 0.4)
        table = base_s * (fixed + (1 - fixed) * np.maximum(1, knee / shares))
        tables[f"m{i}"] = (table * np.exp(random.normal(0, noise, units))).tolist()
    return tables


def recorded_curves() -> dict[tuple[str, ...], dict[int, float]]:
    """The curves of an A100 under MPS that are whole: seconds at 30 to 100 percent, by what was run."""
    curves: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    with _RECORDED.open(encoding="utf-8") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            key = (row["phase"], row["model"], row["n_gpus"], row["batch_size"], row["seq_len"])
            curves[key][int(row["share_pct"])] = float(row["latency_ms"]) / 1e3
    return {key: curve for key, curve in curves.items() if len(curve) == 8}
