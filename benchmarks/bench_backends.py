"""Every backend of the CPU on the four networks of bench_overhead.py, one core, and what a call costs by itself.

    python benchmarks/bench_backends.py [--rounds 60] [--bf16] [--json benchmarks/results/backends.json]

The first table has medians of interleaved rounds, so that a busy moment of the machine meets all backends alike, and
beside them what preparing took: once where nothing was kept, and again in a process that finds what the first has kept.
The second is a network that computes next to nothing: its latency is the overhead of a call.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench_overhead import STEPS, WIDTH, networks
from torch import nn

from esen_lab.common.units import BACKENDS, format_seconds, format_table
from esen_lab.errors import DeviceError
from esen_lab.lanes.backends import backend, backend_parts, why_not
from esen_lab.lanes.backends._cache import cache_for
from esen_lab.lanes.backends._executed import Executed
from esen_lab.lanes.backends._protocol import BackendSettings

BATCH = 24

Row = dict[str, Any]


def made(module: nn.Module, name: str, fingerprint: str, x: torch.Tensor) -> tuple[Executed, float]:
    """A network with a backend, ready for `x`, and how long that took."""
    kind = backend(name)
    cache = cache_for(fingerprint, name, kind.version())
    began = time.perf_counter()
    executed = Executed(module, name, kind, BackendSettings(precision=backend_parts(name)[1], cache=cache))
    with torch.no_grad():
        executed(x)
    return executed, time.perf_counter() - began


def measured(module: nn.Module, x: torch.Tensor, what: str, names: list[str], rounds: int) -> list[Row]:
    """A row for every backend of one network."""
    ready: dict[str, Executed] = {}
    rows: dict[str, Row] = {}
    for name in names:
        try:
            _, prepare_s = made(module, name, what, x)
            ready[name], again_s = made(module, name, what, x)
            rows[name] = {"network": what, "backend": name, "prepare_s": prepare_s, "again_s": again_s}
        except DeviceError as problem:
            print(f"{what}: no {name}: {problem}", flush=True)
    taken: dict[str, list[float]] = {name: [] for name in ready}
    with torch.inference_mode():
        for _ in range(rounds):
            for name, executed in ready.items():
                executed(x)  # the caches are this one's now
                began = time.perf_counter()
                executed(x)
                taken[name].append(time.perf_counter() - began)
    return [{**rows[name], "median_s": statistics.median(taken[name])} for name in ready]


def main() -> None:
    """Print both tables and write them as JSON."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=60)
    words.add_argument("--bf16", action="store_true", help="also with matrix products in bfloat16")
    words.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "backends.json")
    given = words.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    names = [name for name in BACKENDS if not why_not(name)]
    names += [f"{name}@bf16" for name in names if given.bf16 and not why_not(f"{name}@bf16")]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["ESEN_LAB_HOME"] = home
        for what, module in networks().items():
            rows += measured(module.eval(), torch.randn(BATCH, STEPS, WIDTH), what, names, given.rounds)
        rows += measured(nn.Linear(4, 4).eval(), torch.randn(1, 4), "a call", names, 20 * given.rounds)
    columns = ("network", "backend", "median", "prepared in", "and again")
    figures = ("median_s", "prepare_s", "again_s")
    table = [(row["network"], row["backend"], *(format_seconds(row[key]) for key in figures)) for row in rows]
    print(format_table(columns, table))
    about = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    about |= {name: backend(name).version() for name in names if backend(name).version()}
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
