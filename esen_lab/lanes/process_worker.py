"""A lane in a process of its own: orders and answers as frames on a socket, with deadlines.

The conversation, and what may come in between:

    1. `_ask` counts the number of the conversation up and sends the order with it, under `_asking`.
    2. It waits, on the socket and on the end of the process: a child that a sub-model has started may hold the socket
       open, and then the socket would never say that the process is gone.
    3. It takes frames until one has its number. What an earlier asker did not wait for is dropped.
    4. Interrupted in 1 or 3, it leaves half a frame or a question without its answer. `_asking` then stays cut, the
       worker is not `alive`, and whoever comes next ends the process instead of reading on in the middle.

Runs go over the same socket but take no lock, which would cost on the path of every call. The two do not meet: before
the executor asks, it has taken every lane's answer or has ended the lane, after an interrupt too (`LaneWatch.settle`).
A run whose answer was cut in the middle leaves a mark of its own, `_taking`: the next `take_run` ends the process.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from esen_lab.common.locks import Lock, Underway
from esen_lab.common.resources import no_descriptors
from esen_lab.common.trees import Tree, map_tensors
from esen_lab.devices import Placement
from esen_lab.errors import Cancelled, DeviceError, EsenError, WorkerDied, WorkerTimeout
from esen_lab.lanes import wire
from esen_lab.lanes.arena import Block, Layout, TreeArena
from esen_lab.lanes.backends import end_trials
from esen_lab.lanes.known_looks import KnownLooks
from esen_lab.lanes.messages import NewOutputs, Order, Problem, Ready, Returned, ReturnedTree, answer_in
from esen_lab.lanes.plain import NotPlain, PlainLayout, layout_of, value_of
from esen_lab.lanes.problems import error_from
from esen_lab.lanes.settings import Settings
from esen_lab.lanes.timings import TIMING, StepTold
from esen_lab.lanes.worker import NEW_INPUT, Memory, Reader, Stop, Worker

_CANCEL_LOOK_S = 0.05
_FRAME_S = 30.0  # for a frame that was announced
_SOON_S = 0.05  # for the end of a process that has hung up


class Parent(Protocol):
    """Whoever has started processes, and is told of their end: see `ForkServer`."""

    def end(self, pid: int, grace_s: float, *, kill: bool = True) -> int | None:
        """See `ForkServer.end`."""

    def released(self, worker: ProcessWorker) -> None:
        """See `ForkServer.released`."""


class ProcessWorker(Worker):
    """See `Worker`.

    Args:
        fork_server: Has started the process, and knows how it ended.
        placement: Its place: says how the process must be ended.
        sock: This side's end of the conversation.
        log: The file that the process prints into.
        pid: The process.
        label: For people.
        session: What its sub-models are to run under.
        settings: What it has of that already.
        process: Readable once the process has ended; None where the system has no such thing.
    """

    own_process = True
    _log: io.FileIO | None = None

    def __init__(
        self,
        *,
        fork_server: Parent,
        placement: Placement,
        sock: socket.socket,
        log: io.FileIO,
        pid: int,
        label: str,
        session: Callable[[], Settings | None] = lambda: None,
        settings: Settings | None = None,
        process: io.FileIO | None = None,
    ) -> None:
        super().__init__(label, pid, session, settings)
        self._fork_server = fork_server
        self._placement = placement
        self._sock = sock
        self._log = log
        self._process = process
        self.process_fd = -1 if process is None else process.fileno()
        self._asking = Underway()
        self._taking = Underway()
        self._number = 0
        self._untaken = 0  # orders that were sent without waiting, and whose answers are still to come
        self._outputs = TreeArena()
        self._known: KnownLooks[tuple[tuple[Layout, ...], int]] = KnownLooks()
        self._changes = 0  # of how outputs lie
        self._timing_bytes = 0
        self._answer_bytes = wire.HEADER_BYTES

    @property
    def alive(self) -> bool:
        """Whether it can be asked: nobody has found that it ended, and no interrupt has left half a frame."""
        return self._alive and not (self._asking.cut and not self._lock.locked())

    def first_word(self, deadline: float) -> None:
        """Wait for the worker to say that its limits are in force."""
        with self._lock, self._asking:
            ready = self._answer("start", deadline, None)
        if not isinstance(ready, Ready):
            raise self._garbled("start")
        self._in_force = ready.in_force

    # --- requests ------------------------------------------------------------------------------------------------

    def arrange(self, members: tuple[str, ...], mode: str) -> None:
        """See `Worker.arrange`."""
        self._outputs.close()
        self._known.forget_outputs()
        super().arrange(members, mode)
        self._changed()
        self._timing_bytes = TIMING.size * len(members)
        # Whatever else may come is a pickled record, hence longer than SURE: nothing of the next frame is taken.
        self._answer_bytes = wire.HEADER_BYTES + min(self._timing_bytes, wire.SURE)

    def _ask(self, order: Order, what: str, timeout_s: float, memory: Memory, cancelled: Stop, read: Reader) -> Any:
        block = Block.holding(memory) if isinstance(memory, bytes) else memory
        try:
            answer = self._exchange(order, what, timeout_s, [] if block is None else [block.fd], cancelled)
        finally:
            if block is not None and block is not memory:
                block.close()
        try:
            if isinstance(answer, _Tree):
                return read(answer.tree)
            if isinstance(answer, Returned):
                return read(value_of(answer.value))
        except NotPlain:
            pass
        raise self._garbled(what)

    def _send_along(self, order: Order, block: Block | None) -> bool:
        with self._lock:
            self._check_alive(NEW_INPUT)
            with self._asking:
                self._number += 1
                self._untaken += 1
                try:
                    wire.send_record(self._sock, wire.MESSAGE, order, self._number, [] if block is None else [block.fd])
                except wire.Closed:
                    raise self._died(NEW_INPUT) from None
        return True

    def set_input(self, layout: Layout, block: Block | None, *, wait: bool = True) -> None:
        """See `Worker.set_input`."""
        number = None if wait or block is not None else self._known.number_of(layout)
        if number is not None:
            self._look_again(number)
            return
        super().set_input(layout, block, wait=wait)
        self._known.told(layout, self._lie, new_block=block is not None)

    def _look_again(self, number: int) -> None:
        """Have the next input read where one of this look lay before; there is no answer to that."""
        with self._lock:
            self._check_alive(NEW_INPUT)
            with self._asking:  # interrupted inside, the two sides may differ
                try:
                    self._sock.sendall(wire.header(wire.LOOK, number))
                except OSError:
                    raise self._died(NEW_INPUT) from None
                _, outputs = self._known.again(number, self._lie)
                if outputs is not None:
                    self._outputs.adopt(None, outputs[0])
                    self.looks = outputs[1]

    @property
    def _lie(self) -> tuple[tuple[Layout, ...], int] | None:
        """How outputs lie now, and what `looks` says of it."""
        layouts = self._outputs.layouts
        return (layouts, self.looks) if layouts else None

    def _changed(self) -> None:
        """Outputs lie as they never did before."""
        self._changes += 1
        self.looks = self._changes

    def _exchange(self, order: Order, what: str, timeout_s: float, fds: list[int], cancelled: Stop) -> Any:
        with self._lock:
            self._check_alive(what)
            with self._asking:
                self._number += 1
                try:
                    wire.send_record(self._sock, wire.MESSAGE, order, self._number, fds)
                except wire.Closed:
                    raise self._died(what) from None
                return self._answer(what, time.monotonic() + timeout_s, cancelled)

    def _answer(self, what: str, deadline: float, cancelled: Stop) -> Any:
        """The answer to the last question; that to an earlier one, which nobody waits for any more, is dropped."""
        try:
            while True:
                self._wait(deadline, cancelled)
                frame = wire.receive(self._sock, max(deadline, time.monotonic() + 10), most=wire.MOST_ANSWER)
                if frame.number == self._number and frame.kind in (wire.REPLY, wire.FAILED):
                    break
                self._taken(frame)
                frame.drop()
            answer = self._read(frame)
        except wire.Garbled:
            raise self._garbled(what) from None
        except wire.Closed:
            raise self._died(what) from None
        except TimeoutError:
            log, _ = self._finish(grace_s=0)
            raise WorkerTimeout(
                f"{self.label} did not {what} before its deadline and was ended",
                log=log,
                hint="Allow more time, or look at what the sub-model does.",
            ) from None
        except wire.NoRoom as problem:
            self._finish(grace_s=0)
            raise no_descriptors(str(problem)) from problem
        except BaseException:
            # Cancelled, or interrupted: the worker goes on with what nobody waits for, and the next would wait for it.
            self._finish(grace_s=0)
            raise
        if isinstance(answer, Problem):
            raise self._failed(answer)
        return answer

    def _read(self, frame: wire.Frame) -> Any:
        """What a frame says; tensors in it are taken out of the memory that they came in.

        Raises:
            Garbled: It says nothing.
        """
        try:
            answer = answer_in(frame.body)
            brings = isinstance(answer, ReturnedTree) or (isinstance(answer, NewOutputs) and answer.fresh)
            if len(frame.fds) != brings:
                raise NotPlain("descriptors that do not belong to it")
        except NotPlain as problem:
            frame.drop()
            raise wire.Garbled(str(problem)) from problem
        if not isinstance(answer, ReturnedTree):
            return answer
        try:
            return _Tree(_taken_out(frame.fds[0], answer))
        except ValueError as problem:
            raise wire.Garbled(str(problem)) from problem

    def _failed(self, answer: Problem) -> EsenError:
        log = self.log()
        if answer.kind == "lost":
            self._finish(grace_s=1.0)
        return error_from(answer, log)

    def _wait(self, deadline: float, cancelled: Stop) -> None:
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        if self.process_fd >= 0:
            poller.register(self.process_fd, select.POLLIN)
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            if cancelled is not None and cancelled.is_set():
                raise Cancelled(f"{self.label} was stopped on request")
            pause = remaining if cancelled is None else min(remaining, _CANCEL_LOOK_S)
            ready = [fd for fd, _ in poller.poll(wire.poll_ms(pause))]
            if self._sock.fileno() in ready:
                return
            if ready:  # the process has ended, and a child of it holds its socket open
                raise wire.Closed("the process has ended")

    # --- runs -----------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """See `Worker.fileno`."""
        return self._sock.fileno()

    @property
    def sock(self) -> socket.socket:
        """This process's end of the conversation."""
        return self._sock

    def start_run(self, number: int, seed: int | None = None, *, stepwise: bool = False) -> None:
        """See `Worker.start_run`."""
        if not self._alive:
            self._check_alive("run")
        kind = wire.STEPWISE if stepwise else wire.RUN
        try:
            if seed is None:
                self._sock.sendall(wire.header(kind, number))
            else:
                self._sock.sendall(wire.header(kind, number, wire.SEED.size) + wire.SEED.pack(seed))
        except OSError:
            raise self._died("run") from None

    def stop_run(self, number: int) -> None:
        """See `Worker.stop_run`."""
        with contextlib.suppress(OSError):  # one that has ended is found by whoever looks for its answer
            self._sock.sendall(wire.header(wire.STOP, number))

    def take_step(self) -> StepTold:
        """See `Worker.take_step`."""
        if self._taking.cut or not self._alive:
            raise self._died("run")
        self._taking.cut = True
        try:
            self._wait(time.monotonic() + _FRAME_S, None)
            frame = wire.receive(self._sock, time.monotonic() + _FRAME_S, most=wire.MOST_ANSWER)
            self._taking.cut = False
            return self._told(frame)
        except wire.Garbled:
            raise self._garbled("run") from None
        except (wire.Closed, TimeoutError):
            raise self._died("run", grace_s=_SOON_S) from None  # an answer may be due
        except wire.NoRoom as problem:
            self._finish(grace_s=0)
            raise no_descriptors(str(problem)) from problem

    def _taken(self, frame: wire.Frame) -> bool:
        """Whether a frame answers an order that nobody waited for: the first answers after it are theirs.

        Raises:
            WorkerDied: The lane could not do it. It reads an earlier input, so that it must not run: it is ended.
        """
        if not self._untaken or frame.kind not in (wire.REPLY, wire.FAILED):
            return False
        self._untaken -= 1
        if frame.kind == wire.FAILED:
            answer = self._read(frame)
            log, _ = self._finish(grace_s=0)
            told = answer.summary if isinstance(answer, Problem) else "nothing that can be read"
            raise WorkerDied(f"{self.label} was ended: it could not take a new input", worker_traceback=told, log=log)
        return True

    def _told(self, frame: wire.Frame) -> StepTold:
        if self._taken(frame):
            frame.drop()
            return StepTold(number=0)
        if frame.kind in (wire.STEP, wire.DONE):
            frame.drop()
            return self._step(frame.number, frame.body) if frame.body else StepTold(number=frame.number, over=True)
        answer = self._read(frame)
        if isinstance(answer, NewOutputs):
            if len(answer.layouts) * TIMING.size != self._timing_bytes:
                frame.drop()
                raise wire.Garbled("outputs of other sub-models")
            self._adopt(frame.fds[0] if answer.fresh else -1, answer.layouts, answer.block_bytes)
            return self._step(frame.number, answer.timings)
        if not isinstance(answer, Problem):
            raise wire.Garbled("an answer to what nobody asked")
        return StepTold(number=frame.number, problem=self._failed(answer), failed=answer.name)

    def _step(self, number: int, body: bytes) -> StepTold:
        try:
            told = StepTold.unpack(number, body)
        except struct.error:
            told = StepTold(number=number)
        if not 0 <= told.index * TIMING.size < self._timing_bytes:
            raise wire.Garbled("a step that there is not")
        return told

    def take_run(self, number: int) -> bytes | None:
        """See `Worker.take_run`.

        The time from here on is the caller's: an answer that looks as expected is taken in one call of the system and
        one comparison.
        """
        if self._taking.cut:
            raise self._died("run")
        try:
            self._taking.cut = True
            part, ancillary, flags, _ = self._sock.recvmsg(self._answer_bytes, wire.FD_SPACE, wire.AT_ONCE)
            expected = wire.header(wire.DONE, number, self._timing_bytes)
            if len(part) == wire.HEADER_BYTES + self._timing_bytes and not ancillary and part.startswith(expected):
                self._taking.cut = False
                return part[wire.HEADER_BYTES :]
            return self._take_slowly(number, (part, ancillary, flags))
        except BlockingIOError:  # what was announced is the end of the process
            return self._take_slowly(number, None)
        except OSError:
            raise self._died("run") from None

    def _take_slowly(self, number: int, begun: wire.Part | None) -> bytes | None:
        """Any other answer; `begun` is what there is of it."""
        try:
            if begun is None:
                self._wait(time.monotonic() + 30, None)
            frame = wire.receive(self._sock, time.monotonic() + 30, begun, most=wire.MOST_ANSWER)
            self._taking.cut = False
            return self._outcome(frame, number)
        except wire.Garbled:
            raise self._garbled("run") from None
        except (wire.Closed, TimeoutError):
            raise self._died("run") from None
        except wire.NoRoom as problem:
            self._finish(grace_s=0)
            raise no_descriptors(str(problem)) from problem

    def _outcome(self, frame: wire.Frame, number: int) -> bytes | None:
        if frame.kind == wire.DONE:
            frame.drop()
            if frame.number == number and len(frame.body) != self._timing_bytes:
                raise wire.Garbled("times of other sub-models")
            return frame.body if frame.number == number else None
        if self._taken(frame):
            frame.drop()
            return None
        answer = self._read(frame)
        if isinstance(answer, Problem):
            if frame.number != number:
                return None
            raise self._failed(answer)
        if not isinstance(answer, NewOutputs):  # to a question that nobody waits for any more
            return None
        if len(answer.timings) != self._timing_bytes or len(answer.layouts) * TIMING.size != self._timing_bytes:
            frame.drop()
            raise wire.Garbled("times of other sub-models")
        self._adopt(frame.fds[0] if answer.fresh else -1, answer.layouts, answer.block_bytes)
        return answer.timings if frame.number == number else None

    def _adopt(self, fd: int, plain: list[PlainLayout], block_bytes: int) -> None:
        try:
            block = Block.received(fd, block_bytes) if fd >= 0 else None
            held = block or self._outputs.block
            layouts = tuple(layout_of(layout, held.size if held is not None else 0) for layout in plain)
            if block is not None:
                self._known.forget_outputs()
            self._outputs.adopt(block, layouts)
        except (ValueError, RuntimeError, TypeError, AssertionError) as problem:
            raise wire.Garbled(str(problem)) from problem
        except DeviceError:  # the lane would go on writing where nobody here looks
            self._finish(grace_s=0)
            raise
        self._changed()

    @property
    def _arena(self) -> TreeArena:
        return self._outputs

    # --- the end -------------------------------------------------------------------------------------------------

    def log(self) -> str:
        """The end of what the worker printed."""
        with self._lock:
            return "" if self._log is None or self._log.closed else tail_of(self._log.fileno())

    def close(self, timeout_s: float = 2.0) -> None:
        """See `Worker.close`."""
        with self._lock:
            if self._alive or (self._log is not None and not self._log.closed):
                self._finish(grace_s=timeout_s)

    def kill(self) -> None:
        """See `Worker.kill`."""
        # Without the lock, which whoever waits for an answer holds. So nothing is let go of here: the one that waits
        # reads the end of the process, and does.
        self._alive = False
        self.hang_up()
        self._end(0)

    def hang_up(self) -> float:
        """Tell a process that must not be killed at once to leave; returns how long it may take, in seconds."""
        if self._placement.grace_s:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        return self._placement.grace_s

    def _end(self, grace_s: float) -> int | None:
        """Make sure that the process is gone: asked already, then retired where that is needed, then killed."""
        own_s = self._placement.grace_s
        if not own_s:
            return self._fork_server.end(self.pid, grace_s)
        code = self._fork_server.end(self.pid, max(grace_s, own_s), kill=False)
        if code is None:
            self._placement.retire(self.pid)
            code = self._fork_server.end(self.pid, own_s)
        return code

    def let_go_in_child(self) -> None:
        """See `Forked`: close this process's copies, and end nothing."""
        self._alive = False
        self._lock = Lock()
        self._close_all()

    def lost(self) -> None:
        """Its process is about to end with the one that it was forked from: it is asked nothing any more."""
        self._alive = False

    def forget(self) -> None:
        """Let go of what is held here for a process that is gone, once no other thread uses it any more."""
        self._alive = False
        end_trials(self.pid)
        with self._lock.within(1.0) as taken:
            if taken:
                self._release()

    def _check_alive(self, what: str) -> None:
        if self._asking.cut and self._alive:  # nobody else can be inside: the caller has the lock (step 4 above)
            self._finish(grace_s=0)
        super()._check_alive(what)

    def _died(self, what: str, *, grace_s: float = 1.0) -> WorkerDied:
        log, code = self._finish(grace_s=grace_s)
        died = WorkerDied(
            f"{self.label} ended while asked to {what}: {_ending(code)}",
            log=log,
            hint="Finished work is kept; a new worker is started when one is needed.",
        )
        died.crashed = _is_fault(code)
        return died

    def _garbled(self, what: str) -> WorkerDied:
        """Something in its process writes to its socket, or changes its memory."""
        log, _ = self._finish(grace_s=0)
        return WorkerDied(
            f"{self.label} was ended: asked to {what}, it sent what no lane sends",
            log=log,
            hint="Look at what the sub-model does with descriptors that it has not opened; a new worker is started "
            "when one is needed.",
        )

    def _finish(self, *, grace_s: float) -> tuple[str, int | None]:
        """End the process; returns the end of its log, and how it ended.

        1. No longer alive: an interrupt from here on leaves none that seems to be.
        2. Hang up, which is the asking: the worker reads the end of its socket and leaves. One that is a client of MPS
           first lets the GPU finish.
        3. Wait for its end, then kill. Only the fork server can: it is the parent.
        4. Read the log when nobody writes it any more, and before its descriptor goes.
        5. Let go. The number of a closed descriptor may come back as somebody else's, so nobody may still wait on it:
           requests hold the lock, and the executor looks again at who is alive (`LaneWatch.only_the_living`).
        """
        with self._lock:
            self._alive = False
            with contextlib.suppress(OSError):  # it may have hung up first
                self._sock.shutdown(socket.SHUT_RDWR)
            code = self._end(grace_s)
            if code != 0 and not _is_fault(code):
                end_trials(self.pid)
            log = self.log()
            self._release()
            return log, code

    def _release(self) -> None:
        self._close_all()
        self._fork_server.released(self)

    def _close_all(self) -> None:
        self._outputs.close()
        self._sock.close()
        self.process_fd = -1  # first: its number may come back as somebody else's
        # Objects, not numbers: an interrupt between any two steps leaves each either open, and known, or closed.
        for held in (self._process, self._log):
            if held is not None:
                held.close()

    def __del__(self) -> None:
        if self._log is not None and not self._log.closed:  # dropped by whoever was interrupted before anybody had it
            with contextlib.suppress(Exception):
                self._close_all()


@dataclass(frozen=True, slots=True)
class _Tree:
    """Tensors that a request came to, this process's own."""

    tree: Tree


def _taken_out(fd: int, answer: ReturnedTree) -> Tree:
    block = Block.received(fd, answer.block_bytes)
    arena = TreeArena()
    try:
        arena.adopt(block, (layout_of(answer.layout, block.size),))
        return map_tensors(lambda tensor: tensor.clone(), arena.read(0))
    except RuntimeError as problem:
        raise ValueError(str(problem)) from problem
    finally:
        arena.close()
        block.close()


def tail_of(fd: int, limit: int = 4000) -> str:
    """The last `limit` bytes of a file, without moving anybody's position in it."""
    size = os.fstat(fd).st_size
    return os.pread(fd, limit, max(0, size - limit)).decode(errors="replace").strip()


def _is_fault(code: int | None) -> bool:
    """Whether an exit code is that of a fault of native code, and not of a process that somebody ended."""
    return code is not None and -code in _FAULTS


_FAULTS = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP})
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
