from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import leaks
import pytest
from waiting import until


def test_a_process_that_goes_on_is_named() -> None:
    before = leaks.take()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = leaks.left_since(before, patience_s=0.0)
        assert process.stdin is not None
        process.stdin.write(b"\n")
    assert [words.startswith(f"process {process.pid}: ") for words in found] == [True]


def test_a_process_that_is_not_waited_for_is_named() -> None:
    before = leaks.take()
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    found = leaks.left_since(before, patience_s=0.0)
    process.wait()
    assert found == [f"process {process.pid}: a zombie: it ended and nobody waited for it"]


def test_a_thread_that_goes_on_is_named() -> None:
    before = leaks.take()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="stubborn")
    thread.start()
    found = leaks.left_since(before, patience_s=0.0)
    end.set()
    thread.join()
    assert found == ["thread 'stubborn'"]


@pytest.mark.parametrize("folder", [Path("/dev/shm"), None], ids=["shared memory", "temporary folder"])
def test_a_file_is_named(folder: Path | None) -> None:
    place = folder or Path(tempfile.gettempdir())
    if not place.is_dir():
        pytest.skip(f"this system has no {place}")
    before = leaks.take()
    handle, path = tempfile.mkstemp(dir=place, prefix="left-")
    os.close(handle)
    found = leaks.left_since(before, patience_s=0.0)
    os.unlink(path)
    assert f"file {path}" in found


def test_many_descriptors_are_named() -> None:
    before = leaks.take()
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(leaks.MORE_DESCRIPTORS + 1)]
    found = leaks.left_since(before, patience_s=0.0)
    for descriptor in opened:
        os.close(descriptor)
    assert len(found) == len(opened)


def test_what_ends_a_moment_later_is_no_leak() -> None:
    before = leaks.take()
    thread = threading.Thread(target=time.sleep, args=(0.05,))
    thread.start()
    assert leaks.left_since(before) == []


def test_an_orphan_is_found_by_its_mark() -> None:
    code = (
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True,"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    )
    mark = "test_an_orphan_is_found_by_its_mark"
    out = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, leaks.MARK: mark}, capture_output=True, text=True, check=True
    )
    orphan = int(out.stdout)
    try:
        until(lambda: leaks.orphans(mark))  # its environment can be read a moment after its program has begun
        found = leaks.orphans(mark)
    finally:
        os.kill(orphan, 9)
    assert [words.startswith(f"process {orphan}: ") for words in found] == [True]


@pytest.mark.timing
def test_a_snapshot_is_fast() -> None:
    took = []
    for _ in range(20):
        started = time.perf_counter()
        leaks.take()
        took.append(time.perf_counter() - started)
    assert min(took) < 0.005
