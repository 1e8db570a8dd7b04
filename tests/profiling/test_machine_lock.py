"""One process at a time: real processes and real file locks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from esen_lab.errors import Cancelled
from esen_lab.profiling import machine_lock
from esen_lab.profiling.machine_lock import MachineLock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file locks of POSIX")
ROOT = Path(__file__).parents[2]
HOLD = """if True:
    import sys, threading
    from pathlib import Path
    from esen_lab.profiling.machine_lock import MachineLock
    with MachineLock(Path(sys.argv[1])).held(threading.Event()):
        print("held", flush=True)
        sys.stdin.readline()
"""
NEVER = threading.Event()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "measuring"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until a line comes."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def let_go(holder: subprocess.Popen[str]) -> None:
    assert holder.stdin is not None
    holder.stdin.write("\n")
    holder.stdin.flush()


def test_a_free_lock_is_taken_without_waiting(path: Path) -> None:
    waited = []
    lock = MachineLock(path)
    for _ in range(3):
        with lock.held(NEVER, lambda: waited.append(1)):
            pass
    assert (waited, lock.note) == ([], "")


def test_who_comes_second_says_once_that_it_waits_and_gets_it_when_it_is_free(
    path: Path, holder: subprocess.Popen[str]
) -> None:
    waited = []

    def on_wait() -> None:
        waited.append(1)
        let_go(holder)

    with MachineLock(path).held(NEVER, on_wait):
        assert holder.wait(timeout=10) == 0
    assert waited == [1]


def test_the_lock_of_a_killed_process_is_free(path: Path, holder: subprocess.Popen[str]) -> None:
    with MachineLock(path).held(NEVER, holder.kill):
        assert holder.wait(timeout=10) < 0


def test_waiting_can_be_cancelled(path: Path, holder: subprocess.Popen[str]) -> None:
    cancelled = threading.Event()
    with pytest.raises(Cancelled), MachineLock(path).held(cancelled, cancelled.set):
        pytest.fail("the lock is not free")
    assert holder.poll() is None


def test_two_locks_of_one_process_exclude_each_other(path: Path) -> None:
    cancelled = threading.Event()
    with MachineLock(path).held(NEVER), pytest.raises(Cancelled), MachineLock(path).held(cancelled, cancelled.set):
        pytest.fail("the lock is not free")


def test_whoever_waits_is_next(path: Path) -> None:
    """Without turns, the first would take the lock again at once, again and again."""
    order = []
    first_has_it = threading.Event()
    second_waits = threading.Event()

    def second() -> None:
        first_has_it.wait(10)
        with MachineLock(path).held(NEVER, second_waits.set):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    lock = MachineLock(path)
    with lock.held(NEVER):
        first_has_it.set()
        assert second_waits.wait(10)
        order.append("first")
    for _ in range(5):
        with lock.held(NEVER):
            order.append("first")
    thread.join(10)
    assert order == ["first", "second", "first", "first", "first", "first", "first"]


def test_an_error_inside_frees_the_lock(path: Path) -> None:
    lock = MachineLock(path)
    with pytest.raises(ValueError, match="mine"), lock.held(NEVER):
        raise ValueError("mine")
    with lock.held(NEVER, lambda: pytest.fail("it is still held")):
        pass


def test_no_descriptor_stays_open(path: Path) -> None:
    before = set(os.listdir("/dev/fd"))
    with MachineLock(path).held(NEVER):
        pass
    assert set(os.listdir("/dev/fd")) == before


def test_a_folder_that_cannot_be_made_is_noted_and_nothing_waits(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lock = MachineLock(tmp_path / "file" / "measuring")
    with lock.held(NEVER):
        pass
    assert "cannot be made" in lock.note


def test_a_system_without_file_locks_is_noted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_lock.sys, "platform", "win32")
    lock = MachineLock(path)
    with lock.held(NEVER):
        pass
    assert lock.note == "this system has no file locks"
