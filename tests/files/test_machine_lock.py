"""One process at a time: real processes and real file locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from esen_lab.errors import Cancelled
from esen_lab.files import lock_holders, machine_lock
from esen_lab.files.machine_lock import MachineLock, MachineLocks

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file locks of POSIX")
ROOT = Path(__file__).parents[2]
HOLD = """if True:
    import sys, threading
    from pathlib import Path
    from esen_lab.files.machine_lock import MachineLock
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


def is_free(lock: MachineLock) -> bool:
    """Whether it can be had at once."""
    cancelled = threading.Event()
    try:
        with lock.held(cancelled, cancelled.set):
            return True
    except Cancelled:
        return False


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
        assert holder.wait(timeout=60) == 0
    assert waited == [1]


def test_the_lock_of_a_killed_process_is_free(path: Path, holder: subprocess.Popen[str]) -> None:
    with MachineLock(path).held(NEVER, holder.kill):
        assert holder.wait(timeout=60) < 0


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
        first_has_it.wait(60)
        with MachineLock(path).held(NEVER, second_waits.set):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    lock = MachineLock(path)
    with lock.held(NEVER):
        first_has_it.set()
        assert second_waits.wait(60)
        order.append("first")
    for _ in range(5):
        with lock.held(NEVER):
            order.append("first")
    thread.join(60)
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


# --- holders that do not let go ---------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience of fractions of a second."""
    for name in ("PATIENCE_S", "STOPPED_S", "_AGAIN_S", "_LOOK_S"):
        monkeypatch.setattr(lock_holders, name, getattr(lock_holders, name) / 100)


def test_a_stopped_holder_is_left_alone_and_named(path: Path, holder: subprocess.Popen[str], short: None) -> None:
    holder.send_signal(signal.SIGSTOP)
    lock = MachineLock(path)
    with lock.held(NEVER):
        assert f"process {holder.pid} (" in lock.note
        assert "is stopped, and is not waited for" in lock.note


def test_a_holder_that_never_lets_go_is_left_alone_and_named(
    path: Path, holder: subprocess.Popen[str], short: None
) -> None:
    lock = MachineLock(path)
    with lock.held(NEVER):
        assert f"process {holder.pid} (" in lock.note
        assert "keeps the lock" in lock.note
    let_go(holder)
    holder.wait(60)
    with lock.held(NEVER):
        assert lock.note == "", "what was said of one time is not said of the next"


def test_who_keeps_the_turn_for_ever_is_left_alone_too(path: Path, short: None) -> None:
    path.parent.mkdir(parents=True)
    turn = os.open(path.with_name(path.name + ".turn"), os.O_RDONLY | os.O_CREAT)
    try:
        machine_lock.fcntl.flock(turn, machine_lock.fcntl.LOCK_EX)
        lock = MachineLock(path)
        with lock.held(NEVER):
            assert "keeps the lock" in lock.note
    finally:
        os.close(turn)


def test_a_forked_child_does_not_keep_the_lock(path: Path) -> None:
    """As a child of the notebook's does that goes on when the notebook has been killed."""
    ours, theirs = os.pipe()
    there, said = os.pipe()
    with MachineLock(path).held(NEVER):
        child = os.fork()
        if child == 0:
            os.close(theirs)
            os.write(said, b".")
            os.read(ours, 1)  # until the test is done
            os._exit(0)
        os.close(ours)
        os.read(there, 1)  # it runs, so it has let go of what it does when it is forked
        os.close(there)
        os.close(said)
        try:
            # The parent's descriptors are closed as its death would close them: nothing unlocks.
            for fd in list(machine_lock._OPEN):
                machine_lock._OPEN.discard(fd)
                os.close(fd)
            with MachineLock(path).held(NEVER, lambda: pytest.fail("the child keeps it")):
                pass
        finally:
            os.close(theirs)
            os.waitpid(child, 0)


def test_a_child_forked_while_the_lock_is_held_takes_nothing_from_its_parent(path: Path) -> None:
    with MachineLock(path).held(NEVER):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        cancelled = threading.Event()
        with pytest.raises(Cancelled), MachineLock(path).held(cancelled, cancelled.set):
            pytest.fail("the lock is not held any more")


def test_a_file_that_is_removed_while_one_waits_for_it_is_opened_anew(
    path: Path, holder: subprocess.Popen[str]
) -> None:
    def removed() -> None:
        for suffix in (".turn", ".lock"):
            path.with_name(path.name + suffix).unlink()
        let_go(holder)

    with MachineLock(path).held(NEVER, removed):
        assert not is_free(MachineLock(path)), "two would hold it, on two files"


def test_a_place_that_cannot_be_used_is_passed_over_for_the_next(tmp_path: Path) -> None:
    for name in ("a.turn", "a.lock"):
        (tmp_path / name).symlink_to(tmp_path / "trap")
    first, second = MachineLock(tmp_path / "a", tmp_path / "b"), MachineLock(tmp_path / "b")
    cancelled = threading.Event()
    with first.held(NEVER), pytest.raises(Cancelled), second.held(cancelled, cancelled.set):
        pytest.fail("they use different files")
    assert first.note == ""


# --- several at once --------------------------------------------------------------------------------------------------


def test_those_who_share_hold_it_together_and_keep_the_others_out(path: Path) -> None:
    alone, shared = MachineLock(path), MachineLock(path, shared=True)
    with MachineLock(path, shared=True).held(NEVER):
        assert (is_free(shared), is_free(alone)) == (True, False)
    with MachineLock(path).held(NEVER):
        assert (is_free(shared), is_free(alone)) == (False, False)


def test_several_locks_are_held_together_and_freed_together(tmp_path: Path) -> None:
    a, b = MachineLock(tmp_path / "a"), MachineLock(tmp_path / "b")
    with MachineLocks([a, b]).held(NEVER):
        assert (is_free(a), is_free(b)) == (False, False)
    assert (is_free(a), is_free(b)) == (True, True)
