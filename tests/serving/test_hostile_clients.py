"""What clients send by mistake or on purpose, byte by byte: each is answered or cut, and the next one is served."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from served_doubles import FakeServed, Gate, ask, body_of, infer, serving
from waiting import until

from esen_lab.serving import bounded_protocol, http_server
from esen_lab.serving.bounded_protocol import MOST_HEADER_BYTES
from esen_lab.serving.server import Server

PATH = "/v2/models/ensemble/infer"


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    with serving(max_body_bytes=1 << 20, read_timeout_s=30.0) as server:
        yield server


@contextlib.contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection((server.host, server.port), timeout=30) as found:
        yield found


def post(body: bytes, *headers: str, path: str = PATH, version: str = "1.1", length: object = None) -> bytes:
    """The bytes of a request."""
    lines = [f"POST {path} HTTP/{version}", "Host: 127.0.0.1", *headers]
    if length != "":
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


BODY = json.dumps(body_of()).encode()


def read_all(connection: socket.socket) -> bytes:
    """What the server sends until it closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            found += part
    return found


def said(server: Server, request: bytes) -> bytes:
    """What a client is answered to these bytes until the server closes."""
    with connected(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        return read_all(connection)


def statuses(answers: bytes) -> list[int]:
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


def lasting(server: Server, request: bytes) -> tuple[int, bytes]:
    """Status and body of one request whose connection stays open meanwhile."""
    with connected(server) as connection:
        connection.sendall(request)
        found = b""
        while b"\r\n\r\n" not in found:
            part = connection.recv(1 << 16)
            assert part, found
            found += part
        head, _, rest = found.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split()[0])
        while len(rest) < size:
            rest += connection.recv(1 << 16)
        return statuses(head)[0], rest


@pytest.mark.parametrize(
    "tensor",
    [
        {"shape": []},
        {"shape": [0, 4], "data": []},
        {"shape": [-1, 4]},
        {"shape": [1 << 70, 4]},
        {"shape": [(1 << 40), 4]},
        {"shape": [1, 4, 1]},
        {"shape": [1.5, 4]},
        {"shape": [True, 4]},
        {"shape": "1,4"},
        {"shape": [1, 4], "data": [[1, 2], [3]]},
        {"shape": [1, 4], "data": ["1", "2", "3", "4"]},
        {"shape": [1, 4], "data": [1, None, 3, 4]},
        {"shape": [1, 4], "data": [1, 2, 3, 10**400]},
        {"shape": [1, 4], "data": {"a": 1}},
        {"shape": [1, 4], "data": None},
        {"shape": [1, 4], "parameters": {"binary_data_size": 16}},
        {"shape": [1, 4], "data": None, "parameters": {"binary_data_size": -16}},
        {"shape": [1, 4], "data": None, "parameters": {"binary_data_size": True}},
        {"shape": [1, 4], "data": None, "parameters": []},
        {"shape": [1, 4], "name": "\x00\u202e\u00fc"},
        {"shape": [1, 4], "datatype": "FP32\u0000"},
        {"shape": [1, 4], "datatype": 7},
    ],
)
def test_a_tensor_that_is_none_is_refused_in_words(plain: Server, tensor: dict[str, Any]) -> None:
    whole = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.0], **tensor}
    status, told, _ = infer(plain, {"inputs": [whole]})
    assert (status, bool(told["error"])) == (400, True)
    assert told["error"].isprintable()
    assert infer(plain)[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"inputs": NaN}',
        b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [NaN, 1, 1, 1]}]}',
        b"[" * 200_000,
        b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": ' + b"[" * 200_000,
        b'{"inputs": [{"name": "\\ud800", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}',
        b'{"id": "\\ud800", "inputs": []}',
        b"\xff\xfe" + BODY,
        b"\xef\xbb\xbf" + BODY,
    ],
)
def test_json_that_is_none_is_refused(plain: Server, body: bytes) -> None:
    status, told, _ = infer(plain, body)
    assert (status, bool(told["error"])) == (400, True)


def test_texts_of_any_script_come_back_as_they_were(plain: Server) -> None:
    for text in ("\u00fc\u4e2d\U0001f600", "a" * 10_000, "\u0000\u202e"):
        status, told, _ = infer(plain, body_of(id=text))
        assert (status, told["id"]) == (200, text)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/%C3%BC/infer", 404),
        ("/v2/models/ensemble%00/infer", 404),
        ("/v2/models/ensemble%zz/infer", 404),
        ("/v2/models/../models/ensemble/infer", 404),
        ("/v2/models//infer", 404),
        ("/v2/models/ensemble/infer/", 404),
        ("/v2/models/ensemble,other/infer", 404),
        ("/v2/models/ENSEMBLE/infer", 404),
        ("//v2/models/ensemble/infer", 404),
        ("/v2/models/ensemble/infer?x=1", 200),
        ("/v2/models/ensemble/versions/1/infer", 200),
        ("/v2/models/ensemble/versions/01/infer", 404),
        ("http://127.0.0.1/v2/models/ensemble/infer", 200),
        ("/" + "a" * 4000, 404),
        ("/v2/models/\xfc/infer", 400),
        ("no-path", 400),
    ],
)
def test_an_address_is_the_one_that_there_is_or_none(plain: Server, path: str, status: int) -> None:
    found, told = lasting(plain, post(BODY, path=path))
    assert found == status
    assert status == 200 or json.loads(told)["error"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_refused_by_status(plain: Server, method: str) -> None:
    status, _, headers = ask(plain, method, PATH)
    assert (status, headers["allow"]) == (405, "POST")
    assert ask(plain, "POST", "/v2")[2]["allow"].replace(" ", "").split(",") in (["GET", "HEAD"], ["HEAD", "GET"])


def test_what_is_no_http_is_refused_in_json_and_cut(plain: Server) -> None:
    for nonsense in (b"\x16\x03\x01\x02\x00\x01\x00" * 10, b"BREW /v2 HTTP/1.1\r\n\r\n", b"GET /v2 HTTP/9.9\r\n\r\n"):
        answer = said(plain, nonsense)
        assert statuses(answer) == [400]
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert infer(plain)[0] == 200


@pytest.mark.parametrize("length", ["-1", "x", "1 2", "9" * 30, "0x10"])
def test_a_length_that_is_none_is_refused(plain: Server, length: str) -> None:
    assert statuses(said(plain, post(BODY, length=length)))[0] in (400, 413)
    assert infer(plain)[0] == 200


def test_two_lengths_or_a_length_and_chunks_are_refused(plain: Server) -> None:
    for headers in (("Content-Length: 5",), ("Transfer-Encoding: chunked",)):
        assert statuses(said(plain, post(BODY, *headers)))[0] == 400
    assert infer(plain)[0] == 200


def test_a_length_that_is_too_short_ends_the_request_there_and_one_that_is_too_long_is_waited_for(
    plain: Server,
) -> None:
    assert statuses(said(plain, post(BODY, length=len(BODY) - 5)))[0] == 400
    assert infer(plain)[0] == 200
    with serving(read_timeout_s=1.0) as hasty, connected(hasty) as connection:
        connection.sendall(post(BODY, length=len(BODY) + 5))
        assert statuses(read_all(connection)) == [408]


def test_chunks_are_read_and_broken_ones_are_not(plain: Server) -> None:
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:]))
    whole = post(chunks + b"0\r\nTrailer: x\r\n\r\n", "Transfer-Encoding: chunked", length="")
    assert lasting(plain, whole)[0] == 200
    broken = post(b"zz\r\n" + BODY, "Transfer-Encoding: chunked", length="")
    assert 400 in statuses(said(plain, broken))
    assert infer(plain)[0] == 200


@pytest.mark.parametrize(
    "header",
    ["Inference-Header-Content-Length: -1", "Inference-Header-Content-Length: 1e3", "Content-Type: text/plain"],
)
def test_a_header_that_means_nothing_is_refused(plain: Server, header: str) -> None:
    assert lasting(plain, post(BODY, header))[0] in (400, 415)


@pytest.mark.parametrize(
    ("header", "path"),
    [
        ("Host: 127.0.0.1", PATH),
        ("Host: 127.0.0.1", "/v2/repository/index"),
        ("Content-Type: application/json", PATH),
        ("Content-Encoding: identity", PATH),
        ("Inference-Header-Content-Length: 5", PATH),
        ("Authorization: Bearer x", PATH),
    ],
)
def test_a_header_that_decides_something_is_there_once(plain: Server, header: str, path: str) -> None:
    status, told = lasting(plain, post(BODY, header, header, path=path))
    assert (status, "once" in json.loads(told)["error"]) == (400, True)
    assert lasting(plain, post(BODY, "X: 1", "X: 2"))[0] == 200


def test_headers_without_an_end_fill_no_memory(plain: Server) -> None:
    large = "X: " + "a" * MOST_HEADER_BYTES
    many = [f"X-{number}: {number}" for number in range(MOST_HEADER_BYTES // 8)]
    for request in (
        post(BODY, large),
        post(BODY, *many),
        post(BODY, path="/" + "a" * MOST_HEADER_BYTES),
        b"GET /v2 HTTP/1.1\r\nX: " + b"a" * (1 << 20),
        b"GET /v2 HTTP/1.1\r\n" + b"a" * (1 << 20),
        b"\r\n" * (1 << 20),
        post(b"0\r\nX: " + b"a" * (1 << 20), "Transfer-Encoding: chunked", length=""),
        post(b"5;" + b"a" * (1 << 20), "Transfer-Encoding: chunked", length=""),
    ):
        assert statuses(said(plain, request))[:1] in ([431], [])  # who goes on sending may be cut before it reads
    assert infer(plain)[0] == 200
    fine = "X: " + "a" * (MOST_HEADER_BYTES // 2)
    assert lasting(plain, post(BODY, fine))[0] == 200


def test_one_header_too_large_is_answered_431_in_words(plain: Server) -> None:
    answer = said(plain, f"GET /v2 HTTP/1.1\r\nX: {'a' * (MOST_HEADER_BYTES + 1)}\r\nY: 1\r\n".encode())
    assert statuses(answer) == [431]
    assert "65536" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize("asks", [[], ["Expect: 100-continue"]])
@pytest.mark.parametrize(
    ("refused", "status"),
    [(["Origin: http://elsewhere"], 403), (["Content-Type: text/plain"], 415), (["X: 1"], 413)],
)
def test_who_waits_for_a_word_before_it_sends_is_refused_at_once_and_not_told_to_go_on(
    plain: Server, asks: list[str], refused: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esen_lab.serving.body._DROPPING_S", 1000.0)  # what it did not send would be waited for
    length = 1 << (40 if status == 413 else 10)
    found, told = lasting(plain, post(b"", *refused, *asks, length=length))
    assert (found, bool(json.loads(told)["error"])) == (status, True)


def test_http_1_0_is_answered_and_closed(plain: Server) -> None:
    answer = said(plain, post(BODY, version="1.0"))
    assert statuses(answer) == [200]
    assert b"connection: close" in answer.lower()
    with connected(plain) as connection:
        connection.sendall(post(BODY, version="1.0"))
        assert statuses(read_all(connection)) == [200]  # which ends: the server closes


def test_requests_in_one_go_are_answered_in_their_order(plain: Server) -> None:
    asked = [json.dumps(body_of(id=str(number))).encode() for number in range(50)]
    with connected(plain) as connection:
        connection.sendall(b"".join(map(post, asked)))
        found = b""
        while found.count(b'"outputs"') < len(asked):
            part = connection.recv(1 << 16)
            assert part, found[-500:]
            found += part
    assert [int(part.partition(b'"')[0]) for part in found.split(b'"id":"')[1:]] == list(range(50))


def test_a_client_that_left_in_the_middle_of_its_body_leaves_nothing_behind() -> None:
    with serving(read_timeout_s=30.0) as server:
        with connected(server) as connection:
            connection.sendall(post(BODY, length=500_000))
            until(lambda: server._service.held.now > 0)
        until(lambda: server.totals.by_reason["left"] == 1)
        until(lambda: server._service.held.now == 0)
        assert infer(server)[0] == 200


def test_a_client_that_left_with_requests_in_its_pipe_costs_no_run_of_theirs() -> None:
    served, gate = FakeServed(), Gate()
    with serving(served, max_rows=1) as server:
        served.runs.clear()
        served.before = gate
        with connected(server) as connection:
            connection.sendall(post(BODY) * 5)
            assert gate.reached.wait(60)
        until(lambda: not server._http._uvicorn.server_state.connections)
        gate.opened.set()
        assert infer(server)[0] == 200
        assert len(served.runs) == 2


HEAD = b"Host: 127.0.0.1\r\n"
UNFINISHED = {
    "an empty line": (b"GET /v2 HTTP/1.1\r\n" + HEAD + b"\r\n", b"\r\n"),
    "a body that nobody asked for": (b"GET /v2 HTTP/1.1\r\n" + HEAD + b"Content-Length: 10\r\n\r\n", b"x"),
    "the body of a refused request": (post(b"", "Inference-Header-Content-Length: x", length=10), b"x"),
    "a chunk": (post(b"", "Inference-Header-Content-Length: x", "Transfer-Encoding: chunked", length=""), b"a\r\nx"),
}


@pytest.mark.parametrize("kind", list(UNFINISHED))
def test_what_follows_an_answer_and_comes_to_no_end_keeps_no_connection(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_KEEP_ALIVE_S", 1.0)
    request, more = UNFINISHED[kind]
    with serving(read_timeout_s=1.0) as server, connected(server) as connection:
        connection.sendall(request)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 ")
        connection.sendall(more)
        assert read_all(connection) == b""  # which ends: the server closes


def test_the_body_of_an_answered_request_may_still_come_and_the_next_request_is_served() -> None:
    with serving(read_timeout_s=30.0) as server, connected(server) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\n" + HEAD + b"Content-Length: 3\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        connection.sendall(b"x")
        (protocol,) = server._http._uvicorn.server_state.connections
        until(lambda: protocol._waiting is not None)
        connection.sendall(b"xx")
        until(lambda: protocol._waiting is None)
        assert protocol.timeout_keep_alive_task is not None
        connection.sendall(post(BODY))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


UNREAD = {
    "answers": b"GET /metrics HTTP/1.1\r\n" + HEAD + b"\r\n",
    "refusals": b"GET /nowhere HTTP/1.1\r\n" + HEAD + b"\r\n",
    "small answers of the model": post(BODY),
}


@contextlib.contextmanager
def small_buffer(server: Server) -> Iterator[socket.socket]:
    """A connection that takes little of what is not read, and which the server knows of."""
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        found.connect((server.host, server.port))
        until(lambda: server._http._uvicorn.server_state.connections)
        (protocol,) = server._http._uvicorn.server_state.connections
        protocol.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield found


def fill(connection: socket.socket, request: bytes) -> None:
    """Send it, again and again, until the server reads no more of it: its answers are not read."""
    connection.settimeout(2.0)
    with contextlib.suppress(TimeoutError, ConnectionError):
        for _ in range(40):
            connection.sendall(request * 50)


@pytest.mark.parametrize("kind", list(UNREAD))
def test_a_client_that_reads_none_of_many_small_answers_is_cut(kind: str) -> None:
    with serving(write_timeout_s=0.5) as server, small_buffer(server) as connection:
        fill(connection, UNREAD[kind])
        until(lambda: not server._http._uvicorn.server_state.connections)
        assert infer(server)[0] == 200


def test_the_end_does_not_wait_for_a_client_that_reads_nothing() -> None:
    with serving(write_timeout_s=30.0) as server, small_buffer(server) as connection:
        fill(connection, UNREAD["answers"])
        assert server._http._uvicorn.server_state.connections
        began_s = time.monotonic()
        server.close()
        assert time.monotonic() - began_s < 10, "not the 30 s that one may take otherwise"


def test_a_closed_connection_whose_last_answer_is_not_read_is_cut() -> None:
    with serving(write_timeout_s=0.5) as server, small_buffer(server):
        (protocol,) = server._http._uvicorn.server_state.connections
        protocol.loop.call_soon_threadsafe(protocol.transport.write, b"x" * (8 << 20))
        protocol.loop.call_soon_threadsafe(protocol.transport.close)
        until(lambda: not server._http._uvicorn.server_state.connections)
        assert protocol.transport.slow


def test_more_connections_than_may_be_are_answered_503_with_a_time_to_come_again() -> None:
    with serving(max_connections=3) as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            idle = stack.enter_context(connected(server))
            idle.sendall(b"GET /v2 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert idle.recv(100).startswith(b"HTTP/1.1 200")
        status, told, headers = ask(server, "GET", "/v2")
        assert status == 503
        assert told["error"]
        assert int(headers["retry-after"]) >= 1
        assert ask(server, "GET", "/v2/health/ready")[0] == 503
        status, told, headers = ask(server, "GET", "/v2/health/live")
        assert (status, told, headers["connection"]) == (200, {"live": True}, "close"), "crowded is not dead"
        assert len(server._http._uvicorn.server_state.connections) <= 4
        idle.close()
        until(lambda: len(server._http._uvicorn.server_state.connections) == 2)
        assert ask(server, "GET", "/v2")[0] == 200


def test_connections_beyond_those_that_may_be_have_little_time_and_their_crowd_has_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounded_protocol, "MOST_TOLD", 2)
    monkeypatch.setattr(bounded_protocol, "_CROWDED_S", 0.3)
    with serving(max_connections=2, read_timeout_s=30.0) as server, contextlib.ExitStack() as stack:
        connections = server._http._uvicorn.server_state.connections
        idle = [stack.enter_context(connected(server)) for _ in range(5)]
        assert read_all(idle[4]) == b""  # at once: it would take what is left of the descriptors
        assert [read_all(one) for one in idle[2:4]] == [b"", b""]
        until(lambda: len(connections) == 2)
        assert ask(server, "GET", "/v2/health/live")[0] == 200


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_another_protocol_is_not_taken_and_what_is_lost_by_asking_for_it_is_said(plain: Server, protocol: str) -> None:
    asked = f"Host: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    answer = said(plain, f"GET /v2 HTTP/1.1\r\n{asked}".encode())  # which ends: nothing after it would be read
    assert statuses(answer) == [200]
    answer = said(plain, post(BODY, "Connection: Upgrade", f"Upgrade: {protocol}"))
    assert statuses(answer) == [400]
    assert b"without Upgrade" in answer
    assert infer(plain)[0] == 200


def test_whoever_asks_before_sending_is_told_to_go_on(plain: Server) -> None:
    with connected(plain) as connection:
        connection.sendall(post(b"", "Expect: 100-continue", length=len(BODY)))
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(BODY)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_spaces_around_what_a_header_says_are_none_of_it(plain: Server) -> None:
    spaced = (
        f"Inference-Header-Content-Length: \t{len(BODY)} \t",
        "Content-Type:  application/json ",
        "Connection: close ",
    )
    request = post(BODY, *spaced).replace(b"Host: 127.0.0.1", b"Host: \t127.0.0.1 \t")
    assert statuses(said(plain, request)) == [200]
