"""Who holds a lock, and how long they are waited for: a clock of our own, and the kernel's list as it was recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from esen_lab.files.lock_holders import PATIENCE_S, STOPPED_S, LockHolder, Patience, holders


def holder(pid: int = 7, *, stopped: bool = False) -> LockHolder:
    return LockHolder(pid=pid, began="100", stopped=stopped, name="python, of user ada")


class Waiting:
    """A wait whose clock and holders the test sets."""

    def __init__(self, *found: LockHolder, given_up: frozenset[LockHolder] | None = None) -> None:
        self.now = 0.0
        self.found = frozenset(found)
        self.patience = Patience(0, lambda: self.now, given_up, who=lambda fd: self.found)

    def ends_after(self, most_s: float = 1000.0) -> float:
        """Seconds until it is of no use to wait longer."""
        began = self.now
        while not self.patience.ended():
            self.now += 0.5
            assert self.now < most_s
        return self.now - began


def test_a_holder_that_keeps_the_lock_is_waited_for_as_long_as_a_point_takes() -> None:
    waiting = Waiting(holder())
    assert waiting.ends_after() == pytest.approx(PATIENCE_S, abs=1)
    waiting.now += 1
    assert "process 7 (python, of user ada) keeps the lock" in waiting.patience.ended()


def test_a_stopped_holder_is_left_alone_soon() -> None:
    waiting = Waiting(holder(stopped=True))
    assert waiting.ends_after() == pytest.approx(STOPPED_S, abs=1)


def test_a_holder_that_goes_on_in_time_is_waited_for() -> None:
    waiting = Waiting(holder(stopped=True))
    assert waiting.patience.ended() == ""
    waiting.now += STOPPED_S - 0.5
    waiting.found = frozenset([holder()])
    assert waiting.ends_after() > PATIENCE_S - STOPPED_S - 1


def test_a_queue_of_holders_is_progress() -> None:
    waiting = Waiting(holder(1))
    for pid in range(2, 6):
        waiting.now += PATIENCE_S - 1
        waiting.found = frozenset([holder(pid)])
        assert waiting.patience.ended() == ""


def test_whom_it_was_of_no_use_to_wait_for_costs_little_the_next_time() -> None:
    assert Waiting(holder(), given_up=frozenset([holder()])).ends_after() <= 2.5
    assert Waiting(holder(stopped=True), given_up=frozenset([holder()])).ends_after() == 0
    assert Waiting(holder(8), given_up=frozenset([holder()])).ends_after() >= PATIENCE_S - 1


def test_a_system_that_does_not_tell_the_holder_is_waited_for_with_an_end() -> None:
    waiting = Waiting()
    assert waiting.ends_after() == pytest.approx(PATIENCE_S, abs=1)
    waiting.now += 1
    assert "another process keeps the lock" in waiting.patience.ended()


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    found = os.open(tmp_path / "file", os.O_RDONLY | os.O_CREAT)
    yield found
    os.close(found)


def recorded(folder: Path, fd: int, *, device: str | None = None) -> Path:
    """A `/proc` in which processes 7 and 8 share the lock, 9 waits, and others hold other locks."""
    found = os.fstat(fd)
    device = device or f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    place = f"{device}:{found.st_ino}"
    (folder / "locks").write_text(
        f"1: POSIX  ADVISORY  WRITE 4 {place} 0 EOF\n"
        f"2: FLOCK  ADVISORY  READ  7 {place} 0 EOF\n"
        f"2: -> FLOCK  ADVISORY  WRITE 9 {place} 0 EOF\n"
        f"3: FLOCK  ADVISORY  READ  8 {place} 0 EOF\n"
        f"4: FLOCK  ADVISORY  WRITE 5 {device}:1 0 EOF\n"
    )
    (folder / "7").mkdir()
    (folder / "7" / "stat").write_text("7 (a (wild) name) T " + " ".join(map(str, range(4, 40))))
    return folder


def test_holders_are_read_from_the_kernels_list(fd: int, tmp_path: Path) -> None:
    folder = tmp_path / "proc"
    folder.mkdir()
    found = {holder.pid: holder for holder in holders(fd, recorded(folder, fd))}
    assert set(found) == {7, 8}
    assert (found[7].stopped, found[7].began) == (True, "22")
    assert found[7].name.startswith("a (wild) name, of user ")
    assert found[8].name == "ended; a child of it keeps the lock"


def test_a_file_system_that_names_another_device_there_is_understood(fd: int, tmp_path: Path) -> None:
    folder = tmp_path / "proc"
    folder.mkdir()
    assert {holder.pid for holder in holders(fd, recorded(folder, fd, device="00:99"))} == {7, 8}


def test_without_the_list_nobody_is_known(fd: int, tmp_path: Path) -> None:
    assert holders(fd, tmp_path / "nothing") == frozenset()
