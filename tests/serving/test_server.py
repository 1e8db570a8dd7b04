"""A server without lanes: what is answered to whom, what waits, what is refused, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import sys
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import uvicorn
from served_doubles import EXAMPLE, FakeServed, Gate, InBackground, ask, body_of, infer
from waiting import until

from esen_lab.errors import DeviceError, ModelError, UsageError, WorkerDied, WorkerTimeout
from esen_lab.serving.server import Server
from esen_lab.serving.settings import ServeSettings


@contextlib.contextmanager
def serving(served: FakeServed | None = None, **settings: Any) -> Iterator[Server]:
    with Server(ServeSettings(port=0, **settings)).start() as server:
        found = served or FakeServed()
        server.warm(found)  # type: ignore[arg-type]
        found.runs.clear()
        found.asked.clear()
        yield server


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    with serving() as server:
        yield server


# --- the protocol ----------------------------------------------------------------------------------------------------


def test_it_says_what_it_is_and_what_it_serves(plain: Server) -> None:
    assert ask(plain, "GET", "/v2")[1]["name"] == "esen_lab"
    assert "binary_tensor_data" in ask(plain, "GET", "/v2")[1]["extensions"]
    assert ask(plain, "GET", "/v2/health/live")[0] == 200
    assert ask(plain, "GET", "/v2/health/ready")[0] == 200
    told = ask(plain, "GET", "/v2/models/ensemble/versions/1")[1]
    assert told["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    assert told["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 4]}]
    assert told["versions"] == ["1"]
    assert told["parameters"] == {"members": ["a", "b"], "joins_requests": True}
    assert ask(plain, "GET", "/v2/models/ensemble/ready")[1] == {"name": "ensemble", "ready": True}
    assert ask(plain, "POST", "/v2/repository/index", b"{}")[1][0]["state"] == "READY"
    assert ask(plain, "GET", "/v2/models/ensemble/config")[1]["max_batch_size"] == 0


def test_a_request_in_json_is_answered_in_json(plain: Server) -> None:
    status, told, _ = infer(plain, body_of(2, 1.5, id="7", parameters={"timings": True}))
    assert status == 200
    assert told["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [2, 4], "data": [3.0] * 8}]
    assert (told["id"], told["model_name"], told["parameters"]["batch_rows"]) == ("7", "ensemble", 2)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v2/models/other/infer", body_of(), 404),
        ("POST", "/v2/models/ensemble/versions/2/infer", body_of(), 404),
        ("GET", "/v2/models/other", None, 404),
        ("GET", "/v2/models/other/ready", None, 404),
        ("GET", "/v2/nowhere", None, 404),
        ("GET", "/v2/models/ensemble/infer", None, 405),
        ("POST", "/v2/models/ensemble/infer", b"{", 400),
        ("POST", "/v2/models/ensemble/infer", {"inputs": []}, 400),
        ("POST", "/v2/models/ensemble/infer", body_of(parameters={"priority": 2}), 501),
    ],
)
def test_what_has_no_answer_has_a_status_and_words(
    plain: Server, method: str, path: str, body: Any, status: int
) -> None:
    found, told, _ = ask(plain, method, path, body)
    assert found == status
    assert told["error"]


def test_packed_requests_are_unpacked_and_bombs_are_not(plain: Server) -> None:
    data = json.dumps(body_of()).encode()
    for encoding, packed in (("gzip", gzip.compress(data)), ("deflate", zlib.compress(data))):
        assert infer(plain, packed, **{"Content-Encoding": encoding})[0] == 200
    assert infer(plain, b"no gzip", **{"Content-Encoding": "gzip"})[0] == 400
    assert infer(plain, gzip.compress(data)[:-9], **{"Content-Encoding": "gzip"})[0] == 400
    assert infer(plain, data, **{"Content-Encoding": "br"})[0] == 415
    with serving(max_body_bytes=100_000) as small:
        assert infer(small, gzip.compress(b" " * 50_000_000), **{"Content-Encoding": "gzip"})[0] == 413


def test_metrics_are_those_of_what_happened(plain: Server) -> None:
    infer(plain)
    infer(plain, b"{")
    status, text, headers = ask(plain, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    lines = text.decode().splitlines()
    for begins in (
        "esen_request_seconds_count ",
        "esen_queue_seconds_count ",
        "esen_compute_seconds_count ",
        'esen_batch_rows_bucket{le="1.0"} ',
        'esen_responses_total{status="400"} ',
        'esen_refusals_total{reason="malformed"} ',
        "esen_queue_length 0.0",
        "esen_fallbacks 0.0",
    ):
        assert any(line.startswith(begins) for line in lines), begins
    stats = ask(plain, "GET", "/v2/models/ensemble/stats")[1]["model_stats"][0]
    assert stats["inference_stats"]["success"]["count"] == plain.totals.answered


# --- who may ask -----------------------------------------------------------------------------------------------------


def test_a_token_is_asked_for_everywhere_but_of_probes() -> None:
    with serving(token="secret") as server:
        assert ask(server, "GET", "/v2/health/ready")[0] == 200
        for path in ("/v2", "/metrics", "/v2/models/ensemble"):
            assert ask(server, "GET", path)[0] == 401
        assert infer(server)[0] == 401
        assert infer(server, Authorization="Bearer wrong")[0] == 401
        assert infer(server, Authorization="Bearer secret")[0] == 200
        assert "secret" not in f"{server}{server!r}{server.to_dict()}"


def test_pages_of_other_places_and_names_that_lead_here_are_refused(plain: Server) -> None:
    assert infer(plain, Origin="http://evil.example")[0] == 403
    assert infer(plain, Host=f"evil.example:{plain.port}")[0] == 403
    assert infer(plain, Host=f"localhost:{plain.port}")[0] == 200
    assert infer(plain, **{"Content-Type": "text/plain"})[0] == 415


def test_its_event_loop_is_uvloop_where_that_is_installed_and_pythons_where_not(
    plain: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    uvloop = pytest.importorskip("uvloop")
    assert isinstance(plain._loop, uvloop.Loop)
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with serving() as server:
        assert isinstance(server._loop, asyncio.SelectorEventLoop)
        assert infer(server, body_of())[0] == 200


@pytest.mark.parametrize("counts", ["answered", "ran"])
def test_an_answer_is_sent_before_it_is_counted(counts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answered, in_time = threading.Event(), []
    with serving() as server:
        count = getattr(server._metrics, counts)
        monkeypatch.setattr(server._metrics, counts, lambda *told: (in_time.append(answered.wait(5)), count(*told)))
        assert infer(server, body_of())[0] == 200
        answered.set()
        until(lambda: (server.totals.answered, server.totals.batches) == (1, 1))
    assert in_time == [True]


def test_it_listens_at_this_machine_alone_unless_told() -> None:
    assert ServeSettings().host == "127.0.0.1"
    with serving() as server:
        assert server.host == "127.0.0.1"
        with pytest.raises(UsageError, match="free port"):
            Server(ServeSettings(port=server.port))


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused_before_it_is_read_and_the_next_one_is_taken() -> None:
    with serving(max_body_bytes=10_000) as server:
        assert infer(server, b" " * 10_001)[0] == 413
        chunks = (b" " * 5000 for _ in range(3))  # without a length, so that only reading tells
        assert ask(server, "POST", "/v2/models/ensemble/infer", chunks)[0] == 413
        assert infer(server)[0] == 200


def test_requests_hold_no_more_memory_than_they_may_together() -> None:
    with serving(max_held_bytes=1000) as server:
        assert infer(server, b" " * 2000)[0] == 503
        assert infer(server)[0] == 200
        assert server._service.held.now == 0


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v2/models/ensemble/infer HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /v2/models/ensemble/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
    ],
    ids=["nothing", "half the headers", "half the body"],
)
def test_a_client_that_sends_too_slowly_is_let_go(sent: bytes) -> None:
    with serving(read_timeout_s=0.2) as server, socket.create_connection((server.host, server.port)) as client:
        client.settimeout(60)
        client.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            answer = client.recv(4096)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 408")
            assert answer == b"" or client.recv(4096) == b"" or client.recv(1) == b""
        assert infer(server)[0] == 200


def test_a_client_that_does_not_read_its_answer_is_let_go() -> None:
    wide = torch.zeros(1, 2_000_000)
    with serving(FakeServed(wide), write_timeout_s=0.3) as server:
        look = {
            "name": "input",
            "shape": [1, 2_000_000],
            "datatype": "FP32",
            "parameters": {"binary_data_size": 8_000_000},
        }
        head = json.dumps({"inputs": [look], "parameters": {"binary_data_output": True}}).encode()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((server.host, server.port))
            client.sendall(
                b"POST /v2/models/ensemble/infer HTTP/1.1\r\nHost: localhost\r\n"
                + f"Inference-Header-Content-Length: {len(head)}\r\n".encode()
                + f"Content-Length: {len(head) + 8_000_000}\r\n\r\n".encode()
            )
            client.sendall(head + bytes(8_000_000))
            until(lambda: server.totals.by_reason["slow"] == 1)
            assert server.totals.answered == 0, "it was not taken"


# --- batches ---------------------------------------------------------------------------------------------------------


def test_requests_that_wait_run_as_one_batch_and_each_gets_its_own_rows() -> None:
    served = FakeServed()
    with serving(served) as server:
        gate = served.before = Gate()
        first = InBackground(lambda: infer(server, body_of(1, 0.0)))
        assert gate.reached.wait(60)
        more = [InBackground(lambda n=n: infer(server, body_of(n, float(n)))) for n in (1, 2, 3)]
        until(lambda: server.waiting == 3)
        gate.opened.set()
        first.result()
        for n, call in zip((1, 2, 3), more, strict=True):
            assert call.result()[1]["outputs"][0]["data"] == [2.0 * n] * (4 * n)
        assert [x.shape[0] for x in served.runs] == [1, 6]


def test_members_that_look_at_other_rows_are_found_out_and_their_requests_run_alone() -> None:
    class LooksAround(FakeServed):
        def run(self, x: torch.Tensor, asked: Any) -> Any:
            super().run(x, asked)
            return x - x.mean(0), None

    served = LooksAround()
    with serving(served) as server:
        assert server.model is not None
        assert "depends on the other rows" in server.model.why_alone
        assert "depends on the other rows" in ask(server, "GET", "/v2/models/ensemble")[1]["parameters"]["why_alone"]
        gate = served.before = Gate()
        calls = [InBackground(lambda: infer(server)) for _ in range(3)]
        assert gate.reached.wait(60)
        until(lambda: server.waiting == 2)
        gate.opened.set()
        assert [call.result()[0] for call in calls] == [200] * 3
        assert [x.shape[0] for x in served.runs] == [1, 1, 1]


@pytest.mark.parametrize("kind", ["keeps state", "one size", "one answer", "no rows"])
def test_whatever_cannot_be_joined_is_served_alone_and_says_why(kind: str) -> None:
    class Odd(FakeServed):
        begins_anew = kind == "keeps state"

        def run(self, x: Any, asked: Any) -> Any:
            if kind == "one size" and x.shape[0] != 2:
                raise ModelError("two rows, please")
            if kind == "no rows":
                return x[0] * 2, None
            return (x.sum() if kind == "one answer" else x * 2), None

    example = (torch.zeros(2, 4), torch.zeros(3)) if kind == "no rows" else EXAMPLE
    with serving(Odd(example)) as server:
        assert server.model is not None
        assert not server.model.joins
        words = {
            "keeps state": "keeps state",
            "one size": "twice the rows (two rows",
            "one answer": "not one row for each",
            "no rows": "no rows",
        }
        assert words[kind] in server.model.why_alone


def test_one_request_that_fails_in_a_batch_fails_alone() -> None:
    served = FakeServed()
    with serving(served) as server:
        gate = Gate()

        def before(x: torch.Tensor) -> None:
            gate(x)
            if bool((x == 3).any()):
                raise ModelError("no threes, please")

        served.before = before
        first = InBackground(lambda: infer(server, body_of(1, 0.0)))
        assert gate.reached.wait(60)
        calls = [InBackground(lambda n=n: infer(server, body_of(1, float(n)))) for n in (2, 3, 4)]
        until(lambda: server.waiting == 3)
        gate.opened.set()
        assert [call.result()[0] for call in (first, *calls)] == [200, 200, 500, 200]


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (UsageError("an input of another kind"), 400),
        (ModelError("it raised"), 500),
        (WorkerDied("it ended"), 503),
        (WorkerTimeout("too long"), 504),
        (RuntimeError("secret path /srv/x"), 500),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_run_that_fails_is_answered_by_its_kind_and_the_next_one_is_made(problem: Exception, status: int) -> None:
    served = FakeServed()
    with serving(served) as server:

        def fail(x: torch.Tensor) -> None:
            raise problem

        served.before = fail
        found, told, _ = infer(server)
        assert found == status
        assert "secret" not in told["error"]
        served.before = lambda x: None
        assert infer(server)[0] == 200


def test_one_more_than_may_wait_is_answered_503_with_a_time_to_come_again() -> None:
    served = FakeServed()
    with serving(served, max_waiting=1) as server:
        gate = served.before = Gate()
        calls = [InBackground(lambda: infer(server))]
        assert gate.reached.wait(60)
        calls.append(InBackground(lambda: infer(server)))
        until(lambda: server.waiting == 1)
        status, _, headers = infer(server)
        assert status == 503
        assert int(headers["retry-after"]) >= 1
        gate.opened.set()
        assert [call.result()[0] for call in calls] == [200, 200]
        assert server.totals.by_reason["busy"] == 1


def test_a_deadline_is_answered_504_when_it_passes_and_what_waited_is_not_run() -> None:
    served = FakeServed()
    with serving(served) as server:
        gate = served.before = Gate()
        first = InBackground(lambda: infer(server))
        assert gate.reached.wait(60)
        assert infer(server, body_of(parameters={"timeout": 20_000}))[0] == 504
        gate.opened.set()
        assert first.result()[0] == 200
        assert len(served.runs) == 1
    with serving(served, deadline_s=0.02) as server:
        gate = served.before = Gate()
        assert infer(server)[0] == 504  # its lanes are still at work
        gate.opened.set()


def test_what_is_enough_at_a_deadline_reaches_the_run_and_is_joined_with_its_like_alone() -> None:
    served = FakeServed()
    with serving(served) as server:
        gate = served.before = Gate()
        first = InBackground(lambda: infer(server))
        assert gate.reached.wait(60)
        enough = {"timeout": 60_000_000, "at_least": 1}
        calls = [InBackground(lambda p=p: infer(server, body_of(parameters=p))) for p in (enough, {}, enough)]
        until(lambda: server.waiting == 3)
        gate.opened.set()
        assert [call.result()[0] for call in (first, *calls)] == [200] * 4
        assert sorted(
            (x.shape[0], asked.at_least or 0) for x, asked in zip(served.runs, served.asked, strict=True)
        ) == [
            (1, 0),
            (1, 0),
            (2, 1),
        ]
        told = next(asked for asked in served.asked if asked.at_least)
        assert 0 < (told.deadline_s or 0) <= 60


def test_a_client_that_left_is_not_run() -> None:
    served = FakeServed()
    with serving(served) as server:
        gate = served.before = Gate()
        first = InBackground(lambda: infer(server))
        assert gate.reached.wait(60)
        data = json.dumps(body_of()).encode()
        with socket.create_connection((server.host, server.port)) as client:
            client.sendall(
                b"POST /v2/models/ensemble/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
                + str(len(data)).encode()
                + b"\r\n\r\n"
                + data
            )
            until(lambda: server.waiting == 1)
        until(lambda: server.waiting == 0)
        gate.opened.set()
        assert first.result()[0] == 200
        assert len(served.runs) == 1
        assert server.totals.by_reason["left"] == 1


# --- its life --------------------------------------------------------------------------------------------------------


def test_it_is_alive_at_once_and_ready_when_it_is_warm() -> None:
    with Server(ServeSettings(port=0)).start() as server:
        assert ask(server, "GET", "/v2/health/live")[0] == 200
        assert ask(server, "GET", "/v2/health/ready")[0] == 503
        status, _, headers = infer(server)
        assert (status, headers["retry-after"]) == (503, "1")
        assert server.state == "lanes are starting"
        server.warm(FakeServed())  # type: ignore[arg-type]
        assert ask(server, "GET", "/v2/health/ready")[0] == 200


def test_an_address_is_told_when_it_answers_however_slowly_a_server_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, order, going_on = uvicorn.Server.startup, [], threading.Event()

    async def slow(server: uvicorn.Server, sockets: Any = None) -> None:
        while not going_on.is_set():
            await asyncio.sleep(0.001)
        order.append("begins")
        await whole(server, sockets)

    monkeypatch.setattr(uvicorn.Server, "startup", slow)
    server = Server(ServeSettings(port=0))
    starting = InBackground(lambda: (server.start(), order.append("told")))
    try:
        # Whoever asks too early waits for the answer, and is not refused: the socket listens before anything else.
        early = InBackground(lambda: (ask(server, "GET", "/v2/health/live")[0], order.append("answered")))
        assert order == []
        going_on.set()
        assert early.result()[0] == 200
        starting.result()
        assert ask(server, "GET", "/v2/health/live")[0] == 200
        assert order[0] == "begins"
    finally:
        going_on.set()
        server.close()


def test_a_server_that_ends_as_it_begins_is_an_error_and_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(server: uvicorn.Server, sockets: Any = None) -> None:
        raise OSError("no more of something")

    monkeypatch.setattr(uvicorn.Server, "startup", fails)
    server = Server(ServeSettings(port=0))
    with pytest.raises(DeviceError, match="no more of something"):
        server.start()
    server.close()
    assert server.state == "ended"


def test_lanes_that_cannot_be_started_anew_make_it_not_ready_until_they_can() -> None:
    class Breaks(FakeServed):
        broken = False

        def mend(self) -> bool:
            if self.broken:
                raise WorkerDied("no memory for a lane")
            return False

    served = Breaks()
    with serving(served) as server:
        served.broken = True
        until(lambda: ask(server, "GET", "/v2/health/ready")[0] == 503)
        assert "no memory" in server.state
        served.broken = False
        until(lambda: ask(server, "GET", "/v2/health/ready")[0] == 200)


def test_the_end_answers_what_has_come_and_takes_no_more() -> None:
    served = FakeServed()
    with serving(served) as server:
        gate = served.before = Gate()
        calls = [InBackground(lambda: infer(server))]
        assert gate.reached.wait(60)
        calls.append(InBackground(lambda: infer(server)))
        until(lambda: server.waiting == 1)
        ending = InBackground(server.close)
        until(lambda: server._service.dispatcher is not None and not server._service.dispatcher.ready)
        gate.opened.set()
        assert [call.result()[0] for call in calls] == [200, 200]
        ending.result()
        assert server.state == "ended"
        assert served.closed == 1
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((server.host, server.port))


def test_the_end_waits_no_longer_than_it_may() -> None:
    served = FakeServed()
    with serving(served, drain_s=0.1) as server:
        gate = served.before = Gate()
        first = InBackground(lambda: infer(server))
        assert gate.reached.wait(60)
        second = InBackground(lambda: infer(server))
        until(lambda: server.waiting == 1)
        ending = InBackground(server.close)
        assert second.result()[0] == 503
        gate.opened.set()  # a batch that is at work is waited for: lanes cannot be left in the middle
        assert first.result()[0] == 200
        ending.result()


def test_settings_that_are_not_possible_are_refused_by_name() -> None:
    for wrong in (
        {"port": -1},
        {"name": "a/b"},
        {"max_rows": 0},
        {"window_s": -1.0},
        {"deadline_s": 0},
        {"token": " x"},
        {"drain_s": float("nan")},
        {"host": ""},
    ):
        with pytest.raises(UsageError):
            ServeSettings(**wrong)  # type: ignore[arg-type]
