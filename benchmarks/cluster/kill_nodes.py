"""Kills at random instants: lanes, actors, now and then a whole node; every answer that comes must be right.

    python benchmarks/cluster/kill_nodes.py [--nodes 2] [--kills 50] [--seed 0]

Raylets on this machine, one core each. A node that was killed is planned without, and another comes in its place.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "doubles"))

import torch
from models import Sleeper, mlp

from esen_lab import Lab
from esen_lab.errors import DeviceError, EsenError
from esen_lab.planner.plan import Lane, Plan

X = torch.linspace(-1, 1, 32).reshape(4, 8)
MEMBERS = "abcdef"
A_NODE = 0.15  # of the kills on nodes that may be lost as a whole, the part that takes the node


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH", "")]))
    from local_ray import LocalRay

    names = [f"node{number}" for number in range(asked.nodes)]
    with LocalRay(*names) as ray, Lab("cpu") as lab:
        for name in MEMBERS[:-1]:
            lab.register(name, mlp(seed=ord(name), outputs=8), example=X)
        lab.register(MEMBERS[-1], Sleeper(0.2), example=X)
        kills = Kills(lab, ray, names, random.Random(asked.seed))
        for number in range(asked.kills):
            print(f"{number + 1}: {kills.one()}", flush=True)
        print(dict(kills.found))
        folder = ray.folder
    print("left behind:", [process.pid for process in ray.processes()], "folder is there:", folder.exists())
    if any("WRONG" in what or "otherwise" in what for what in kills.found):
        raise SystemExit(1)


class Kills:
    """A lab whose plan is over all nodes of a cluster, and what became of its runs.

    Args:
        lab: With sub-models.
        ray: The cluster.
        nodes: The names of its nodes; the first one has Ray's own services, and is never killed as a whole.
        chance: What is killed and when.
    """

    def __init__(self, lab: Lab, ray: Any, nodes: Sequence[str], chance: random.Random) -> None:
        self._lab, self._ray, self._nodes, self._chance = lab, ray, list(nodes), chance
        self._right = lab.run(X)
        self._added = len(nodes)
        self.found = Counter[str]()
        lab.cluster.connect(ray.address)
        self._plan()

    def _plan(self) -> None:
        """All members over all nodes, in turn."""
        members = {node: tuple(MEMBERS[place :: len(self._nodes)]) for place, node in enumerate(self._nodes)}
        lanes = tuple(Lane(units=1, members=of_it, device=node) for node, of_it in members.items())
        self._lab.plan = Plan(lanes=lanes, units=1, devices=dict.fromkeys(members, 1))
        assert torch.equal(self._lab.run(X), self._right)

    def one(self) -> str:
        """Kill something during a run; returns what it was and how long it took until runs were right again."""
        on_nodes = self._lab.state.on_nodes
        assert on_nodes is not None
        node = self._chance.choice(self._nodes)
        whole = len(self._nodes) > 1 and node != self._nodes[0] and self._chance.random() < A_NODE
        loaded = on_nodes.loaded[node]
        lane = not whole and self._chance.random() < 0.5
        pid = self._ray.raylet(node) if whole else self._chance.choice(loaded.lane_pids) if lane else loaded.pid
        timer = threading.Timer(self._chance.random() * 0.3, _kill, [pid])
        timer.start()
        try:
            self._count(self._lab.run(X, timeout_s=60), "answered")
        except DeviceError:
            self.found["failed by name"] += 1
        except EsenError as problem:
            self.found[f"failed otherwise: {type(problem).__name__}: {problem}"] += 1
        timer.join()
        begun = time.perf_counter()
        if whole:
            self._go_on_without(node)
        else:
            self._right_again()
        took_s = time.perf_counter() - begun
        if whole:
            self._another(node)
        return f"{'node' if whole else 'lane' if lane else 'actor'} killed; whole again after {took_s:.1f} s"

    def _right_again(self) -> None:
        while True:  # the one after it, which may still meet the death
            with contextlib.suppress(DeviceError):
                self._count(self._lab.run(X, timeout_s=120), "right after it")
                return

    def _go_on_without(self, node: str) -> None:
        """Until it is noticed, answers may come from what still runs there; then the members move to the others."""
        on_nodes = self._lab.state.on_nodes
        assert on_nodes is not None
        while node not in on_nodes.gone:
            with contextlib.suppress(DeviceError):
                self._count(self._lab.run(X, timeout_s=120), "until it was noticed")
        self._lab.cluster.replan_without(node)
        self._count(self._lab.run(X, timeout_s=120), "right without it")

    def _another(self, node: str) -> None:
        """A new node in the place of one that is gone."""
        name = f"node{self._added}"
        self._added += 1
        self._ray.add(name)
        self._nodes = [name if other == node else other for other in self._nodes]
        self._plan()

    def _count(self, answer: Any, what: str) -> None:
        self.found[what if torch.equal(answer, self._right) else f"WRONG: {what}"] += 1


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
