"""Inside a worker process: put the limits in force, then answer frames until the socket closes."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import socket
from typing import Any

import msgspec

from esen_lab.common.resources import no_descriptors
from esen_lab.common.trees import flatten, spec_of_leaves
from esen_lab.devices import Placement
from esen_lab.errors import DeviceError, UsageError
from esen_lab.lanes import wire
from esen_lab.lanes.arena import Block, TreeArena
from esen_lab.lanes.dispatch import carry_out, engine_for
from esen_lab.lanes.engine import Engine, InSubModel, Timed
from esen_lab.lanes.messages import NewOutputs, Order, Ready, Returned, ReturnedTree, packed
from esen_lab.lanes.orders import order_in
from esen_lab.lanes.plain import plain_layout, tokens_of
from esen_lab.lanes.problems import described
from esen_lab.lanes.settings import Settings, put
from esen_lab.lanes.timings import STEP

_LOG_LIMIT_BYTES = 1 << 20


def serve(sock: socket.socket, placement: Placement, settings: Settings | None = None) -> None:
    """The whole life of a worker. Returns when the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the notebook's to handle, not each lane's
    faulthandler.enable()
    _draw_apart()
    try:
        if settings is not None:
            put(settings)  # before the place is applied, so that the place has the last word
        in_force = placement.apply()
        engine = engine_for(placement, in_force)
        engine.own_process = True
        wire.send(sock, wire.REPLY, body=packed(Ready(pid=os.getpid(), in_force=in_force)))
    except Exception as problem:
        wire.send(sock, wire.FAILED, body=packed(described(problem)))
        return
    try:
        _answer_all(sock, engine)
    finally:
        engine.close()


def _draw_apart() -> None:
    """Workers are forked from one process: without this they would all draw the same random numbers."""
    from esen_lab.ensemble.chance import seed_generators

    seed_generators(int.from_bytes(os.urandom(8), "little") >> 1)


def _answer_all(sock: socket.socket, engine: Engine) -> None:
    number = 0
    while True:
        # Cold caches make every step dear between waking and running: the next run's frame is known beforehand.
        expected = wire.header(wire.RUN, number + 1)
        begun = wire.receive_part(sock, wire.HEADER_BYTES)
        frame = None
        if begun[0] == expected:
            number += 1
        else:
            try:
                frame = wire.receive(sock, begun=begun)
            except wire.NoRoom as problem:
                number = problem.number
                told = described(no_descriptors(f"{problem} to the lane, whose sub-models may hold them"))
                wire.send(sock, wire.FAILED, number, packed(told))
                continue
            if frame.kind in (wire.STOP, wire.LOOK):
                _take_unanswered(engine, frame)
                continue
            number = frame.number
        try:
            if frame is None:
                engine.seed = None
                _run(sock, engine, number)
            else:
                _act_on(sock, engine, frame)
        except wire.Closed:
            return
        except Exception as problem:
            if engine.lost():
                lost = msgspec.structs.replace(described(problem), kind="lost")
                wire.send(sock, wire.FAILED, number, packed(lost))
                return
            wire.send(sock, wire.FAILED, number, packed(described(problem)))
        if number % 256 == 0:
            _keep_log_short()


def _take_unanswered(engine: Engine, frame: wire.Frame) -> None:
    """Do what nobody waits for: of a run that had ended before it was stopped, nothing. What fails ends the lane."""
    if frame.kind == wire.LOOK:
        engine.look_again(frame.number)


def _act_on(sock: socket.socket, engine: Engine, frame: wire.Frame) -> None:
    """Do what a frame asks for, and answer."""
    if frame.kind in (wire.RUN, wire.STEPWISE):
        engine.seed = wire.SEED.unpack(frame.body)[0] if frame.body else None
        (_run if frame.kind == wire.RUN else _run_stepwise)(sock, engine, frame.number)
        return
    memory = _memory_of(frame)
    _answer(sock, frame.number, _carry_out(engine, order_in(frame), memory))


def _run(sock: socket.socket, engine: Engine, number: int) -> None:
    engine.number = number
    timings, changed, grown = engine.run()
    if not changed:
        wire.send(sock, wire.DONE, number, timings)
        return
    _send_outputs(sock, engine, number, timings, fresh=grown)


def _run_stepwise(sock: socket.socket, engine: Engine, number: int) -> None:
    """One run, each step of which is told when it is done, and each that fails.

    A call of the system lies between the last write of an output and its telling, and another one between that and
    the first read: no more is needed for the reader to see all of it.

    Raises:
        DeviceError: The lane's GPU is lost to it, after whatever has been told.
    """
    engine.number = number

    def tell(index: int, outcome: Timed | InSubModel, new: bool) -> None:
        if isinstance(outcome, InSubModel):
            wire.send(sock, wire.FAILED, number, packed(described(outcome)))
            return
        step = STEP.pack(index, outcome.start_ns, outcome.end_ns, outcome.seen)
        if new:
            _send_outputs(sock, engine, number, step, fresh=True)
        else:
            wire.send(sock, wire.STEP, number, step)

    try:
        engine.run_stepwise(tell, lambda: _told_to_stop(sock, number))
    except wire.Closed:
        raise
    except Exception as problem:
        wire.send(sock, wire.FAILED, number, packed(described(problem)))
    if engine.lost():
        raise DeviceError("A lane's GPU serves it", given="its context was lost in a run")
    wire.send(sock, wire.DONE, number)


def _told_to_stop(sock: socket.socket, number: int) -> bool:
    """Whether nobody waits for the rest of a run. What says so is taken out of the socket, all else stays there."""
    try:
        begun = sock.recv(wire.HEADER_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    if not begun:
        return True  # the other side is gone
    if begun != wire.header(wire.STOP, number):
        return False
    sock.recv(wire.HEADER_BYTES)
    return True


def _send_outputs(sock: socket.socket, engine: Engine, number: int, timings: bytes, *, fresh: bool) -> None:
    """Answer with where the outputs lie from now on."""
    block = engine.outputs.block
    assert block is not None
    layouts = [plain_layout(layout) for layout in engine.outputs.layouts]
    message = NewOutputs(timings=timings, layouts=layouts, block_bytes=block.size, fresh=fresh)
    wire.send(sock, wire.REPLY, number, packed(message), fds=[block.fd] if fresh else [])


def _answer(sock: socket.socket, number: int, value: Any) -> None:
    """Send what a request came to: tensors in memory of their own, everything else as plain data."""
    try:
        tokens = tokens_of(value)
    except TypeError:
        if not _holds_tensors(value):
            raise
    else:
        wire.send(sock, wire.REPLY, number, packed(Returned(value=tokens)))
        return
    leaves, structure = flatten(value, "what was answered")
    arena = TreeArena()
    try:
        arena.prepare([spec_of_leaves(leaves, structure, "what was answered")])
        arena.write(0, leaves)
        assert arena.block is not None
        tree = ReturnedTree(layout=plain_layout(arena.layouts[0]), block_bytes=arena.block.size)
        wire.send(sock, wire.REPLY, number, packed(tree), fds=[arena.block.fd])
    finally:
        arena.close()


def _holds_tensors(value: Any) -> bool:
    try:
        return bool(flatten(value)[0])
    except UsageError:
        return False


def _memory_of(frame: wire.Frame) -> Block | None:
    """What came along with an order; the descriptor is the block's from now on."""
    if not frame.fds:
        return None
    (fd,) = frame.fds
    return Block.received(fd, os.fstat(fd).st_size)


def _carry_out(engine: Engine, order: Order, memory: Block | None) -> Any:
    if order.method == "load":
        assert memory is not None
        try:
            # Released whatever happens: an error's frames, which may live on, must not keep all weights in memory.
            with memoryview(memory.memory).toreadonly() as payload:
                return carry_out(engine, order, payload)
        finally:
            memory.close()
    answer = carry_out(engine, order, memory)
    if order.method == "unload":
        gc.collect()  # networks hold circles; nobody but this lane waits for the look at all objects
    return answer


def _keep_log_short() -> None:
    """A sub-model that prints on every call must not fill the disk: the log is a file without a name."""
    try:
        if os.fstat(1).st_size > _LOG_LIMIT_BYTES:
            os.ftruncate(1, 0)
    except OSError:
        pass  # standard output is something that cannot be cut
