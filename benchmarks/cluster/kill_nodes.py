"""Kills at random instants: lanes, actors, now and then a whole node; every answer that comes must be right.

python benchmarks/cluster/kill_nodes.py [--kills 50] [--seed 0]
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "doubles"))

import torch
from models import Sleeper, mlp

from esen_lab import Lab
from esen_lab.errors import DeviceError, EsenError
from esen_lab.planner.plan import Lane, Plan

X = torch.linspace(-1, 1, 32).reshape(4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    from local_ray import LocalRay

    chance, found = random.Random(asked.seed), Counter[str]()
    with LocalRay("left", "right") as ray, Lab("cpu") as lab:
        for name in "abc":
            lab.register(name, mlp(seed=ord(name), outputs=8), example=X)
        lab.register("d", Sleeper(0.2), example=X)
        right = lab.run(X)
        lanes = (Lane(units=1, members=("a", "b"), device="left"), Lane(units=1, members=("c", "d"), device="right"))
        lab.cluster.connect(ray.address)
        lab.plan = Plan(lanes=lanes, units=1, devices={"left": 1, "right": 1})
        assert torch.equal(lab.run(X), right)
        for number in range(asked.kills):
            on_nodes = lab.state.on_nodes
            assert on_nodes is not None
            loaded = on_nodes.loaded[chance.choice(["left", "right"])]
            lane = chance.random() < 0.5
            pid = chance.choice(loaded.lane_pids) if lane else loaded.pid
            timer = threading.Timer(chance.random() * 0.3, _kill, [pid])
            timer.start()
            try:
                answer = lab.run(X, timeout_s=60)
                found["answered" if torch.equal(answer, right) else "WRONG"] += 1
            except DeviceError:
                found["failed by name"] += 1
            except EsenError as problem:
                found[f"failed otherwise: {type(problem).__name__}: {problem}"] += 1
            timer.join()
            begun = time.perf_counter()
            while True:  # the one after it, which may still meet the death
                with contextlib.suppress(DeviceError):
                    found["right after it" if torch.equal(lab.run(X, timeout_s=120), right) else "WRONG after it"] += 1
                    break
            took_s = time.perf_counter() - begun
            print(f"{number + 1}: {'lane' if lane else 'actor'} killed; whole again after {took_s:.1f} s", flush=True)
        print(dict(found))
        folder = ray.folder
    print("left behind:", [process.pid for process in ray.processes()], "folder is there:", folder.exists())


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
