"""Ensembles to plan for: made up from a seed, so that every figure can be repeated."""

from __future__ import annotations

import numpy as np

Latencies = dict[str, list[float]]


def make_latencies(n: int, units: int, seed: int, *, noise: float = 0.0) -> Latencies:
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
