"""Threads of OpenMP: none is started here, those that spin are ended, and lanes do not spin for long."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from models import environment, mlp, payload
from threads_seen import in_new_thread, tasks

from esen_lab.common.trees import flatten, tree_spec
from esen_lab.devices import CpuDevice
from esen_lab.lanes import ForkServer, openmp
from esen_lab.lanes.arena import TreeArena
from esen_lab.lanes.openmp import CallersThreads, lane_environment, wait_until_still

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
LARGE = (48, 48, 64)  # torch cuts work from 32,768 elements on


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    """Torch computes with four threads, also where there are fewer cores."""
    were = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(were)


def started_by(act: Callable[[], object]) -> int:
    """How many threads `act` starts that stay."""

    def count() -> int:
        before = tasks()
        act()
        return len(tasks() - before)

    found: int = in_new_thread(count)
    return found


LAYOUTS: dict[str, Callable[[], torch.Tensor]] = {
    "contiguous": lambda: torch.randn(LARGE),
    "transposed": lambda: torch.randn(LARGE).transpose(0, 2),
    "every second": lambda: torch.randn(2 * LARGE[0], *LARGE[1:])[::2],
    "expanded": lambda: torch.randn(1, *LARGE[1:]).expand(LARGE),
    "channels last": lambda: torch.randn(4, 16, 48, 48).contiguous(memory_format=torch.channels_last),
    "needs a gradient": lambda: torch.randn(LARGE, requires_grad=True),
    "half precision": lambda: torch.randn(LARGE).half(),
    "bfloat16, turned": lambda: torch.randn(LARGE).bfloat16().transpose(1, 2),
    "double": lambda: torch.randn(LARGE).double(),
    "integers": lambda: torch.randint(0, 9, LARGE),
    "truths": lambda: torch.randn(LARGE) > 0,
    "complex": lambda: torch.randn(LARGE, dtype=torch.complex64),
    "conjugate": lambda: torch.randn(LARGE, dtype=torch.complex64).conj(),
}


@LINUX
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_tensor_that_is_copied_alone_starts_no_thread(layout: str) -> None:
    x = LAYOUTS[layout]()
    arena = TreeArena()
    arena.prepare([tree_spec(x)])
    threads = CallersThreads()

    def copy() -> None:
        with threads.alone():
            arena.write(0, [x])

    assert started_by(copy) == 0
    assert torch.equal(flatten(arena.read(0))[0][0], x.detach())
    arena.close()


@LINUX
def test_without_that_a_copy_does_start_threads() -> None:
    a, b = torch.randn(LARGE), torch.empty(LARGE)
    assert started_by(lambda: b.copy_(a)) == 3


def test_after_it_torch_has_its_threads_again_also_when_it_was_left_by_an_error() -> None:
    threads = CallersThreads()
    found = []

    def fail() -> None:
        with threads.alone():
            found.append(torch.get_num_threads())
            raise ValueError("so")

    with pytest.raises(ValueError, match="so"):
        fail()
    assert found == [1]
    assert torch.get_num_threads() == 4


def test_it_may_be_nested() -> None:
    threads = CallersThreads()
    with threads.alone():
        with threads.alone():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4


def test_other_threads_keep_theirs_meanwhile() -> None:
    threads = CallersThreads()
    with threads.alone():
        assert in_new_thread(torch.get_num_threads) == 4


def test_without_a_known_runtime_nothing_changes_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "_loaded", lambda: ["/nowhere/libgomp.so"])
    threads = CallersThreads()
    with threads.alone():
        assert torch.get_num_threads() == 4
    monkeypatch.setattr(CallersThreads, "_running", lambda _: {0: -1})
    threads.quieten()


def test_a_runtime_that_is_loaded_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = openmp._loaded()
    assert found
    monkeypatch.setattr(openmp, "_loaded", list)
    threads = CallersThreads()
    with threads.alone():
        assert torch.get_num_threads() == 4
    monkeypatch.setattr(openmp, "_loaded", lambda: found)
    monkeypatch.setitem(sys.modules, "an_import_of_later", sys)
    with threads.alone():
        assert torch.get_num_threads() == 1


@LINUX
def test_what_spins_is_ended_and_the_next_call_of_torch_has_threads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(LARGE), torch.empty(LARGE)
    threads = CallersThreads()
    monkeypatch.setattr(threads, "_running", lambda: {0: -1})  # on a busy machine it may sleep by now

    def counts() -> tuple[int, ...]:
        before = tasks()
        b.copy_(a)
        pool = len(tasks() - before)
        threads.quieten()
        left = len(_after_a_moment(before))
        b.copy_(a)
        return pool, left, len(tasks() - before)

    assert in_new_thread(counts) == (3, 0, 3)
    assert torch.equal(a, b)


def _after_a_moment(before: set[str]) -> set[str]:
    """Threads beyond `before`; one that has ended is listed for some microseconds more."""
    until = time.monotonic() + 30
    while (left := tasks() - before) and time.monotonic() < until:
        time.sleep(0.001)
    return left


def test_threads_that_no_pause_ends_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[int] = []

    def pause(kind: int) -> int:
        pauses.append(kind)
        return 0

    threads = CallersThreads()
    threads.alone()  # finds the runtimes
    known = threads._runtimes
    assert known
    monkeypatch.setattr(threads, "_runtimes", [replace(runtime, pause=pause, ends_threads=True) for runtime in known])
    running: set[int] = set()
    monkeypatch.setattr(threads, "_running", lambda: dict.fromkeys(running, -1))
    counts = []
    for now in ([], [1], [1], [1, 2], [2], []):
        running.clear()
        running.update(now)
        threads.quieten()
        counts.append(len(pauses) // len(known))
    assert counts == [0, 1, 1, 2, 2, 2]
    monkeypatch.setattr(threads, "_runtimes", [replace(runtime, pause=pause, ends_threads=False) for runtime in known])
    running.update([3])
    pauses.clear()
    threads.quieten()
    threads.quieten()
    assert len(pauses) == 2 * len(known)


@LINUX
def test_a_thread_that_waits_for_our_core_is_moved_and_may_be_everywhere_again_after() -> None:
    allowed = os.sched_getaffinity(0)
    core = min(allowed)
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    tid = other.native_id
    assert tid is not None
    try:
        with openmp._off_core(core, [tid]):
            assert os.sched_getaffinity(tid) == (allowed - {core} or allowed)
        assert os.sched_getaffinity(tid) == allowed
    finally:
        stop.set()
        other.join()
    with openmp._off_core(core, [tid]):  # it has ended
        pass


@LINUX
def test_a_pool_that_sleeps_is_left_alone() -> None:
    a, b = torch.randn(LARGE), torch.empty(LARGE)
    threads = CallersThreads()

    def left() -> int:
        before = tasks()
        b.copy_(a)
        assert wait_until_asleep(tasks() - before)
        threads.quieten()
        time.sleep(0.01)
        return len(tasks() - before)

    assert in_new_thread(left) == 3


def wait_until_asleep(tids: set[str]) -> bool:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        states = []
        for tid in tids:
            with open(f"/proc/self/task/{tid}/stat") as line:
                states.append(line.read().rpartition(")")[2].split()[0])
        if "R" not in states:
            return True
        time.sleep(0.005)
    return False


def test_nothing_that_another_thread_computes_meanwhile_is_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(LARGE), torch.empty(LARGE)
    stop = threading.Event()
    wrong: list[int] = []

    def compute() -> None:
        c, d = torch.randn(LARGE), torch.empty(LARGE)
        number = 0
        while not stop.is_set():
            number += 1
            d.zero_()
            d.copy_(c)
            if not torch.equal(c, d):
                wrong.append(number)

    other = threading.Thread(target=compute)
    other.start()
    threads = CallersThreads()
    monkeypatch.setattr(threads, "_running", lambda: {0: -1})
    try:
        for _ in range(50):
            b.copy_(a)
            threads.quieten()
    finally:
        stop.set()
        other.join()
    assert wrong == []


def test_what_others_took_of_the_cores_is_told_and_little_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {"process": 1_000_000, "thread": 1_000_000}
    monkeypatch.setattr(time, "process_time_ns", lambda: clocks["process"])
    monkeypatch.setattr(time, "thread_time_ns", lambda: clocks["thread"])
    threads = CallersThreads()
    threads.quieten()
    clocks["process"] += 7_000_000
    clocks["thread"] += 4_000_000
    assert "3.00 ms of the lanes' cores" in threads.disturbed(jct_s=0.02)
    assert threads.disturbed(jct_s=0.05) == ""  # 6 %
    clocks["thread"] += 2_500_000
    assert threads.disturbed(jct_s=0.001) == ""  # half a millisecond


OURS = {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "1", "OPENBLAS_THREAD_TIMEOUT": "18"}


@pytest.mark.parametrize(
    ("own", "added"),
    [
        ({}, OURS),
        ({"PATH": "/bin", "OMP_NUM_THREADS": "2"}, OURS),
        ({"GOMP_SPINCOUNT": ""}, OURS),
        ({"GOMP_SPINCOUNT": "10"}, {"OPENBLAS_THREAD_TIMEOUT": "18"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OPENBLAS_THREAD_TIMEOUT": "18"}),
        ({"KMP_BLOCKTIME": "infinite"}, {"OPENBLAS_THREAD_TIMEOUT": "18"}),
        ({"OPENBLAS_THREAD_TIMEOUT": "26"}, {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "1"}),
        ({"OPENBLAS_THREAD_TIMEOUT": "26", "OMP_WAIT_POLICY": "passive"}, {}),
    ],
)
def test_what_the_user_set_about_waiting_wins(own: dict[str, str], added: dict[str, str]) -> None:
    assert lane_environment(own) == {**own, **added}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_lanes_have_it_and_this_process_does_not(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    fork_server = ForkServer(start_method=method)
    try:
        worker = fork_server.worker(CpuDevice().place([1])[0])
        worker.load("a", payload(mlp()), torch.randn(4, 8))
        assert worker.call("models:environment", "a", timeout_s=30, names=list(OURS)) == OURS
    finally:
        fork_server.close()
    assert environment(lambda: None, list(OURS)) == dict.fromkeys(OURS)


def test_a_lane_has_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "123")
    fork_server = ForkServer()
    try:
        worker = fork_server.worker(CpuDevice().place([1])[0])
        worker.load("a", payload(mlp()), torch.randn(4, 8))
        found = worker.call("models:environment", "a", timeout_s=30, names=["GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
        assert found == {"GOMP_SPINCOUNT": "123", "KMP_BLOCKTIME": None}
    finally:
        fork_server.close()


@LINUX
def test_processes_that_compute_are_waited_for_but_not_for_ever() -> None:
    until_told = "import select; print(flush=True)\nwhile not select.select([0], [], [], 0)[0]: pass\ninput(); input()"
    command = [sys.executable, "-c", until_told]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child,
        ThreadPoolExecutor() as pool,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        begin = time.monotonic()
        assert not wait_until_still([child.pid], limit_s=0.1)
        assert time.monotonic() - begin >= 0.1
        waiting = pool.submit(wait_until_still, [child.pid], 60.0)
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        child.stdin.write(b"\n")
        assert waiting.result(120)
        child.kill()
    assert wait_until_still([child.pid])  # it has ended
    assert wait_until_still([])
