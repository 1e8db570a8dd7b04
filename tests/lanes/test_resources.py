"""Where a system has no descriptors or threads left, and where a program has closed its standard streams."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from esen_lab.common import resources as scarce
from esen_lab.errors import DeviceError

HEAD = """
import gc, os, resource, sys, threading, time
import torch
from torch import nn
from esen_lab.errors import EsenError, DeviceError
from esen_lab.lab import Lab
x = torch.randn(4, 8)
def lab(folder):
    made = Lab("cpu", store=os.path.join(folder, "store.sqlite3"))
    for name in "ab":
        made.register(name, nn.Linear(8, 3).eval(), example=x)
    return made
def opened():
    found = []
    for fd in range(1024):
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.append(fd)
    return found
"""


def result(code: str, folder: Path, close: str = "") -> str:
    """What a program writes into a file: it may have no standard output."""
    script = HEAD + textwrap.dedent(code)
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {close}', sys.executable, "-c", script, str(folder)],
        stderr=subprocess.PIPE if "2>" not in close else None,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, (done.stderr or b"").decode()[-3000:]
    return (folder / "said").read_text()


@pytest.mark.parametrize("close", ["<&-", "<&- >&-", "<&- >&- 2>&-", ">&-"])
def test_a_program_with_closed_standard_streams_runs_and_nothing_comes_to_lie_there(close: str, tmp_path: Path) -> None:
    code = """
    ours = [fd for fd in (0, 1, 2) if fd in opened()]
    made = lab(sys.argv[1])
    answers = [made.run(x) for _ in range(2)]
    now = [fd for fd in (0, 1, 2) if fd in opened()]
    made.close()
    open(os.path.join(sys.argv[1], "said"), "w").write(f"{now == ours} {torch.equal(*answers)}")
    """
    assert result(code, tmp_path, close) == "True True"


def test_where_descriptors_run_out_a_run_says_so_leaks_none_and_works_once_there_are_more(tmp_path: Path) -> None:
    code = """
    made = lab(sys.argv[1])
    made.run(x)
    made.state.executor.close()
    gc.collect()
    before, said = len(opened()), []
    for more in range(40):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(opened()) + 1 + more, 4096))
        try:
            made.run(x)
            said.append("ran")
            made.state.executor.close()
        except DeviceError as problem:
            said.append("limit" if "ulimit -n" in str(problem) else str(problem))
        gc.collect()
        until = time.monotonic() + 30  # what ends in another thread does so in a moment
        while len(opened()) != before and time.monotonic() < until:
            time.sleep(0.01)
        said.append(len(opened()) - before)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    made.run(x)
    made.close()
    open(os.path.join(sys.argv[1], "said"), "w").write(repr(sorted(set(map(str, said)))) + repr(said))
    """
    said = result(code, tmp_path)
    assert said.startswith("['0', 'limit', 'ran']"), said


def test_a_thread_that_cannot_be_started_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(DeviceError, match="ulimit -u"):
        scarce.begin(threading.Thread(target=print))


def test_what_is_opened_lies_above_the_standard_streams_and_is_not_inherited() -> None:
    a, b = scarce.socket_pair()
    read, write = scarce.pipe()
    log = scarce.log_file()
    with a, b:
        for fd in (a.fileno(), b.fileno(), read, write, log):
            assert fd > 2
            assert not os.get_inheritable(fd)
    for fd in (read, write, log):
        os.close(fd)


def test_what_nobody_waits_for_is_done_here_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[str] = []
    scarce.aside(lambda: done.append(threading.current_thread().name), "another")
    assert done == [threading.current_thread().name]
