"""Inside a worker process: put the limits in force, then answer frames until the socket closes."""

from __future__ import annotations

import faulthandler
import gc
import mmap
import os
import signal
import socket
import sys
import traceback
from dataclasses import replace
from typing import Any

from esen_lab.devices import InForce, Placement
from esen_lab.errors import DeviceError, EsenError, UsageError
from esen_lab.workers import wire
from esen_lab.workers.arena import Block
from esen_lab.workers.compute import CudaCompute
from esen_lab.workers.device_engine import DeviceEngine
from esen_lab.workers.engine import Engine, InSubModel
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
from esen_lab.workers.shared_input import GATE_BYTES

_LOG_LIMIT_BYTES = 1 << 20


def serve(sock: socket.socket, placement: Placement) -> None:
    """The whole life of a worker. Returns when the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the notebook's to handle, not each lane's
    faulthandler.enable()
    try:
        in_force = placement.apply()
        engine = engine_for(placement, in_force)
        wire.send_record(sock, wire.REPLY, Ready(pid=os.getpid(), in_force=in_force))
    except Exception as problem:
        wire.send_record(sock, wire.FAILED, described(problem))
        return
    try:
        _answer_all(sock, engine)
    finally:
        engine.close()


def engine_for(placement: Placement, in_force: InForce) -> Engine:
    """The engine of a lane that has applied its place."""
    if in_force.torch_device == "cpu":
        return Engine(placement)
    own = getattr(placement, "cuda", None)  # a double's, in tests
    stream = getattr(placement, "stream", None)  # of a green context
    return DeviceEngine(placement, CudaCompute(in_force.torch_device, stream, cuda=own() if own else None))


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
            frame = wire.receive(sock, begun=begun)
            number = frame.number
        try:
            if frame is None or frame.kind == wire.RUN:
                _run(sock, engine, number)
            else:
                answer = _handle(engine, frame.record(), frame.fds)
                wire.send_record(sock, wire.REPLY, answer, number)
        except wire.Closed:
            return
        except Exception as problem:
            if engine.lost():
                wire.send_record(sock, wire.FAILED, replace(described(problem), kind="lost"), number)
                return
            wire.send_record(sock, wire.FAILED, described(problem), number)
        if number % 256 == 0:
            _keep_log_short()


def _run(sock: socket.socket, engine: Engine, number: int) -> None:
    engine.number = number
    timings, changed, grown = engine.run()
    if not changed:
        wire.send(sock, wire.DONE, number, timings)
        return
    block = engine.outputs.block
    assert block is not None
    message = NewOutputs(timings=timings, layouts=engine.outputs.layouts, block_bytes=block.size if grown else None)
    wire.send_record(sock, wire.REPLY, message, number, fds=[block.fd] if grown else [])


def _handle(engine: Engine, record: Any, fds: tuple[int, ...]) -> Any:
    match record:
        case Load():
            sys.path[:] = list(record.sys_path)
            os.chdir(record.folder)
            try:
                with mmap.mmap(fds[0], record.payload_bytes, access=mmap.ACCESS_READ) as memory:
                    payload = memoryview(memory)
                    try:
                        engine.load(record.name, payload, record.example, record.active_units)
                    finally:
                        payload.release()
            finally:
                os.close(fds[0])
        case Unload():
            engine.unload(record.name)
            gc.collect()
        case Arrange():
            engine.arrange(record.members, record.mode)
        case SetInput():
            block = Block(fds[0], record.block_bytes) if record.block_bytes is not None else None
            engine.set_input(record.layout, block)
        case Call():
            return engine.call(record.function, record.name, record.kwargs)
        case _:
            return _handle_on_gpu(on_gpu(engine), record, fds)
    return None


def _handle_on_gpu(engine: DeviceEngine, record: Any, fds: tuple[int, ...]) -> Any:
    match record:
        case LendInput():
            return engine.lend_input(Block(fds[0], GATE_BYTES))
        case BorrowInput():
            engine.borrow_input(record.lent, Block(fds[0], GATE_BYTES))
        case KeepOutputs():
            return engine.keep_outputs(to_processes=True)
        case CombineOutputs():
            block = Block(fds[0], record.block_bytes)
            engine.combine_outputs(record.rule, record.order, record.others, record.layout, block)
        case CombineNow():
            engine.combine()
        case BringOutputs():
            engine.bring_outputs(stay=record.stay)
        case _:
            raise TypeError(f"no worker answers {type(record).__name__}")
    return None


def on_gpu(engine: Engine | None) -> DeviceEngine:
    """The engine of a lane that must be one on a GPU."""
    if not isinstance(engine, DeviceEngine):
        raise UsageError("Lanes on a GPU share its memory", given="a lane on the CPU")
    return engine


def described(problem: Exception) -> Problem:
    """What went wrong, as it is told to the other side."""
    name = ""
    kind = "usage"
    if isinstance(problem, InSubModel):
        name = problem.name
        kind = "model"
        assert isinstance(problem.__cause__, Exception)
        problem = problem.__cause__
    elif isinstance(problem, DeviceError):
        kind = "device"
    elif not isinstance(problem, EsenError):
        kind = "model"
    text = "".join(traceback.format_exception(problem))
    summary = "".join(traceback.format_exception_only(problem)).strip().splitlines()[-1]
    if isinstance(problem, EsenError):
        return Problem(
            kind=kind,
            name=name,
            summary=summary,
            traceback=text,
            rule=problem.rule,
            given=problem.given,
            hint=problem.hint,
        )
    return Problem(kind=kind, name=name, summary=summary, traceback=text)


def _keep_log_short() -> None:
    """A sub-model that prints on every call must not fill the disk: the log is a file without a name."""
    try:
        if os.fstat(1).st_size > _LOG_LIMIT_BYTES:
            os.ftruncate(1, 0)
    except OSError:
        pass  # standard output is something that cannot be cut
