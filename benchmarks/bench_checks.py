"""What it costs a run that lanes keep to the notebook: looks at the session's switches and at changed networks.

    python benchmarks/bench_checks.py [--pairs 2000]

Runs with and without these looks, in turns, of lanes that compute: small networks, whose runs take the looks least
well, and the four of `bench_overhead.py`. The look at switches comes before lanes wake; that at networks while they
work, where it costs nothing unless lanes are faster.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from bench_overhead import STEPS, WIDTH, networks

from esen_lab import Lab
from esen_lab.planner.plan import Lane, Plan


@contextmanager
def unchecked(lab: Lab) -> Iterator[None]:
    """Runs inside believe that nothing has changed."""
    runtime = lab._runtime
    server, originals = runtime.fork_server, runtime.state.originals
    settings = server.look_at_session()
    server.look_at_session = lambda: settings  # type: ignore[method-assign]
    type_of = type(originals)
    changed, type_of.changed = type_of.changed, lambda *_: False  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del server.look_at_session  # type: ignore[method-assign]
        type_of.changed = changed  # type: ignore[method-assign]


def microseconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    begun = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - begun)


def measured(lab: Lab, x: Any, pairs: int) -> tuple[float, float, float]:
    """Medians in microseconds: a run, what it is longer by than one without looks, and the look at switches alone."""
    for _ in range(50):
        lab.run(x)
    whole, longer = [], []
    for number in range(pairs):
        first = number % 2 == 0
        with_them = microseconds(lambda: lab.run(x)) if first else 0.0
        with unchecked(lab):
            without = microseconds(lambda: lab.run(x))
        with_them = with_them or microseconds(lambda: lab.run(x))
        whole.append(with_them)
        longer.append(with_them - without)
    looks = [microseconds(lab._runtime.fork_server.look_at_session) for _ in range(pairs)]
    return statistics.median(whole), statistics.median(longer), statistics.median(looks)


def small() -> dict[str, nn.Module]:
    """Four MLPs, of few microseconds each."""
    torch.manual_seed(0)
    return {name: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)).eval() for name in "abcd"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    pairs = parser.parse_args().pairs
    print(f"{'networks':>12} {'a run':>12} {'longer by':>12} {'look at switches':>18}   us, medians of {pairs} pairs")
    for title, made, x in (
        ("small", small(), torch.randn(1, WIDTH)),
        ("of overhead", networks(), torch.randn(1, STEPS, WIDTH)),
    ):
        with Lab("cpu") as lab:
            for name, module in made.items():
                lab.register(name, module, example=x)
            names = tuple(made)
            lab.plan = Plan(lanes=(Lane(units=1, members=names[:2]), Lane(units=1, members=names[2:])), units=2)
            run, longer, look = measured(lab, x, pairs)
        print(f"{title:>12} {run:12.1f} {longer:12.1f} {look:18.1f}", flush=True)


if __name__ == "__main__":
    main()
