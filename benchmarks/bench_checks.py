"""What it costs a run that lanes keep to the notebook: looks at the session's switches and at changed networks.

    python benchmarks/bench_checks.py [--pairs 2000]

Runs with and without these looks, in turns, of lanes that compute: small networks, whose runs take the looks least
well, and the four of `bench_overhead.py`; on two cores as two lanes, and as one that leaves a core free. The look at
switches comes before lanes wake. That at networks comes while they work: at once where a core is free, else when a lane
is done with one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from bench_overhead import STEPS, WIDTH, networks

from esen_lab import Lab
from esen_lab.planner.plan import Lane, Plan


class Looks:
    """The looks of a lab, which can be left out: its runs then believe that nothing has changed.

    Replaced once and not for each run: Python forgets what it knows of a class that is written to, and takes long to
    learn it again.

    Attributes:
        out: Whether they are left out.
        took_us: What each look at networks took.
    """

    def __init__(self, lab: Lab) -> None:
        server, originals = lab._runtime.fork_server, type(lab._runtime.state.originals)
        self.out = False
        self.took_us: list[float] = []
        look_at_session, settings, changed = server.look_at_session, server.look_at_session(), originals.changed

        def timed(*given: Any) -> bool:
            if self.out:
                return False
            begun = time.perf_counter()
            answer = changed(*given)
            self.took_us.append(1e6 * (time.perf_counter() - begun))
            return answer

        server.look_at_session = lambda: settings if self.out else look_at_session()  # type: ignore[method-assign]
        originals.changed = timed  # type: ignore[method-assign,assignment]
        self._put_back = lambda: setattr(originals, "changed", changed)

    def __enter__(self) -> Looks:
        return self

    def __exit__(self, *_: object) -> None:
        self._put_back()


def microseconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    begun = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - begun)


class Cost(NamedTuple):
    """Medians in microseconds."""

    run: float
    longer_by: float
    switches: float
    networks: float


def measured(lab: Lab, x: Any, pairs: int) -> Cost:
    """A run, what it is longer by than one without looks, and each of the looks: that at networks within runs."""
    for _ in range(50):
        lab.run(x)
    switches = [microseconds(lab._runtime.fork_server.look_at_session) for _ in range(pairs)]
    whole, longer = [], []
    with Looks(lab) as looks:
        for number in range(pairs):
            took = {}
            for out in (True, False) if number % 2 else (False, True):
                looks.out = out
                took[out] = microseconds(lambda: lab.run(x))
            whole.append(took[False])
            longer.append(took[False] - took[True])
    return Cost(*map(statistics.median, (whole, longer, switches, looks.took_us)))


def small() -> dict[str, nn.Module]:
    """Four MLPs, of few microseconds each."""
    torch.manual_seed(0)
    return {name: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)).eval() for name in "abcd"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    pairs = parser.parse_args().pairs
    head = f"{'networks':>12} {'lanes':>6} {'a run':>12} {'longer by':>12} {'look at switches':>18} {'at networks':>12}"
    print(f"{head}   us, medians of {pairs} pairs")
    for title, made, x in (
        ("small", small(), torch.randn(1, WIDTH)),
        ("of overhead", networks(), torch.randn(1, STEPS, WIDTH)),
    ):
        names = tuple(made)
        every_core = (Lane(units=1, members=names[:2]), Lane(units=1, members=names[2:]))
        for lanes in (every_core, (Lane(units=1, members=names),)):
            with Lab("cpu") as lab:
                for name, module in made.items():
                    lab.register(name, module, example=x)
                lab.plan = Plan(lanes=lanes, units=2)
                cost = measured(lab, x, pairs)
            times = f"{cost.run:12.1f} {cost.longer_by:12.1f} {cost.switches:18.1f} {cost.networks:12.1f}"
            print(f"{title:>12} {len(lanes):>6} {times}", flush=True)


if __name__ == "__main__":
    main()
