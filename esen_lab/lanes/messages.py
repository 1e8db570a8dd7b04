"""What is said on the sockets, grouped by who receives it. Small frozen records.

To a child they are pickled. From a child they are plain data, checked field by field when they are read: whoever
controls a sub-model controls its worker, and must not get code into the notebook's process, nor an exception that is
not this package's own.

What an order needs beside itself comes along as one piece of memory (`Worker._ask`): between processes a descriptor.

The path of every call says none of these: it is a bare RUN frame answered by packed numbers (see `wire.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Concatenate, ParamSpec, TypeAlias

import msgspec

from esen_lab.devices import InForce, Placement
from esen_lab.lanes.plain import NotPlain, PlainLayout, Token
from esen_lab.lanes.settings import Settings
from esen_lab.lanes.wire import SURE

# --- orders: to a lane, in a process of its own or in a thread ------------------------------------------------------


class _Memory(Enum):
    COMES_ALONG = 1


MEMORY: Any = _Memory.COMES_ALONG
"""Stands for the memory that comes along with an order, among what the engine's method is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One call of the lane's engine. Made by `order`, carried out by `dispatch.carry_out`."""

    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


_P = ParamSpec("_P")


def order(method: Callable[Concatenate[Any, _P], object], /, *args: _P.args, **kwargs: _P.kwargs) -> Order:
    """The order to call `method`, one of `Engine` or `DeviceEngine`: what it is given, and in which place `MEMORY`."""
    return Order(method=method.__name__, args=args, kwargs=kwargs)


# --- from a worker -----------------------------------------------------------------------------------------------


_Bytes = Annotated[int, msgspec.Meta(ge=1, le=2**62)]
_LONGEST = 100_000  # characters of a text in a record


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker's first word: its limits are in force."""

    pid: int
    in_force: InForce


class NewOutputs(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A run is done and its outputs changed shape. A descriptor follows when `fresh`: the block of `block_bytes`."""

    timings: bytes
    layouts: list[PlainLayout]
    block_bytes: _Bytes
    fresh: bool


class Returned(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a request came to, see `plain.value_of`."""

    value: list[Token]


class ReturnedTree(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A request came to tensors. The descriptor of their block follows."""

    layout: PlainLayout
    block_bytes: _Bytes


class Problem(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Something raised in the worker.

    Attributes:
        kind: "model" (the sub-model's own code), "device", "usage", or "lost": it took the worker's GPU context along,
            and the worker leaves.
        name: The sub-model it happened in, or "".
        summary: The exception's type and text, one line.
        traceback: For people.
        rule, given, hint: The parts of one of our own errors, where it was one.
    """

    kind: str
    name: str
    summary: str
    traceback: str
    rule: str = ""
    given: str | None = None
    hint: str = ""


class Started(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The fork server has started a worker. A descriptor of the process itself follows, where the system has such."""

    pid: int


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How a worker ended: its wait status as `os.waitstatus_to_exitcode` gives it (negative: a signal)."""

    exit_code: int | None


Answer: TypeAlias = Ready | NewOutputs | Returned | ReturnedTree | Problem | Started | Ended
_ANSWERS = msgspec.msgpack.Decoder(Answer)
_LENGTH = struct.Struct("<I")


def packed(answer: Answer) -> bytes:
    """An answer as the body of a frame, never shorter than `wire.SURE`."""
    data = msgspec.msgpack.encode(answer)
    body = _LENGTH.pack(len(data)) + data
    return body.ljust(SURE, b"\0")


def answer_in(body: bytes) -> Answer:
    """The answer in the body of a frame that a child has sent.

    Raises:
        NotPlain: There is none.
    """
    try:
        (length,) = _LENGTH.unpack_from(body)
        answer: Answer = _ANSWERS.decode(memoryview(body)[_LENGTH.size : _LENGTH.size + length])
    except (ValueError, RecursionError, struct.error) as problem:
        raise NotPlain(str(problem)) from problem
    return answer


def sendable(text: str) -> str:
    """A text as it can be sent: not too long, and without halves of surrogate pairs."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}\n[...]\n{text[-_LONGEST // 2 :]}"
    return text.encode(errors="backslashreplace").decode()


# --- to the fork server -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    """Start a worker that has what the session has set. Two descriptors follow: its socket and its log."""

    label: str
    placement: Placement
    settings: Settings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Wait for a worker to be gone, kill it after `grace_s` where `kill` says so, and answer with how it ended."""

    pid: int
    grace_s: float
    kill: bool = True
