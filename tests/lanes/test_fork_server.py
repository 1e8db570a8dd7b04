"""Where workers come from, and that none of them stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import leaks
import psutil
import pytest
import torch
from interrupting import interrupted_at
from models import mlp, payload
from waiting import until

from esen_lab.devices import CpuDevice
from esen_lab.devices.cpu.device import CpuPlacement
from esen_lab.ensemble import make_submodel
from esen_lab.errors import DeviceError, WorkerDied
from esen_lab.lanes import ForkServer, fork_server_main

PLACE = CpuDevice().place([1])[0]


def wait_until_gone(pids: list[int]) -> None:
    until(lambda: not any(_lives(pid) for pid in pids))


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != "zombie")
    except psutil.NoSuchProcess:
        return False


def test_nothing_runs_before_the_first_worker() -> None:
    fork_server = ForkServer()
    assert fork_server.pid is None
    fork_server.close()


@pytest.mark.timing
def test_a_worker_after_the_first_starts_in_a_fraction_of_a_second(fork_server: ForkServer) -> None:
    took_s = []
    for _ in range(5):
        begin = time.monotonic()
        worker = fork_server.worker(PLACE)
        took_s.append(time.monotonic() - begin)
        worker.close()
        wait_until_gone([worker.pid])
    assert min(took_s) < 1.0


def test_closing_ends_every_worker_and_the_helper_and_may_be_repeated() -> None:
    fork_server = ForkServer()
    workers = [fork_server.worker(PLACE) for _ in range(2)]
    pids = [worker.pid for worker in workers]
    assert fork_server.pid is not None
    pids.append(fork_server.pid)
    fork_server.close()
    fork_server.close()
    wait_until_gone(pids)
    assert not any(worker.alive for worker in workers)


def test_a_closed_fork_server_starts_afresh_when_asked() -> None:
    fork_server = ForkServer()
    fork_server.worker(PLACE)
    fork_server.close()
    worker = fork_server.worker(PLACE)
    assert worker.alive
    fork_server.close()


def test_when_the_helper_is_killed_its_workers_go_and_the_next_request_starts_another() -> None:
    fork_server = ForkServer()
    worker = fork_server.worker(PLACE)
    assert fork_server.pid is not None
    os.kill(fork_server.pid, signal.SIGKILL)
    wait_until_gone([worker.pid])
    with pytest.raises(WorkerDied):
        worker.unload("a")
    again = fork_server.worker(PLACE)
    assert again.alive
    fork_server.close()


SCRIPT = """
import os, sys, time
from esen_lab.devices import CpuDevice
from esen_lab.lanes import ForkServer, fork_server_main
fork_server = ForkServer()
workers = [fork_server.worker(CpuDevice().place([1])[0]) for _ in range(2)]
if "fork" in sys.argv:
    if os.fork() == 0:      # a child of the notebook that inherits every open socket
        time.sleep(60)
print(fork_server.pid, *[w.pid for w in workers], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_sigkill_to_the_notebook_leaves_no_process(how: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 3
    parent.kill()
    parent.wait()
    try:
        wait_until_gone(pids)
    finally:
        parent.stdout.close()
        if how == "fork":
            os.killpg(parent.pid, signal.SIGKILL)


def test_workers_are_not_hit_by_an_interrupt_of_the_notebooks_group(fork_server: ForkServer) -> None:
    worker = fork_server.worker(PLACE)
    assert os.getsid(worker.pid) != os.getsid(0)
    os.kill(worker.pid, signal.SIGINT)
    worker.load("a", payload(mlp()), torch.ones(1, 8))
    worker.close()


def test_a_place_that_the_system_refuses_is_a_clear_error(fork_server: ForkServer) -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot pin")
    with pytest.raises(DeviceError, match="cores that exist"):
        fork_server.worker(CpuPlacement(cores=((100_000,),), pin=True))


def test_workers_can_be_spawned_where_forking_is_not_safe() -> None:
    fork_server = ForkServer(start_method="spawn")
    worker = fork_server.worker(PLACE, label="spawned")
    worker.load("a", payload(mlp()), torch.ones(1, 8))
    pids = [worker.pid, fork_server.pid or 0]
    fork_server.close()
    wait_until_gone(pids)


def test_a_helper_that_nobody_has_asked_is_not_waited_for_until_it_has_imported_torch() -> None:
    fork_server = ForkServer()
    fork_server.warm()
    process = fork_server._process
    assert process is not None
    fork_server.close()
    assert process.popen.returncode == -signal.SIGKILL, "it neither noticed nor was given time to"


def start_and_close() -> None:
    server = ForkServer()
    server.warm()
    server.close()


@pytest.mark.parametrize("line", range(1, 500, 31))
def test_one_that_is_interrupted_while_it_starts_or_ends_leaves_no_process(line: int) -> None:
    before = leaks.take()
    interrupted_at(line, start_and_close)
    start_and_close()  # whoever passes by ends what was left
    assert leaks.left_since(before) == []


@pytest.mark.skipif(sys.platform != "linux", reason="torch counts in /dev/shm on Linux")
def test_counters_of_lent_gpu_memory_go_with_the_lane_however_it_ends() -> None:
    code = "import os, time; open(f'/dev/shm/torch_{os.getpid()}_1_0', 'w'); print(flush=True); time.sleep(60 * %d)"
    for stays in (0, 1):
        child = subprocess.Popen([sys.executable, "-c", code % stays], stdout=subprocess.PIPE)
        assert child.stdout is not None
        with child.stdout:
            child.stdout.readline()
        ended = fork_server_main._kill(child.pid) if stays else fork_server_main._reap(child.pid, time.monotonic() + 20)
        child.returncode = 0  # reaped there
        assert ended == (-9 if stays else 0)
        assert list(Path("/dev/shm").glob(f"torch_{child.pid}_*")) == []


WITHOUT_ASSERTS = """
import torch
import debugged
from esen_lab import Lab
with Lab(device="cpu", store=sys.argv[1]) as lab:
    lab.register("a", debugged.Net(), torch.ones(1))
    lab.combine(lambda outputs: outputs["a"])
    print(debugged.Net()(torch.ones(1)).item(), lab.run(torch.ones(1)).item())
"""


@pytest.mark.parametrize(("flags", "value"), [([], 1.0), (["-O"], 2.0)], ids=["as usual", "without asserts"])
def test_asserts_are_in_lanes_as_they_are_in_the_notebook(flags: list[str], value: float, tmp_path: Path) -> None:
    (tmp_path / "debugged.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n"
        "    def forward(self, x): return x * (1.0 if __debug__ else 2.0)\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + WITHOUT_ASSERTS
    command = [sys.executable, *flags, "-c", code, str(tmp_path / "store.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(value), str(value)], done.stderr


@pytest.mark.timing
def test_closing_ends_a_helper_that_is_stopped_while_somebody_waits_for_its_answer() -> None:
    fork_server = ForkServer()
    fork_server.worker(PLACE).close()
    assert fork_server.pid is not None
    os.kill(fork_server.pid, signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(fork_server.worker, PLACE)
        until(fork_server._lock.locked)
        began = time.monotonic()
        fork_server.close()
        assert time.monotonic() - began < 30, "the deadline of who asks is two minutes"
        with pytest.raises(WorkerDied):
            asked.result(timeout=30)


@pytest.mark.timing
def test_a_lane_and_its_helper_end_at_once_though_somebody_has_stopped_the_helper() -> None:
    took_s = []
    for _ in range(3):
        fork_server = ForkServer()
        worker, pid = fork_server.worker(PLACE), fork_server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        worker.close(timeout_s=0)
        assert fork_server.pid == pid, "it was asked, and has answered"
        os.kill(pid, signal.SIGSTOP)
        fork_server.close()
        took_s.append(time.monotonic() - began)
    assert min(took_s) < 2


def test_a_lane_imports_nothing_for_itself_that_its_helper_can_import_for_all(fork_server: ForkServer) -> None:
    member = make_submodel("a", mlp(), torch.ones(1, 8))
    worker = fork_server.worker(PLACE)
    worker.load("a", member.payload(), member.example, traits=member.traits)
    worker.arrange(("a",), "serial")
    worker.put_state("aside")
    worker.put_state("back")
    there = worker.call("models:modules_here", "a", timeout_s=60)
    worker.close()
    code = (
        "from esen_lab.lanes.fork_server_main import import_for_workers\n"
        "import json, sys; import_for_workers(); print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    own = sorted(set(there) - set(json.loads(done.stdout)))
    assert [name for name in own if name.partition(".")[0] in ("esen_lab", "numpy", "cloudpickle")] == []
