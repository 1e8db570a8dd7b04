"""The fork server process: imports torch once, then forks a worker in some tens of milliseconds whenever asked.

It has one thread and runs no user code, so a fork is safe and it always notices when the notebook is gone. Who dies,
and what follows:

    1. The notebook's process, even by SIGKILL: this process reads the end of its socket (or, where a forked child of
       the notebook still holds the other end open, sees its parent change within a second), kills the workers, exits.
    2. This process: the kernel kills the workers (PR_SET_PDEATHSIG; its creating thread is this only thread), or,
       where that does not exist, they read the end of their own sockets.
    3. A worker: its end is kept here until somebody asks how it ended, and what it leaves behind is ended: see
       `descendants.py`. The notebook sees the end of the process itself, by the descriptor that it was handed.

Usage: python -m esen_lab.lanes.fork_server_main FD [fork|spawn]
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from esen_lab.common.children import interpreter_flags
from esen_lab.common.resources import no_descriptors, short_of
from esen_lab.devices import Placement
from esen_lab.lanes import wire
from esen_lab.lanes.descendants import adopt, end_children
from esen_lab.lanes.inheritance import forget_inherited
from esen_lab.lanes.messages import Answer, End, Ended, Problem, Spawn, Started, packed
from esen_lab.lanes.orders import order_in
from esen_lab.lanes.problems import described

_PR_SET_PDEATHSIG = 1
_OF_WORKERS = (
    "torch",
    "numpy.random",
    "cloudpickle",
    "esen_lab.ensemble.kinds.function",
    "esen_lab.ensemble.snapshot",
    "esen_lab.lanes.backends._executed",
    "esen_lab.lanes.child",
)


def main() -> None:
    """Answer until the notebook is gone, then leave nobody behind."""
    forget_inherited()
    adopt()
    control = socket.socket(fileno=int(sys.argv[1]))
    if len(sys.argv) > 2 and sys.argv[2] == "worker":
        _become_worker(control, int(sys.argv[3]))
    forks = len(sys.argv) < 3 or sys.argv[2] == "fork"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    workers: dict[int, int | None] = {}  # pid -> exit code once it has ended
    retiring: dict[int, Placement] = {}  # those that must not be killed at once
    try:
        if forks:
            import gc

            import_for_workers()
            gc.collect()
            gc.freeze()  # or the first collection in a worker would copy every page it shares with us
        while True:
            try:
                frame = _next(control, parent, workers)
            except wire.NoRoom as problem:
                _answer(control, problem.number, described(no_descriptors(str(problem))))
                continue
            if frame is None:
                break
            record = order_in(frame)
            if isinstance(record, Spawn):
                _answer_spawn(control, workers, retiring, frame, record, forks)
            elif isinstance(record, End):
                _answer(control, frame.number, Ended(exit_code=_end(workers, record)))
                end_children(but=workers)
    except wire.Closed:
        pass
    finally:
        killed = _end_all([pid for pid, code in workers.items() if code is None], retiring)
        end_children()
        _end_trials(killed)


def import_for_workers() -> None:
    """Import what every worker would otherwise import for itself before its first sub-model runs."""
    sysconfig.get_paths()
    for name in _OF_WORKERS:
        importlib.import_module(name)


def _next(control: socket.socket, parent: int, workers: dict[int, int | None]) -> wire.Frame | None:
    poller = select.poll()
    poller.register(control, select.POLLIN)
    while not poller.poll(1000):
        if os.getppid() != parent:
            return None
        for pid, code in workers.items():
            if code is None:
                workers[pid] = _reap(pid, 0.0)
        end_children(but=workers)
    return wire.receive(control)


def _answer(control: socket.socket, number: int, answer: Answer, fds: Sequence[int] = ()) -> None:
    wire.send(control, wire.FAILED if isinstance(answer, Problem) else wire.REPLY, number, packed(answer), fds)


def _answer_spawn(
    control: socket.socket,
    workers: dict[int, int | None],
    retiring: dict[int, Placement],
    frame: wire.Frame,
    record: Spawn,
    forks: bool,
) -> None:
    sock_fd, log_fd = frame.fds
    try:
        pid = _fork(control, sock_fd, log_fd, record) if forks else _spawn(sock_fd, log_fd, record)
    except OSError as problem:
        _answer(control, frame.number, described(short_of(problem)))
    else:
        workers[pid] = None
        if record.placement.grace_s:
            retiring[pid] = record.placement
        process_fd = _process_fd(pid)
        try:
            _answer(control, frame.number, Started(pid=pid), [process_fd] if process_fd >= 0 else [])
        finally:
            if process_fd >= 0:
                os.close(process_fd)
    finally:
        os.close(sock_fd)
        os.close(log_fd)


def _process_fd(pid: int) -> int:
    """A descriptor of a child, which is the child's even when its number is another process's; -1 where there is none.

    It is opened here, where the child cannot have been waited for yet.
    """
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, or one that refuses: the end of the socket tells, as everywhere else
        return -1


def _fork(control: socket.socket, sock_fd: int, log_fd: int, record: Spawn) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    fork_server = os.getpid()
    with warnings.catch_warnings():
        # OpenBLAS keeps threads of its own and takes care of forks by itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    try:
        control.close()
        _die_with(fork_server)
        adopt()
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
        *interpreter_flags(),
        "-P",
        "-m",
        "esen_lab.lanes.fork_server_main",
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


def _become_worker(sock: socket.socket, fork_server: int) -> NoReturn:
    import pickle

    _die_with(fork_server)
    adopt()
    record = pickle.loads(sys.stdin.buffer.read())  # noqa: S301  from our own fork server
    _serve(sock, record)


def _serve(sock: socket.socket, record: Spawn) -> NoReturn:
    from esen_lab.lanes.child import serve

    sys.argv[1:] = [record.label]
    with contextlib.suppress(wire.Closed):
        serve(sock, record.placement, record.settings)
    sys.stdout.flush()
    os._exit(0)  # no interpreter shutdown: a sub-model's threads or atexit hooks must not keep a lane alive


def _die_with(fork_server: int) -> None:
    """Have the kernel kill this process when the fork server dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != fork_server:  # it died between the fork and the line above
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


def _end_all(pids: list[int], retiring: dict[int, Placement]) -> list[int]:
    """Kill those that may be killed; let the others finish what they are at: their sockets have closed by now.

    Returns:
        Those that were killed here, and had not ended by themselves.
    """
    slow = [pid for pid in pids if pid in retiring]
    killed = [pid for pid in pids if pid not in retiring and _kill(pid) == -signal.SIGKILL]
    deadline = time.monotonic() + max((retiring[pid].grace_s for pid in slow), default=0.0)
    for pid in slow:
        if _reap(pid, deadline) is None:
            retiring[pid].retire(pid)
            _kill(pid)
    return killed


def _end_trials(pids: Sequence[int]) -> None:
    """No engine that one of them was trying is at fault, and nobody else is left to say so."""
    if pids:
        from esen_lab.lanes.backends import end_trials

        for pid in pids:
            end_trials(pid)


def _reap(pid: int, deadline: float) -> int | None:
    pause = 0.0005
    while True:
        try:
            done, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return None
        if done:
            _unlink_counters(pid)
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def _kill(pid: int) -> int | None:
    try:
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    except (ProcessLookupError, ChildProcessError):
        return None
    _unlink_counters(pid)
    return os.waitstatus_to_exitcode(status)


def _unlink_counters(pid: int) -> None:
    """Remove what torch counts lent GPU memory with: only its destructors would, and a lane ends without them."""
    for path in Path("/dev/shm").glob(f"torch_{pid}_*"):  # noqa: S108  torch's choice
        with contextlib.suppress(OSError):
            path.unlink()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all has been let go of; what torch would do for a third of a second here, the user would wait for
