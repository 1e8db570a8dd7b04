"""Where workers come from: one helper process per lab that has imported torch and forks a worker when asked.

Starting an interpreter and importing torch costs seconds per process; a fork of one that has done so costs some tens
of milliseconds and shares the memory of the libraries. The helper never touches CUDA, so that a worker may still set
the environment that CUDA reads when it starts.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, Protocol

from esen_lab.common.children import child_environment, interpreter_flags
from esen_lab.common.locks import Lock, Place, Underway
from esen_lab.common.resources import begin, log_file, no_descriptors, short_of, socket_pair
from esen_lab.common.trees import Tree
from esen_lab.devices import Placement
from esen_lab.errors import Cancelled, DeviceError, WorkerDied, WorkerTimeout
from esen_lab.lanes import descendants, wire
from esen_lab.lanes.forks import not_here, tell_when_forked
from esen_lab.lanes.inheritance import environment_of_lanes
from esen_lab.lanes.messages import End, Ended, Problem, Spawn, Started, answer_in
from esen_lab.lanes.openmp import lane_environment
from esen_lab.lanes.plain import NotPlain
from esen_lab.lanes.process_worker import ProcessWorker, tail_of
from esen_lab.lanes.settings import SessionSettings, Settings
from esen_lab.lanes.thread_worker import ThreadWorker

if TYPE_CHECKING:
    from esen_lab.lanes.worker import Worker


_ANSWERS_S = 2.0  # a helper that is asked answers sooner; only where it must first import torch it may not


class OwnAnswers(Protocol):
    """What the notebook's own process computes: the reference of all lanes."""

    def __call__(self, ensemble: Any, x: Tree, settings: Settings | None, *, anew: bool = False) -> dict[str, Tree]:
        """Each sub-model's answer, called in this process as the session calls it; random numbers are `PROOF_SEED`'s.

        Args:
            ensemble: The sub-models.
            x: The ensemble's input.
            settings: What the session has set.
            anew: Ask them now, whatever is known of an earlier answer.

        Returns:
            Answers on the CPU, by name; of one that raises, its `ModelError`. A sub-model that never answers the same,
            or cannot be asked, is left out.
        """

    def again(self, submodel: Any, x: Tree, settings: Settings | None) -> Tree | None:
        """One sub-model's answer, asked for anew even where one is kept; None where two calls give different ones."""


class ForkServer:
    """Starts workers and ends them. Nothing runs before the first `warm` or `worker`.

    May be used from several threads. Closing it, dropping the last reference to it, or the end of this process (a
    SIGKILL included) ends every worker.

    Args:
        start_method: "fork" (default on Linux) or "spawn" (default elsewhere): how workers are made.
    """

    def __init__(self, *, start_method: str | None = None) -> None:
        self._method = start_method or ("fork" if sys.platform == "linux" else "spawn")
        self._lock = Lock()
        self._process: _Process | None = None
        self._workers: set[ProcessWorker] = set()
        self._threads: set[ThreadWorker] = set()  # lanes in this process
        self.elsewhere = False  # whether this is a copy in a forked child of what is at work in its parent
        self.closing: Place | None = None  # of whoever waits until calls that are under way have failed
        self._session, self._seen_here = SessionSettings(), SessionSettings()
        tell_when_forked(self)
        self._looking = Lock()
        self.settings: Settings | None = None  # what the session had set at the last look
        self.own_answers: OwnAnswers | None = None  # of the session's process, where it can be asked

    def let_go_in_child(self) -> None:
        """See `Forked`. One that had started nothing can be used in the child."""
        self.elsewhere = self.elsewhere or bool(self._workers or self._threads)
        process, self._process = self._process, None
        if process is not None:
            process.let_go_in_child()
        for worker in list(self._workers):
            worker.let_go_in_child()
        self._workers, self._threads = set(), set()
        self._lock, self._looking = Lock(), Lock()  # a thread of the parent may have held them

    def check_here(self) -> None:
        """Refuse to work in a forked child of the process whose lanes these are.

        Raises:
            UsageError: This is such a child.
        """
        if self.elsewhere:
            raise not_here("A lab or a plan with lanes at work")

    @property
    def pid(self) -> int | None:
        """The helper process, or None while there is none."""
        return self._process.popen.pid if self._process is not None else None

    @property
    def cut_off(self) -> bool:
        """Whether somebody was interrupted in the middle of a frame to or from the helper: it is then started anew."""
        process = self._process
        return process is not None and process.asking.cut and not self._lock.locked()

    def warm(self) -> None:
        """Start the helper, without waiting for it: importing torch then overlaps with what the user does next."""
        with self._lock:
            self._running()

    def look_at_session(self) -> Settings:
        """Take what this thread and process have set now as what lanes must have.

        For whoever has the turn alone: lanes at work for another call would take it as that call's.
        """
        with self._looking:
            self.settings = self._session.now()
            return self.settings

    @contextlib.contextmanager
    def under(self, settings: Settings | None) -> Iterator[None]:
        """Have lanes under these settings for a while, whatever others have had set; None: as they are.

        For whoever has the turn alone, and began where these were set: in another thread, or before other calls.
        """
        before = self.settings
        if settings is not None and settings != before:
            self.settings = settings
        try:
            yield
        finally:
            self.settings = before

    def session_here(self) -> Settings:
        """What this thread and process have set now, which lanes need not have yet. For anybody."""
        with self._looking:
            return self._seen_here.now()

    def worker(
        self,
        placement: Placement,
        *,
        label: str = "worker",
        timeout_s: float = 120.0,
        settings: Settings | None = None,
    ) -> Worker:
        """Start a worker and wait until its limits are in force.

        Args:
            placement: Its place on the device.
            label: For people; shown in process lists.
            timeout_s: The deadline, importing torch included.
            settings: What its sub-models run under, whatever the session sets meanwhile; None: what the session has
                set by the last look at it, whenever one is loaded.

        Raises:
            Cancelled: Somebody waits to close what this is for: a call that is under way starts nothing more.
            DeviceError: The limits could not be put in force, or the system gave no process.
            WorkerDied: The helper or the worker died while starting.
            WorkerTimeout: The deadline passed.
        """
        self.check_here()
        if self.closing is not None and not self.closing.left:
            raise Cancelled("The lab was closed while this call was under way")
        if self.settings is None:
            self.look_at_session()
        session = (lambda: self.settings) if settings is None else (lambda: settings)
        if placement.in_process:
            thread = ThreadWorker(
                placement,
                label=label,
                timeout_s=timeout_s,
                ended=self._threads.discard,
                session=session,
            )
            self._threads.add(thread)
            return thread
        worker = self._forked(placement, label, time.monotonic() + timeout_s, session)
        try:
            self._workers.add(worker)
            worker.first_word(time.monotonic() + timeout_s)
        except BaseException:
            worker.close(timeout_s=0)
            raise
        if placement.grace_s:
            with self._lock:
                if self._process is not None:
                    self._process.end_first(worker)
        return worker

    def _forked(
        self, placement: Placement, label: str, deadline: float, session: Callable[[], Settings | None]
    ) -> ProcessWorker:
        log: io.FileIO | None = None
        process: io.FileIO | None = None
        ours, theirs = socket_pair()
        try:
            log = io.FileIO(log_file(), "rb")
            settings = session()
            record = Spawn(label=label, placement=placement, settings=settings)
            answer, fds = self._ask(record, [theirs.fileno(), log.fileno()], deadline)
            process = io.FileIO(fds[0], "rb") if fds else None
            assert isinstance(answer, Started)
            return ProcessWorker(
                fork_server=self,
                placement=placement,
                sock=ours,
                log=log,
                pid=answer.pid,
                label=label,
                session=session,
                settings=settings,
                process=process,
            )
        except BaseException:
            ours.close()
            for held in (log, process):
                if held is not None:
                    held.close()
            raise
        finally:
            theirs.close()

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
        if (process := self._process) is not None:
            process.go_on()
        try:
            end = End(pid=pid, grace_s=grace_s, kill=kill)
            answer, _ = self._ask(end, [], time.monotonic() + grace_s + 10)
        except (WorkerDied, WorkerTimeout):
            return None  # the fork server is gone, and every worker with it
        return answer.exit_code if isinstance(answer, Ended) else None

    def close(self) -> None:
        """End every worker and the helper. May be called again; a later `worker` starts afresh.

        1. No worker is alive any more: an interrupt from here on leaves none that seems to be.
        2. The helper is taken out under the lock: whoever asks for a worker meanwhile gets a new helper, and nobody
           asks this one while it ends. Where somebody has asked and gets no answer (a helper that is stopped), that
           wait is ended first, and whoever waited ends the helper.
        3. Lanes that must not be killed at once are hung up on, so that they finish what they are at.
        4. The helper ends, and with it all workers, the gentle ones after their grace. Whoever waits for an answer
           reads the end of a socket and gives the worker's lock back.
        5. Only then is let go of what is held for the workers here, each under its lock.
        """
        for worker in list(self._workers):
            worker.lost()
        with self._lock.within(_ANSWERS_S) as free:
            if not free and (asked := self._process) is not None:
                asked.hang_up()
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.stop(max([worker.hang_up() for worker in list(self._workers)], default=0.0))
        for worker in list(self._workers):
            worker.forget()
        for thread in list(self._threads):
            thread.close()
        _end_abandoned()

    def _ask(self, record: object, fds: list[int], deadline: float) -> tuple[Any, tuple[int, ...]]:
        """Ask the helper; returns its answer, and what descriptors came with it."""
        self.check_here()
        with self._lock:
            if isinstance(record, End) and self._process is None:
                raise WorkerDied("The process that starts workers is gone")
            process = self._running()
            try:
                answer, passed = process.ask(record, fds, deadline)
            except (wire.Closed, NotPlain) as problem:
                log = self._stopped(process)
                raise WorkerDied(
                    "The process that starts workers ended unexpectedly",
                    log=log,
                    hint="Try again; it is started anew.",
                ) from problem
            except TimeoutError as problem:
                log = self._stopped(process)
                raise WorkerTimeout(
                    "The process that starts workers did not answer in time",
                    log=log,
                    hint="Try again; it is started anew.",
                ) from problem
            except wire.NoRoom as problem:
                raise no_descriptors(str(problem)) from problem
        if isinstance(answer, Problem):
            raise DeviceError(
                answer.rule or "The system gives a process to each lane",
                given=answer.given or answer.summary,
                hint=answer.hint or "Close other programs.",
            )
        return answer, passed

    def _stopped(self, process: _Process) -> str:
        """End a helper, and its workers with it, in the order of `close`; returns the end of its log."""
        for worker in list(self._workers):
            worker.lost()
        self._process = None
        log = process.stop()
        for worker in list(self._workers):
            worker.forget()
        return log

    def _running(self) -> _Process:
        process = self._process
        if process is not None and (process.popen.poll() is not None or process.asking.cut):
            self._stopped(process)
        if self._process is None:
            _end_abandoned()
            self._process = _Process(self._method)
        return self._process


class _Process:
    """The helper process and our end of its socket."""

    def __init__(self, method: str) -> None:
        self.asking = Underway()  # cut: half a frame was written or read, so the next question ends this process
        self._number = 0
        environment = child_environment(lane_environment(environment_of_lanes(os.environ)))
        self._child = child = _started(self, method, environment)
        self.popen, self.sock, self._log = child.popen, child.sock, child.log

    def ask(self, record: object, fds: list[int], deadline: float) -> tuple[Any, tuple[int, ...]]:
        """Its answer to a question; an answer to an earlier one, whose asker was interrupted, is dropped.

        Raises:
            Closed, TimeoutError, NoRoom: See `wire.receive`.
            NotPlain: It answers nonsense.
        """
        self._number += 1
        number = self._number
        self._child.asked = True
        with self.asking:
            wire.send_record(self.sock, wire.MESSAGE, record, number, fds=fds)
        while True:
            wire.wait(self.sock, deadline)  # an interrupt here leaves nothing half read
            with self.asking:
                frame = wire.receive(self.sock, deadline, most=wire.MOST_ANSWER)
            if frame.number == number:
                return answer_in(frame.body), frame.fds
            frame.drop()

    def let_go_in_child(self) -> None:
        """See `Forked`: the process is the parent's to end."""
        self._child.let_go_in_child()

    def go_on(self) -> None:
        """See `_Child.go_on`."""
        self._child.go_on()

    def hang_up(self) -> None:
        """Ask it to end, by the end of its socket: whoever waits for an answer of it reads that too."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def end_first(self, worker: ProcessWorker) -> None:
        """At the end of this program, hang up on this lane and end before whatever was started until now.

        A daemon that lanes use was: it must not go while they still are its clients. Finalizers run at the end in the
        reverse order of their making, so one that is made anew runs before the daemon's.
        """
        gentle = self._child.gentle
        gentle[:] = [other for other in gentle if other.fileno() >= 0]
        gentle.append(worker.sock)
        if not self._child.must_end:
            self._child.end_with(self)

    def stop(self, grace_s: float = 0.0) -> str:
        """End it; returns the end of its log.

        Args:
            grace_s: How long its workers may take to leave by themselves.
        """
        log = "" if self._log.closed else tail_of(self._log.fileno())
        if grace_s and not self._child.must_end:
            self.hang_up()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout=grace_s + 0.5)
        self._child.end()
        return log


class _Child:
    """The helper as a process of the system: it is ended also where who started or ended it was interrupted.

    An interrupt strikes the main thread alone, so both are done in threads: whoever is interrupted while he waits for
    one leaves it at work. One that was not even begun to be ended is by whoever passes by.

    Args:
        popen: The process.
        sock: Our end of its socket.
        log: What it prints.
        mark: In the environment of it and of whatever it starts.
    """

    def __init__(self, popen: subprocess.Popen[bytes], sock: socket.socket, log: IO[bytes], mark: str) -> None:
        self.popen = popen
        self.sock = sock
        self.log = log
        self.gentle: list[socket.socket] = []  # of lanes that finish what they are at and leave by themselves
        self.must_end = False
        self.asked = False  # before that it has forked nobody
        self._finalizer: weakref.finalize[..., _Process] | None = None
        self._mark = mark
        self._maker = os.getpid()
        self._ending = Lock()

    def end_with(self, owner: _Process) -> None:
        """End it when that is gone, or this program ends; said again, before whatever was started until now."""
        self._let_go()
        self._finalizer = weakref.finalize(owner, self.end)

    def _let_go(self) -> None:
        if self._finalizer is not None:
            self._finalizer.detach()

    @property
    def abandoned(self) -> bool:
        """Whether it should have ended and nobody is about to end it."""
        orphan = self._finalizer is not None and not self._finalizer.alive
        return (self.must_end or orphan) and not self._ending.locked()

    def go_on(self) -> None:
        """Wake it where somebody has stopped it (SIGSTOP): it would end nothing, and not itself."""
        self.popen.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Have it end, and wait until it has. May be called again."""
        self.must_end = True
        if os.getpid() != self._maker:  # a copy in a forked child, which was not told in time: it is the parent's
            return
        thread = threading.Thread(target=self._end, name="esen_lab: end of the fork server")
        try:
            thread.start()
        except RuntimeError:  # there are no more, or the program is at its end
            self._end()
        else:
            thread.join()

    def _end(self) -> None:
        """Ask (by hanging up), then terminate, then kill; and end what it could not end itself.

        One that nobody has asked for anything is killed at once: it has started nobody, and would not look up before it
        has imported torch.

        1. Lanes that leave by themselves are hung up on before the helper is: it kills the others when it is asked to
           end, and would find these at work.
        2. The helper is asked by the end of its socket. It ends the workers, waiting for the gentle ones, then itself.
        3. One that does not is terminated, then killed: the kernel then kills its workers (`fork_server_main.py`).
        4. Killed, it has not ended what sub-models have started. That is known by the mark in its environment.
        """
        with self._ending:
            self._let_go()
            for lane in self.gentle:
                with contextlib.suppress(OSError):  # closed already
                    lane.shutdown(socket.SHUT_RDWR)
            self.go_on()
            self.sock.close()
            for act in (None, signal.SIGTERM, signal.SIGKILL) if self.asked else (signal.SIGKILL,):
                if act is not None:
                    self.popen.send_signal(act)
                try:
                    self.popen.wait(timeout=4.0 if self.gentle else 2.0)
                    break
                except subprocess.TimeoutExpired:
                    continue
            if self.asked and self.popen.returncode != 0:  # it has not tidied up
                descendants.end_marked(self._mark)
            self.log.close()
            _CHILDREN.discard(self)

    def let_go_in_child(self) -> None:
        """See `Forked`: the process is the parent's to end."""
        _CHILDREN.discard(self)
        self._let_go()
        self.gentle.clear()
        self.sock.close()
        self.log.close()
        self.popen.returncode = 0  # or Popen would warn of a child that still runs, and it is not this process's


_CHILDREN: set[_Child] = set()  # started and not yet waited for


def _end_abandoned() -> None:
    for child in list(_CHILDREN):
        if child.abandoned:
            child.end()


def _started(process: _Process, method: str, environment: dict[str, str]) -> _Child:
    """Start the helper.

    Raises:
        DeviceError: The system gives no process, thread or descriptor.
    """
    owner = weakref.ref(process)  # who is interrupted while he waits lets go of it
    done: list[_Child | Exception] = []

    def start() -> None:
        try:
            child = _start(method, environment)
        except Exception as problem:  # it is for who waits below
            done.append(problem)
            return
        _CHILDREN.add(child)
        if (process := owner()) is not None:
            child.end_with(process)
            done.append(child)
        else:
            child.end()

    thread = threading.Thread(target=start, name="esen_lab: start of the fork server")
    begin(thread)
    thread.join()
    if isinstance(done[0], Exception):
        raise done[0]
    return done[0]


def _start(method: str, environment: dict[str, str]) -> _Child:
    mark = f"{os.getpid()}-{os.urandom(8).hex()}"
    ours, theirs = socket_pair()
    log: IO[bytes] | None = None
    python = [sys.executable, *interpreter_flags(), "-P"]
    try:
        log = open(log_file(), "r+b", buffering=0)  # noqa: SIM115  lives as long as the process
        popen = subprocess.Popen(
            [*python, "-m", "esen_lab.lanes.fork_server_main", str(theirs.fileno()), method],
            pass_fds=[theirs.fileno()],
            env={**environment, descendants.MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A notebook's interrupt and restart signal its whole process group; workers are not theirs to hit.
            start_new_session=True,
        )
    except BaseException as problem:
        ours.close()
        if log is not None:
            log.close()
        if isinstance(problem, OSError):
            raise short_of(problem) from problem
        raise
    finally:
        theirs.close()
    return _Child(popen, ours, log, mark)
