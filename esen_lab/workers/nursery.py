"""Where workers come from: one helper process per lab that has imported torch and forks a worker when asked.

Starting an interpreter and importing torch costs seconds per process; a fork of one that has done so costs some tens
of milliseconds and shares the memory of the libraries. The helper never touches CUDA, so that a worker may still set
the environment that CUDA reads when it starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

import esen_lab
from esen_lab.devices import Placement, Retiring
from esen_lab.devices.in_process import InProcess
from esen_lab.errors import DeviceError, WorkerDied, WorkerTimeout
from esen_lab.workers import wire
from esen_lab.workers.local import LocalWorker
from esen_lab.workers.messages import End, Ended, Problem, Ready, Spawn
from esen_lab.workers.process import ProcessWorker, tail_of

LaneWorker: TypeAlias = ProcessWorker | LocalWorker
"""A lane as the executor runs it, in a process of its own or in this one."""


class Nursery:
    """Starts workers and ends them. Nothing runs before the first `warm` or `worker`.

    May be used from several threads. Closing it, dropping the last reference to it, or the end of this process (a
    SIGKILL included) ends every worker.

    Args:
        start_method: "fork" (default on Linux) or "spawn" (default elsewhere): how workers are made.
    """

    def __init__(self, *, start_method: str | None = None) -> None:
        self._method = start_method or ("fork" if sys.platform == "linux" else "spawn")
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._workers: set[ProcessWorker] = set()
        self._locals: set[LocalWorker] = set()  # lanes in this process

    @property
    def pid(self) -> int | None:
        """The helper process, or None while there is none."""
        return self._process.popen.pid if self._process is not None else None

    def warm(self) -> None:
        """Start the helper, without waiting for it: importing torch then overlaps with what the user does next."""
        with self._lock:
            self._running()

    def worker(self, placement: Placement, *, label: str = "worker", timeout_s: float = 120.0) -> LaneWorker:
        """Start a worker and wait until its limits are in force.

        Args:
            placement: Its place on the device.
            label: For people; shown in process lists.
            timeout_s: The deadline, importing torch included.

        Raises:
            DeviceError: The limits could not be put in force, or the system gave no process.
            WorkerDied: The helper or the worker died while starting.
            WorkerTimeout: The deadline passed.
        """
        if isinstance(placement, InProcess):
            local = LocalWorker(placement, label=label, timeout_s=timeout_s, ended=self._locals.discard)
            self._locals.add(local)
            return local
        deadline = time.monotonic() + timeout_s
        with tempfile.TemporaryFile() as log:
            os.set_blocking(log.fileno(), True)
            # Appending: the worker's two streams and its cutting of the file must not overwrite each other.
            log_fd = _reopen_for_append(log)
        ours, theirs = socket.socketpair()
        try:
            record = Spawn(label=label, placement=placement)
            pid = self._ask(record, [theirs.fileno(), log_fd], deadline)
            theirs.close()
            retiring = placement if isinstance(placement, Retiring) else None
            worker = ProcessWorker(nursery=self, sock=ours, log_fd=log_fd, pid=pid, label=label, retiring=retiring)
        except BaseException:
            ours.close()
            theirs.close()
            os.close(log_fd)
            raise
        try:
            ready = worker.first_word(deadline)
        except BaseException:
            worker.close(timeout_s=0)
            raise
        assert isinstance(ready, Ready)
        self._workers.add(worker)
        if retiring is not None:
            with self._lock:
                if self._process is not None:
                    self._process.end_first(ours)
        return worker

    @property
    def processes(self) -> tuple[tuple[str, int], ...]:
        """The (label, process id) of each worker that is alive, in order of label."""
        return tuple(sorted((worker.label, worker.pid) for worker in list(self._workers) if worker.alive))

    def released(self, worker: ProcessWorker) -> None:
        """A worker has ended and holds nothing any more."""
        self._workers.discard(worker)

    def end(self, pid: int, grace_s: float, *, kill: bool = True) -> int | None:
        """Make sure a worker is gone, killing it after `grace_s`, or only look whether it goes until then.

        Returns:
            Its exit code, negative for a signal; None when nobody knows, or it is still there.
        """
        try:
            answer = self._ask(End(pid=pid, grace_s=grace_s, kill=kill), [], time.monotonic() + grace_s + 10)
        except (WorkerDied, WorkerTimeout):
            return None  # the nursery is gone, and every worker with it
        assert isinstance(answer, Ended)
        return answer.exit_code

    def close(self) -> None:
        """End every worker and the helper. May be called again; a later `worker` starts afresh."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            grace_s = max([worker.hang_up() for worker in list(self._workers)], default=0.0)
            process.stop(grace_s)  # the workers first: whoever waits for one reads the end of its socket
        for worker in list(self._workers):
            worker.forget()
        for local in list(self._locals):
            local.close()

    def _ask(self, record: object, fds: list[int], deadline: float) -> Any:
        with self._lock:
            if isinstance(record, End) and self._process is None:
                raise WorkerDied("The process that starts workers is gone")
            process = self._running()
            try:
                wire.send_record(process.sock, wire.MESSAGE, record, fds=fds)
                frame = wire.receive(process.sock, deadline)
            except wire.Closed as problem:
                self._process = None
                log = process.stop()
                raise WorkerDied(
                    "The process that starts workers ended unexpectedly",
                    log=log,
                    hint="Try again; it is started anew.",
                ) from problem
            except TimeoutError as problem:
                self._process = None
                log = process.stop()
                raise WorkerTimeout(
                    "The process that starts workers did not answer in time",
                    log=log,
                    hint="Try again; it is started anew.",
                ) from problem
        answer = frame.record()
        if isinstance(answer, Problem):
            raise DeviceError(
                "The system gives a process to each lane", given=answer.summary, hint="Close other programs."
            )
        return answer

    def _running(self) -> _Process:
        if self._process is not None and self._process.popen.poll() is not None:
            self._process.stop()
            self._process = None
        if self._process is None:
            self._process = _Process(self._method)
        return self._process


class _Process:
    """The helper process and our end of its socket."""

    def __init__(self, method: str) -> None:
        self.sock, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        environment = dict(os.environ)
        root = str(Path(esen_lab.__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), root]))
        command = [sys.executable, "-P", "-m", "esen_lab.workers.nursery_main", str(theirs.fileno()), method]
        with theirs:
            self.popen = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                # A notebook's interrupt and restart signal its whole process group; workers are not theirs to hit.
                start_new_session=True,
            )
        self._gentle: list[socket.socket] = []  # of lanes that finish what they are at and leave by themselves
        self._finalizer = weakref.finalize(self, _stop, self.popen, self.sock, self._log, self._gentle)

    def end_first(self, sock: socket.socket) -> None:
        """At the end of this program, hang up on this lane and end before whatever was started until now.

        A daemon that lanes use was: it must not go while they still are its clients.
        """
        self._gentle[:] = [other for other in self._gentle if other.fileno() >= 0]
        self._gentle.append(sock)
        if self._finalizer.detach() is not None:
            self._finalizer = weakref.finalize(self, _stop, self.popen, self.sock, self._log, self._gentle)

    def stop(self, grace_s: float = 0.0) -> str:
        """End it; returns the end of its log.

        Args:
            grace_s: How long its workers may take to leave by themselves.
        """
        log = "" if self._log.closed else tail_of(self._log.fileno())
        if grace_s and self._finalizer.alive:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout=grace_s + 0.5)
        self._finalizer()
        return log


def _stop(popen: subprocess.Popen[bytes], sock: socket.socket, log: IO[bytes], gentle: Sequence[socket.socket]) -> None:
    """Ask (by hanging up), then terminate, then kill."""
    for lane in gentle:
        with contextlib.suppress(OSError):  # closed already
            lane.shutdown(socket.SHUT_RDWR)
    sock.close()
    for act in (None, signal.SIGTERM, signal.SIGKILL):
        if act is not None:
            popen.send_signal(act)
        try:
            popen.wait(timeout=2.0 if gentle else 1.0)
            break
        except subprocess.TimeoutExpired:
            continue
    log.close()


def _reopen_for_append(log: IO[bytes]) -> int:
    fd = os.dup(log.fileno())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    return fd
