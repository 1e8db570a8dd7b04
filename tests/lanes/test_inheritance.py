"""Lanes of a process that has done odd things to itself: each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from esen_lab.devices.cpu.affinity import BINDING
from esen_lab.lanes.inheritance import environment_of_lanes

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="masks and signals of Linux")
two_cpus = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs"
)
LANES = """if True:
    import os, signal, sys, time
    exec(sys.argv[1])
    from esen_lab.devices import CpuDevice
    from esen_lab.lanes.fork_server import ForkServer

    def masks(pid):
        found = set()
        for task in os.listdir(f"/proc/{pid}/task"):
            lines = open(f"/proc/{pid}/task/{task}/status").read().splitlines()
            found |= {line.split()[1] for line in lines if line.startswith("Cpus_allowed_list")}
        return found

    fork_server = ForkServer()
    device = CpuDevice()
    lanes = [fork_server.worker(place) for place in device.place([1, 1])]
    print("cores", *sorted(lane.in_force.description for lane in lanes), sep="|")
    print("apart", masks(lanes[0].pid).isdisjoint(masks(lanes[1].pid)))
    status = open(f"/proc/{lanes[0].pid}/status").read()
    print("blocked", status.split("SigBlk:")[1].split()[0])
    os.kill(lanes[0].pid, signal.SIGKILL)
    print("ended", fork_server.end(lanes[0].pid, 60.0))
    began = time.monotonic()
    fork_server.close()
    print("closed", time.monotonic() - began < 5)
"""
ODD = {
    "nothing": "",
    "children are forgotten": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "deaf to ends": "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)",
    "signals are blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "a handler reaps all children": """if True:
        def reap(*_):
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
        signal.signal(signal.SIGCHLD, reap)
    """,
    "bound by OpenMP": "import torch; torch.ones(300, 300) @ torch.ones(300, 300)",
}


def lanes(act: str, **environment: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name not in BINDING}
    done = subprocess.run(
        [sys.executable, "-c", LANES, act],
        env={**clean, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(maxsplit=1) if " " in line else line.split("|", 1) for line in done.stdout.splitlines())


@two_cpus
@pytest.mark.parametrize("act", ODD.values(), ids=ODD)
def test_lanes_of_an_odd_process_are_as_those_of_any_other(act: str) -> None:
    settings = {"OMP_PROC_BIND": "true", "OMP_THREAD_LIMIT": "1"} if "torch" in act else {}
    found = lanes(act, **settings)
    assert (found["apart"], found["blocked"], found["ended"], found["closed"]) == ("True", "0" * 16, "-9", "True")


@two_cpus
@pytest.mark.parametrize("setting", ["OMP_PLACES={0}", "GOMP_CPU_AFFINITY=0", "KMP_AFFINITY=compact"])
def test_bindings_of_the_notebook_do_not_reach_its_lanes(setting: str) -> None:
    name, _, value = setting.partition("=")
    assert lanes(ODD["bound by OpenMP"], **{name: value})["apart"] == "True"


THREADS = """if True:
    import os, torch
    from esen_lab import Lab
    from esen_lab.planner.plan import sequential_plan
    x = torch.randn(256, 1024)
    lab = Lab(device="cpu")
    lab.register("a", torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(6)]), example=x)
    lab.plan = sequential_plan(("a",), 2)
    for _ in range(8):
        lab.run(x)
    ((_, pid),) = lab._runtime.fork_server.processes
    busy = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        words = open(f"/proc/{pid}/task/{task}/stat").read().rsplit(")")[1].split()
        busy += int(words[11]) + int(words[12]) > 2
    print(lab.lanes.in_force()[0][1], "|", busy)
    lab.close()
"""


@two_cpus
@pytest.mark.parametrize("setting", ["OMP_THREAD_LIMIT=1", "OMP_MAX_ACTIVE_LEVELS=0", "OMP_NUM_THREADS=1"])
def test_a_lane_of_two_cores_computes_on_both_whatever_the_notebooks_limit(setting: str) -> None:
    if len(os.sched_getaffinity(0)) != 2:
        pytest.skip("needs a machine of two cores")
    name, _, value = setting.partition("=")
    done = subprocess.run(
        [sys.executable, "-c", THREADS],
        env={**os.environ, name: value},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    said, _, busy = done.stdout.strip().partition(" | ")
    assert said.endswith("2 threads")
    assert int(busy) == 2


def test_what_binds_or_limits_threads_is_not_handed_down_and_the_rest_is() -> None:
    given = {"OMP_PROC_BIND": "true", "OMP_THREAD_LIMIT": "1", "GOMP_CPU_AFFINITY": "0", "OMP_WAIT_POLICY": "active"}
    assert environment_of_lanes({**given, "PATH": "/bin"}) == {"OMP_WAIT_POLICY": "active", "PATH": "/bin"}
