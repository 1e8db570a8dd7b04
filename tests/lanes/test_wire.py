"""Frames on a socket."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from esen_lab.lanes import wire
from esen_lab.lanes.messages import Ended, Problem, Returned, answer_in, packed
from esen_lab.lanes.orders import order_in


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    with a, b:
        yield a, b


def test_a_frame_arrives_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    wire.send(pair[0], wire.RUN, 7, b"body")
    assert wire.receive(pair[1]) == wire.Frame(wire.RUN, 7, b"body")


def test_a_body_larger_than_the_sockets_buffer_arrives_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    body = os.urandom(3_000_000)
    sender = threading.Thread(target=wire.send, args=(pair[0], wire.REPLY, 1, body))
    sender.start()
    assert wire.receive(pair[1]).body == body
    sender.join()


def test_descriptors_ride_on_a_frame(pair: tuple[socket.socket, socket.socket]) -> None:
    read, write = os.pipe()
    wire.send_record(pair[0], wire.MESSAGE, {"a": 1}, fds=[write])
    os.close(write)
    frame = wire.receive(pair[1])
    assert order_in(frame) == {"a": 1}
    os.write(frame.fds[0], b"x")
    assert os.read(read, 1) == b"x"
    assert not os.get_inheritable(frame.fds[0])
    os.close(frame.fds[0])
    os.close(read)


def test_the_end_of_the_other_side_is_said_not_waited_for(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    with pytest.raises(wire.Closed):
        wire.receive(pair[1])
    with pytest.raises(wire.Closed):
        wire.send(pair[1], wire.RUN)


def test_a_deadline_ends_the_wait(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(TimeoutError):
        wire.receive(pair[0], deadline=time.monotonic())


@pytest.mark.parametrize("far_s", [1e8, 1e12, math.inf])
def test_a_deadline_may_be_as_far_as_anybody_likes(pair: tuple[socket.socket, socket.socket], far_s: float) -> None:
    wire.send(pair[0], wire.RUN, 7, b"body")
    assert wire.receive(pair[1], time.monotonic() + far_s).body == b"body"


def test_a_part_that_was_read_ahead_never_eats_into_the_next_frame(pair: tuple[socket.socket, socket.socket]) -> None:
    bodies = [b"x" * 17, b"y" * 17, b"z" * 500]
    for number, body in enumerate(bodies):
        wire.send(pair[0], wire.DONE, number, body)
    for number, body in enumerate(bodies):
        begun = wire.receive_part(pair[1], wire.HEADER_BYTES + 17)
        frame = wire.receive(pair[1], time.monotonic() + 5, begun)
        assert (frame.number, frame.body) == (number, body)


def test_every_record_is_longer_than_what_is_read_ahead() -> None:
    for answer in (Problem(kind="", name="", summary="", traceback=""), Returned(value=[]), Ended(exit_code=None)):
        body = packed(answer)
        assert len(body) >= wire.SURE
        assert answer_in(body) == answer


def test_a_frame_that_nobody_sends_ends_the_conversation(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].send(wire.header(wire.REPLY, 1, wire.MOST_ANSWER + 1))
    with pytest.raises(wire.Garbled):
        wire.receive(pair[1], time.monotonic() + 5, most=wire.MOST_ANSWER)
    pair[0].send(wire.header(99, 1))
    with pytest.raises(wire.Garbled):
        wire.receive(pair[1], time.monotonic() + 5)
