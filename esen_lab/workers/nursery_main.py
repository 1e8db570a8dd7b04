"""The nursery process: imports torch once, then forks a worker in some tens of milliseconds whenever asked.

It has one thread and runs no user code, so a fork is safe and it always notices when the notebook is gone. Who dies,
and what follows:

    1. The notebook's process, even by SIGKILL: this process reads the end of its socket (or, where a forked child of
       the notebook still holds the other end open, sees its parent change within a second), kills the workers, exits.
    2. This process: the kernel kills the workers (PR_SET_PDEATHSIG; its creating thread is this only thread), or,
       where that does not exist, they read the end of their own sockets.
    3. A worker: its end is kept here until somebody asks how it ended.

Usage: python -m esen_lab.workers.nursery_main FD [fork|spawn]
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
import warnings
from typing import NoReturn

from esen_lab.devices import Retiring
from esen_lab.workers import wire
from esen_lab.workers.messages import End, Ended, Problem, Spawn

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer until the notebook is gone, then leave nobody behind."""
    control = socket.socket(fileno=int(sys.argv[1]))
    if len(sys.argv) > 2 and sys.argv[2] == "worker":
        _become_worker(control, int(sys.argv[3]))
    forks = len(sys.argv) < 3 or sys.argv[2] == "fork"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    workers: dict[int, int | None] = {}  # pid -> exit code once it has ended
    retiring: dict[int, Retiring] = {}  # those that must not be killed at once
    try:
        if forks:
            import gc

            import torch  # noqa: F401  what every worker would otherwise import for itself

            gc.collect()
            gc.freeze()  # or the first collection in a worker would copy every page it shares with us
        while True:
            frame = _next(control, parent)
            if frame is None:
                break
            record = frame.record()
            if isinstance(record, Spawn):
                _answer_spawn(control, workers, retiring, frame, record, forks)
            elif isinstance(record, End):
                wire.send_record(control, wire.REPLY, Ended(exit_code=_end(workers, record)))
    except wire.Closed:
        pass
    finally:
        _end_all([pid for pid, code in workers.items() if code is None], retiring)


def _next(control: socket.socket, parent: int) -> wire.Frame | None:
    poller = select.poll()
    poller.register(control, select.POLLIN)
    while not poller.poll(1000):
        if os.getppid() != parent:
            return None
    return wire.receive(control)


def _answer_spawn(
    control: socket.socket,
    workers: dict[int, int | None],
    retiring: dict[int, Retiring],
    frame: wire.Frame,
    record: Spawn,
    forks: bool,
) -> None:
    sock_fd, log_fd = frame.fds
    try:
        pid = _fork(control, sock_fd, log_fd, record) if forks else _spawn(sock_fd, log_fd, record)
    except OSError as problem:
        message = Problem(kind="device", name="", summary=f"{problem}", traceback="")
        wire.send_record(control, wire.FAILED, message)
    else:
        workers[pid] = None
        if isinstance(record.placement, Retiring):
            retiring[pid] = record.placement
        wire.send_record(control, wire.REPLY, pid)
    finally:
        os.close(sock_fd)
        os.close(log_fd)


def _fork(control: socket.socket, sock_fd: int, log_fd: int, record: Spawn) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    nursery = os.getpid()
    with warnings.catch_warnings():
        # OpenBLAS keeps threads of its own and takes care of forks by itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    try:
        control.close()
        _die_with(nursery)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        os.close(log_fd)
        _serve(socket.socket(fileno=sock_fd), record)
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(1)


def _spawn(sock_fd: int, log_fd: int, record: Spawn) -> int:
    """A worker in a fresh interpreter, for systems where forking after an import of torch is not safe (macOS)."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "esen_lab.workers.nursery_main",
        str(sock_fd),
        "worker",
        str(os.getpid()),
    ]
    child = subprocess.Popen(command, pass_fds=[sock_fd], stdin=subprocess.PIPE, stdout=log_fd, stderr=log_fd)
    assert child.stdin is not None
    import pickle

    with child.stdin:
        child.stdin.write(pickle.dumps(record))
    child.returncode = 0  # reaped by `_end`, not by Popen's own bookkeeping
    return child.pid


def _become_worker(sock: socket.socket, nursery: int) -> NoReturn:
    import pickle

    _die_with(nursery)
    record = pickle.loads(sys.stdin.buffer.read())  # noqa: S301  from our own nursery
    _serve(sock, record)


def _serve(sock: socket.socket, record: Spawn) -> NoReturn:
    from esen_lab.workers.child import serve

    sys.argv[1:] = [record.label]
    with contextlib.suppress(wire.Closed):
        serve(sock, record.placement)
    sys.stdout.flush()
    os._exit(0)  # no interpreter shutdown: a sub-model's threads or atexit hooks must not keep a lane alive


def _die_with(nursery: int) -> None:
    """Have the kernel kill this process when the nursery dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != nursery:  # it died between the fork and the line above
            os._exit(1)


def _end(workers: dict[int, int | None], record: End) -> int | None:
    """How a worker ended; one that has not ended after its grace is killed, where that is asked."""
    pid = record.pid
    if pid not in workers:
        return None
    code = workers[pid]
    if code is None:
        deadline = time.monotonic() + record.grace_s
        code = _reap(pid, deadline)
        if code is None and not record.kill:
            return None
        if code is None:
            code = _kill(pid)
    del workers[pid]
    return code


def _end_all(pids: list[int], retiring: dict[int, Retiring]) -> None:
    """Kill those that may be killed; let the others finish what they are at: their sockets have closed by now."""
    slow = [pid for pid in pids if pid in retiring]
    for pid in pids:
        if pid not in retiring:
            _kill(pid)
    deadline = time.monotonic() + max((retiring[pid].grace_s for pid in slow), default=0.0)
    for pid in slow:
        if _reap(pid, deadline) is None:
            retiring[pid].retire(pid)
            _kill(pid)


def _reap(pid: int, deadline: float) -> int | None:
    pause = 0.0005
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def _kill(pid: int) -> int | None:
    try:
        os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except (ProcessLookupError, ChildProcessError):
        return None


if __name__ == "__main__":
    main()
