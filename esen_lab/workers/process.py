"""A worker process seen from the notebook: requests with deadlines, and the two halves of a run."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from esen_lab.devices import InForce, Retiring
from esen_lab.errors import (
    Cancelled,
    DeviceError,
    EsenError,
    ModelError,
    UsageError,
    WorkerDied,
    WorkerTimeout,
)
from esen_lab.trees import Tree
from esen_lab.workers import wire
from esen_lab.workers.arena import Block, Layout, TreeArena
from esen_lab.workers.base import TIMING
from esen_lab.workers.kept_outputs import Lent, Rule
from esen_lab.workers.messages import (
    Arrange,
    BorrowInput,
    BringOutputs,
    Call,
    CombineNow,
    CombineOutputs,
    KeepOutputs,
    LendInput,
    Load,
    NewOutputs,
    Problem,
    Ready,
    SetInput,
    Unload,
)

if TYPE_CHECKING:
    from esen_lab.workers.nursery import Nursery

_CANCEL_LOOK_S = 0.05


class ProcessWorker:
    """A lane in its own process; see `Worker` for what its methods promise. Made by `Nursery.worker`."""

    def __init__(
        self,
        *,
        nursery: Nursery,
        sock: socket.socket,
        log_fd: int,
        pid: int,
        label: str,
        retiring: Retiring | None = None,
    ) -> None:
        self._nursery = nursery
        self._retiring = retiring  # what must be told before this process is killed
        self._sock = sock
        self._log_fd = log_fd
        self._pid = pid
        self._label = label
        self._lock = threading.RLock()
        self._in_force: InForce | None = None
        self._number = 0
        self._alive = True
        self._outputs = TreeArena()
        self._timing_bytes = 0
        self._answer_bytes = wire.HEADER_BYTES
        self.looks = 0  # counts the changes of where and how outputs lie

    @property
    def label(self) -> str:
        """For people."""
        return self._label

    @property
    def pid(self) -> int:
        """The process."""
        return self._pid

    @property
    def in_force(self) -> InForce:
        """The limits that the worker found in force."""
        assert self._in_force is not None
        return self._in_force

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._alive

    def first_word(self, deadline: float) -> Ready:
        """Wait for the worker to say that its limits are in force."""
        with self._lock:
            ready = self._answer("start", deadline, None)
        assert isinstance(ready, Ready)
        self._in_force = ready.in_force
        return ready

    # --- requests ------------------------------------------------------------------------------------------------

    def load(
        self,
        name: str,
        payload: bytes,
        example: Tree,
        *,
        active_units: int | None = None,
        timeout_s: float = 300.0,
    ) -> None:
        """See `Worker.load`."""
        record = Load(
            name=name,
            payload_bytes=len(payload),
            example=example,
            active_units=self.in_force.units if active_units is None else active_units,
            # As they are now: a notebook adds to its path and changes its folder as it goes.
            sys_path=tuple(sys.path),
            folder=os.getcwd(),
        )
        block = Block.create(len(payload))
        try:
            block.memory[: len(payload)] = payload
            self._ask(record, f"load {name!r}", timeout_s, fds=[block.fd])
        finally:
            block.close()

    def unload(self, name: str) -> None:
        """See `Worker.unload`."""
        self._ask(Unload(name=name), f"unload {name!r}", 30)

    def call(
        self,
        function: str,
        name: str,
        *,
        timeout_s: float,
        cancelled: threading.Event | None = None,
        **kwargs: Any,
    ) -> Any:
        """See `Worker.call`."""
        record = Call(function=function, name=name, kwargs=dict(kwargs))
        return self._ask(record, f"run {name!r}", timeout_s, cancelled=cancelled)

    def arrange(self, members: tuple[str, ...], mode: str) -> None:
        """See `Worker.arrange`."""
        self._outputs.close()
        self._ask(Arrange(members=members, mode=mode), "arrange its sub-models", 300)
        self._timing_bytes = TIMING.size * len(members)
        # Whatever else may come is a pickled record, hence longer than SURE: nothing of the next frame is taken.
        self._answer_bytes = wire.HEADER_BYTES + min(self._timing_bytes, wire.SURE)
        self.looks += 1

    def set_input(self, layout: Layout, block: Block | None) -> None:
        """See `Worker.set_input`."""
        record = SetInput(layout=layout, block_bytes=None if block is None else block.size)
        self._ask(record, "take a new input", 30, fds=[] if block is None else [block.fd])

    def lend_input(self, gate: Block) -> bytes:
        """Have this lane bring the input to the GPU for all; returns what the others borrow it with."""
        lent: bytes = self._ask(LendInput(), "lend its input", 30, fds=[gate.fd])
        return lent

    def borrow_input(self, lent: bytes, gate: Block) -> None:
        """Have this lane read the input where another one brings it."""
        self._ask(BorrowInput(lent=lent), "borrow its input", 30, fds=[gate.fd])

    def keep_outputs(self) -> Lent:
        """See `DeviceEngine.keep_outputs`."""
        lent: Lent = self._ask(KeepOutputs(), "keep its outputs", 30)
        return lent

    def combine_outputs(
        self, rule: Rule, order: tuple[str, ...], others: tuple[Lent, ...], layout: Layout, block: Block
    ) -> None:
        """See `DeviceEngine.combine_outputs`; the caller closes its block when it likes."""
        record = CombineOutputs(rule=rule, order=order, others=others, layout=layout, block_bytes=block.size)
        self._ask(record, "take the others' outputs", 30, fds=[block.fd])

    def combine(self, timeout_s: float) -> None:
        """See `DeviceEngine.combine`."""
        self._ask(CombineNow(), "combine", timeout_s)

    def bring_outputs(self, *, stay: bool) -> None:
        """See `DeviceEngine.bring_outputs`."""
        self._ask(BringOutputs(stay=stay), "bring its outputs", 30)

    def _ask(
        self,
        record: object,
        what: str,
        timeout_s: float,
        *,
        fds: list[int] | None = None,
        cancelled: threading.Event | None = None,
    ) -> Any:
        with self._lock:
            self._check_alive(what)
            self._number += 1
            try:
                wire.send_record(self._sock, wire.MESSAGE, record, self._number, fds or [])
            except wire.Closed:
                raise self._died(what) from None
            return self._answer(what, time.monotonic() + timeout_s, cancelled)

    def _answer(self, what: str, deadline: float, cancelled: threading.Event | None) -> Any:
        try:
            self._wait(deadline, cancelled)
            frame = wire.receive(self._sock, max(deadline, time.monotonic() + 10))
        except wire.Closed:
            raise self._died(what) from None
        except TimeoutError:
            log = self._finish(grace_s=0)
            raise WorkerTimeout(
                f"{self._label} did not {what} before its deadline and was ended",
                log=log,
                hint="Allow more time, or look at what the sub-model does.",
            ) from None
        except BaseException:
            # Cancelled, or interrupted in the middle of an exchange: the answer would be taken for the next one's.
            self._finish(grace_s=0)
            raise
        answer = frame.record()
        if isinstance(answer, Problem):
            raise self._failed(answer)
        return answer

    def _failed(self, answer: Problem) -> EsenError:
        log = self.log()
        if answer.kind == "lost":
            self._finish(grace_s=1.0)
        return error_from(answer, log)

    def _wait(self, deadline: float, cancelled: threading.Event | None) -> None:
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            if cancelled is not None and cancelled.is_set():
                raise Cancelled(f"{self._label} was stopped on request")
            pause = remaining if cancelled is None else min(remaining, _CANCEL_LOOK_S)
            if poller.poll(pause * 1000):
                return

    # --- runs: no request waits here, the executor watches all lanes at once --------------------------------------

    def fileno(self) -> int:
        """The descriptor that becomes readable when a run has an answer."""
        return self._sock.fileno()

    def start_run(self, number: int) -> None:
        """Wake the worker; returns at once.

        Raises:
            WorkerDied: It is gone.
        """
        if not self._alive:
            self._check_alive("run")
        try:
            self._sock.sendall(wire.header(wire.RUN, number))
        except OSError:
            raise self._died("run") from None

    def take_run(self, number: int) -> bytes | None:
        """Take one answer that `fileno` announced; None when it belongs to an earlier, abandoned run.

        The time from here on is the caller's: an answer that looks as expected is taken in one call of the system and
        one comparison.

        Returns:
            What `RunTimings.unpack` reads.

        Raises:
            ModelError: A sub-model raised; the worker is fine.
            WorkerDied: It is gone.
        """
        try:
            begun = wire.receive_part(self._sock, self._answer_bytes)
            part, ancillary = begun
            expected = wire.header(wire.DONE, number, self._timing_bytes)
            if len(part) == wire.HEADER_BYTES + self._timing_bytes and not ancillary and part.startswith(expected):
                return part[wire.HEADER_BYTES :]
            frame = wire.receive(self._sock, time.monotonic() + 30, begun)
        except (wire.Closed, TimeoutError):
            raise self._died("run") from None
        if frame.kind == wire.DONE:
            return frame.body if frame.number == number else None
        answer = frame.record()
        if isinstance(answer, Problem):
            if frame.number != number:
                return None
            raise self._failed(answer)
        assert isinstance(answer, NewOutputs)
        block = None if answer.block_bytes is None else Block(frame.fds[0], answer.block_bytes)
        self._outputs.adopt(block, answer.layouts)
        self.looks += 1
        return answer.timings if frame.number == number else None

    @property
    def has_outputs(self) -> bool:
        """Whether a run of the present arrangement has left outputs."""
        return bool(self._outputs.layouts)

    def outputs(self) -> list[Tree]:
        """Each member's output of the last run, as views into memory that the next run overwrites."""
        return [self._outputs.read(index) for index in range(len(self._outputs.layouts))]

    # --- the end -------------------------------------------------------------------------------------------------

    def log(self) -> str:
        """The end of what the worker printed."""
        with self._lock:
            return tail_of(self._log_fd) if self._log_fd >= 0 else ""

    def close(self, timeout_s: float = 2.0) -> None:
        """See `Worker.close`."""
        with self._lock:
            if self._alive or self._log_fd >= 0:
                self._finish(grace_s=timeout_s)

    def kill(self) -> None:
        """End the process at once, even while another thread waits for its answer: that wait then fails."""
        self._alive = False
        if self._retiring is not None:
            self.hang_up()
        self._end(0)

    @property
    def must_retire(self) -> bool:
        """Whether it must not be killed at once: `kill` then takes a moment."""
        return self._retiring is not None

    def hang_up(self) -> float:
        """Tell a process that must not be killed at once to leave; returns how long it may take, in seconds."""
        if self._retiring is None:
            return 0.0
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        return self._retiring.grace_s

    def _end(self, grace_s: float) -> int | None:
        """Make sure that the process is gone: asked already, then retired where that is needed, then killed."""
        retiring = self._retiring
        if retiring is None:
            return self._nursery.end(self._pid, grace_s)
        code = self._nursery.end(self._pid, max(grace_s, retiring.grace_s), kill=False)
        if code is None:
            retiring.retire(self._pid)
            code = self._nursery.end(self._pid, retiring.grace_s)
        return code

    def forget(self) -> None:
        """Let go of what is held here for a process that is gone, once no other thread uses it any more."""
        self._alive = False
        if self._lock.acquire(timeout=1.0):
            try:
                self._release()
            finally:
                self._lock.release()

    def _check_alive(self, what: str) -> None:
        if not self._alive:
            raise WorkerDied(f"{self._label} cannot {what}: it has ended", hint="Take a new worker.")

    def _died(self, what: str) -> WorkerDied:
        log, code = self._finish_with_code(grace_s=1.0)
        return WorkerDied(
            f"{self._label} ended while asked to {what}: {_ending(code)}",
            log=log,
            hint="Finished work is kept; a new worker is started when one is needed.",
        )

    def _finish(self, *, grace_s: float) -> str:
        return self._finish_with_code(grace_s=grace_s)[0]

    def _finish_with_code(self, *, grace_s: float) -> tuple[str, int | None]:
        with self._lock:
            self._alive = False
            with contextlib.suppress(OSError):  # it may have hung up first
                self._sock.shutdown(socket.SHUT_RDWR)  # the asking: the worker reads the end and leaves
            code = self._end(grace_s)
            log = self.log()
            self._release()
            return log, code

    def _release(self) -> None:
        self._outputs.close()
        self._sock.close()
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1
        self._nursery.released(self)


def error_from(problem: Problem, log: str = "") -> EsenError:
    """What a worker reported, as the error to raise here."""
    if problem.kind == "usage":
        return UsageError(problem.rule or problem.summary, given=problem.given, hint=problem.hint)
    if problem.kind == "lost":
        return DeviceError(
            f"The GPU stopped serving this lane while it ran {problem.name or 'a request'}",
            given=problem.summary,
            hint="The lane has ended, under NVIDIA MPS the others on that GPU too; the next run starts them afresh.",
        )
    if problem.kind == "device":
        return DeviceError(problem.rule or problem.summary, given=problem.given, hint=problem.hint)
    who = f"Sub-model {problem.name!r}" if problem.name else "The function called in the worker"
    return ModelError(f"{who} raised {problem.summary}", worker_traceback=problem.traceback, log=log)


def tail_of(fd: int, limit: int = 4000) -> str:
    """The last `limit` bytes of a file, without moving anybody's position in it."""
    size = os.fstat(fd).st_size
    return os.pread(fd, limit, max(0, size - limit)).decode(errors="replace").strip()


_SIGNS: Mapping[int, str] = {
    -signal.SIGKILL: "killed by SIGKILL (by hand, or by the system for lack of memory)",
    -signal.SIGSEGV: "killed by SIGSEGV (a crash in native code)",
    -signal.SIGABRT: "killed by SIGABRT (native code gave up)",
    -signal.SIGBUS: "killed by SIGBUS (shared memory could not be had)",
}


def _ending(code: int | None) -> str:
    if code is None:
        return "it is gone"
    if code < 0:
        return _SIGNS.get(code, f"killed by signal {-code}")
    return f"it left with exit code {code}"
