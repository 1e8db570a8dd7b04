"""A server without lanes: what is answered to whom, what waits, what is refused, how it ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gzip
import json
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import uvicorn
from served_doubles import EXAMPLE, FakeServed, Gate, InBackground, ask, body_of, infer, occupied, serving
from waiting import until

from esen_lab.errors import DeviceError, ModelError, UsageError, WorkerDied, WorkerTimeout
from esen_lab.serving import app, headers
from esen_lab.serving.guard import Guard
from esen_lab.serving.http_server import listen
from esen_lab.serving.refusal import RequestRefused
from esen_lab.serving.served import AskedBatch
from esen_lab.serving.server import Server
from esen_lab.serving.server_settings import ServeSettings


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    with serving() as server:
        yield server


# --- the protocol ----------------------------------------------------------------------------------------------------


def test_it_says_what_it_is_and_what_it_serves(plain: Server) -> None:
    assert ask(plain, "GET", "/v2")[1]["name"] == "esen_lab"
    extensions = ask(plain, "GET", "/v2")[1]["extensions"]
    assert {"binary_tensor_data", "statistics"} <= set(extensions)
    assert "model_repository" not in extensions, "nothing is loaded or unloaded"
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
    for encoding in ("gzip", "x-gzip", "X-GZIP", "deflate"):
        packed = zlib.compress(data) if encoding == "deflate" else gzip.compress(data)
        assert infer(plain, packed, **{"Content-Encoding": encoding})[0] == 200
    assert infer(plain, b"no gzip", **{"Content-Encoding": "gzip"})[0] == 400
    assert infer(plain, gzip.compress(data)[:-9], **{"Content-Encoding": "gzip"})[0] == 400
    assert infer(plain, data, **{"Content-Encoding": "br"})[0] == 415
    for nothing in (b"", b"\x00"):
        assert infer(plain, nothing, **{"Content-Encoding": "gzip"})[0] == 400
    with serving(max_body_bytes=100_000) as small:
        assert infer(small, gzip.compress(b" " * 50_000_000), **{"Content-Encoding": "gzip"})[0] == 413


def test_an_encoding_without_a_name_is_none(plain: Server) -> None:
    assert infer(plain, json.dumps(body_of()).encode(), **{"Content-Encoding": ""})[0] == 200


def test_a_part_of_the_protocol_that_is_not_had_is_named_in_a_sentence(plain: Server) -> None:
    asked = [{"name": "output", "parameters": {"classification": 2}}]
    status, told, _ = infer(plain, body_of(outputs=asked))
    assert (status, "has no classification extension" in told["error"]) == (501, True)


def test_a_server_writes_nothing_to_whoever_has_asked_for_no_log() -> None:
    program = "import logging, esen_lab.serving.server as it; it.log.warning('refused')"
    quiet = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert quiet.stderr == ""


def test_a_body_may_be_several_members_of_gzip_and_nothing_else_may_follow_them(plain: Server) -> None:
    data = json.dumps(body_of()).encode()
    halves = gzip.compress(data[:20]) + gzip.compress(b"") + gzip.compress(data[20:])
    assert infer(plain, halves, **{"Content-Encoding": "gzip"})[0] == 200
    for encoding, packed in (
        ("gzip", gzip.compress(data) + b"rubbish"),
        ("gzip", gzip.compress(data) + bytes(8)),
        ("gzip", gzip.compress(data) + gzip.compress(b" ")[:-1]),
        ("deflate", zlib.compress(data) + b"rubbish"),
        ("deflate", zlib.compress(data[:20]) + zlib.compress(data[20:])),
    ):
        assert infer(plain, packed, **{"Content-Encoding": encoding})[0] == 400
    many = gzip.compress(b"") * 20_000
    assert infer(plain, many, **{"Content-Encoding": "gzip"})[0] == 400
    with serving(max_body_bytes=100_000) as small:
        bombs = gzip.compress(b" " * 60_000) * 2
        assert infer(small, bombs, **{"Content-Encoding": "gzip"})[0] == 413


def test_metrics_are_those_of_what_happened() -> None:
    with serving() as server:
        infer(server)
        infer(server, b"{")
        # An answer is sent before it is counted.
        until(
            lambda: (server.totals.answered, server.totals.batches, server.totals.by_reason["malformed"]) == (1, 1, 1)
        )
        status, text, headers = ask(server, "GET", "/metrics")
        stats = ask(server, "GET", "/v2/models/ensemble/stats")[1]["model_stats"][0]
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    lines = text.decode().splitlines()
    for begins in (
        "esen_request_seconds_count 1.0",
        "esen_queue_seconds_count 1.0",
        "esen_compute_seconds_count 1.0",
        'esen_batch_rows_bucket{le="1.0"} 1.0',
        'esen_responses_total{status="400"} 1.0',
        'esen_refusals_total{reason="malformed"} 1.0',
        "esen_queue_length 0.0",
        "esen_fallbacks 0.0",
    ):
        assert any(line.startswith(begins) for line in lines), begins
    assert stats["inference_stats"]["success"]["count"] == 1


def test_statistics_are_those_of_tritons_extension() -> None:
    before_ms = time.time() * 1e3
    with serving() as server:
        for rows in (1, 3, 3):
            infer(server, body_of(rows))
        until(lambda: server.totals.answered == 3 and server.totals.rows == 7)
        (one,) = ask(server, "GET", "/v2/models/stats")[1]["model_stats"]
        assert ask(server, "GET", "/v2/models/ensemble/versions/1/stats")[1]["model_stats"] == [one]
    assert (one["name"], one["version"], one["inference_count"], one["execution_count"]) == ("ensemble", "1", 7, 3)
    assert before_ms - 1 <= one["last_inference"] <= time.time() * 1e3
    parts = one["inference_stats"]
    assert [parts[part]["count"] for part in ("success", "queue", "compute_infer", "fail")] == [3, 3, 3, 0]
    assert [parts[part]["ns"] for part in ("compute_input", "compute_output")] == [0, 0]
    assert 0 < parts["compute_infer"]["ns"] <= parts["success"]["ns"]
    assert [(size["batch_size"], size["compute_infer"]["count"]) for size in one["batch_stats"]] == [(1, 1), (3, 2)]
    assert sum(size["compute_infer"]["ns"] for size in one["batch_stats"]) > 0


# --- who may ask -----------------------------------------------------------------------------------------------------


def test_a_token_is_asked_for_everywhere_but_of_probes() -> None:
    with serving(token="secret") as server:
        assert ask(server, "GET", "/v2/health/ready")[0] == 200
        for path in ("/v2", "/metrics", "/v2/models/ensemble"):
            assert ask(server, "GET", path)[0] == 401
        assert infer(server)[0] == 401
        for wrong in ("Bearer wrong", "secret", "Basic secret", "Bearer", "Bearersecret", "Bearer SECRET"):
            status, _, headers = infer(server, Authorization=wrong)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
        for right in ("Bearer secret", "bearer secret", "BEARER  secret"):
            assert infer(server, Authorization=right)[0] == 200
        assert "secret" not in f"{server}{server!r}{server.to_dict()}"


def test_pages_of_other_places_and_names_that_lead_here_are_refused(plain: Server) -> None:
    assert infer(plain, Origin="http://evil.example")[0] == 403
    assert infer(plain, Host=f"evil.example:{plain.port}")[0] == 403
    assert infer(plain, Host=f"localhost:{plain.port}")[0] == 200
    assert infer(plain, **{"Content-Type": "text/plain"})[0] == 415


def test_every_address_of_this_machine_alone_is_guarded_as_that() -> None:
    assert ServeSettings(host="127.0.0.2").at_loopback
    assert not ServeSettings(host="0.0.0.0").at_loopback
    guard = Guard(ServeSettings(host="127.0.0.2"))
    guard.check("/v2", {b"host": b"127.0.0.2:8000"})
    with pytest.raises(RequestRefused, match="asked as"):
        guard.check("/v2", {b"host": b"evil.example"})


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1", "a" * 70, "a..b"])
def test_an_address_that_is_none_of_this_machine_is_said_and_no_port_is_blamed(host: str) -> None:
    with pytest.raises(UsageError, match="address or name of this machine") as found:
        listen(host, 0)
    assert "port" not in str(found.value)
    assert "Errno" not in str(found.value)


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="another port") as found:
        listen("127.0.0.1", taken.getsockname()[1])
    assert "Errno" not in str(found.value)


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
        monkeypatch.setattr(server._metrics, counts, lambda *told: (in_time.append(answered.wait(30)), count(*told)))
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
        until(lambda: server._service.held.now == 0)


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
    with serving(read_timeout_s=1.0) as server, socket.create_connection((server.host, server.port)) as client:
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
        gate, first = occupied(served, lambda: infer(server, body_of(1, 0.0)))
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
        until(lambda: server.totals.by_reason["busy"] == 1)


def test_a_deadline_is_answered_504_when_it_passes_and_what_waited_is_not_run() -> None:
    served = FakeServed()
    with serving(served) as server:
        gate, first = occupied(served, lambda: infer(server))
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
        gate, first = occupied(served, lambda: infer(server))
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
        gate, first = occupied(served, lambda: infer(server))
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
        until(lambda: server.totals.by_reason["left"] == 1)


def test_an_answer_with_fewer_rows_than_the_joined_batch_is_nobodys_and_each_request_is_run_alone() -> None:
    class LeavesOut(FakeServed):
        def run(self, x: torch.Tensor, asked: AskedBatch) -> tuple[torch.Tensor, None]:
            found, _ = super().run(x, asked)
            return found[found[:, 0] >= 0], None

    served = LeavesOut()
    with serving(served) as server:
        gate = served.before = Gate()
        calls = [InBackground(lambda: infer(server, body_of(1, 0.0)))]
        assert gate.reached.wait(60)
        calls += [InBackground(lambda n=n: infer(server, body_of(1, float(n)))) for n in (-1, 2, -3, 4)]
        until(lambda: server.waiting == 4)
        gate.opened.set()
        found = [call.result()[1]["outputs"][0]["data"] for call in calls]
        assert found == [[0.0] * 4, [], [4.0] * 4, [], [8.0] * 4]
        assert ask(server, "GET", "/v2/models/ensemble")[1]["parameters"]["joins_requests"] is False


def test_numbers_of_another_datatype_than_the_one_described_are_told_as_what_they_are() -> None:
    class Rounds(FakeServed):
        def run(self, x: torch.Tensor, asked: AskedBatch) -> tuple[torch.Tensor, None]:
            found, _ = super().run(x, asked)
            return found.round().long() if bool((x == 7).all()) else found, None

    with serving(Rounds()) as server:
        told = infer(server, body_of(1, 7.0))[1]["outputs"][0]
        assert (told["datatype"], told["data"]) == ("INT64", [14] * 4)


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


def test_the_index_lists_models_that_are_not_ready_unless_it_is_asked_for_the_ready_ones() -> None:
    def index(server: Server, body: bytes) -> tuple[int, Any]:
        return ask(server, "POST", "/v2/repository/index", body)[:2]

    with Server(ServeSettings(port=0)).start() as server:
        for everybody in (b"", b"{}", b'{"ready": false}', b'{"ready": null}'):
            status, (one,) = index(server, everybody)
            assert (status, one["name"], one["state"]) == (200, "ensemble", "UNAVAILABLE")
        assert index(server, b'{"ready": true}') == (200, [])
        for nonsense in (b"{", b"[]", b'{"ready": "yes"}', b"[" * 4000, b"\xff"):
            status, told = index(server, nonsense)
            assert (status, "ready" in told["error"]) == (400, True)
        assert index(server, b" " * 5000)[0] == 413
        server.warm(FakeServed())  # type: ignore[arg-type]
        assert index(server, b'{"ready": true}')[1][0]["state"] == "READY"


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


class MayBreak(FakeServed):
    """Whether its lanes are whole is up to the test."""

    broken = False

    def mend(self) -> bool:
        if self.broken:
            raise WorkerDied("no memory for a lane")
        return False


def test_lanes_that_cannot_be_started_anew_make_it_not_ready_until_they_can() -> None:
    served = MayBreak()
    with serving(served) as server:
        served.broken = True
        until(lambda: ask(server, "GET", "/v2/health/ready")[0] == 503)
        assert "no memory" in server.state
        served.broken = False
        until(lambda: ask(server, "GET", "/v2/health/ready")[0] == 200)


def test_a_run_that_succeeds_shows_that_its_lanes_are_warm() -> None:
    served = MayBreak()
    with serving(served) as server:
        served.broken = True
        until(lambda: server.state != "ready")
        assert server._service.dispatcher is not None
        server._service.dispatcher._thread._idle = lambda: None
        assert infer(server)[0] == 200
        assert server.state == "ready"


def test_its_end_needs_no_thread_that_an_interpreter_at_its_end_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    with serving() as server:
        monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, "submit", refused)
        server.close()
        assert server._http._problem is None


def test_what_cannot_be_started_anew_is_logged_with_its_reason_and_a_next_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Breaks(FakeServed):
        def mend(self) -> bool:
            if self.mended:
                raise DeviceError("This device runs nothing")
            return super().mend()

    with serving(Breaks()):
        until(lambda: any("runs nothing" in told and "serve(None)" in told for told in caplog.messages))


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
        gate, first = occupied(served, lambda: infer(server))
        second = InBackground(lambda: infer(server))
        until(lambda: server.waiting == 1)
        ending = InBackground(server.close)
        status, _, headers = second.result()
        assert (status, headers["retry-after"]) == (503, "1")
        gate.opened.set()  # a batch that is at work is waited for: lanes cannot be left in the middle
        assert first.result()[0] == 200
        ending.result()


def test_settings_that_are_not_possible_are_refused_by_name() -> None:
    for wrong in (
        {"port": -1},
        {"name": "a/b"},
        {"name": "stats"},
        {"name": "versions"},
        {"max_rows": 0},
        {"window_s": -1.0},
        {"deadline_s": 0},
        {"token": " x"},
        {"token": "a\nb"},
        {"token": None},
        {"drain_s": float("nan")},
        {"drain_s": 1e300},
        {"write_timeout_s": 1e9},
        {"host": ""},
    ):
        with pytest.raises(UsageError):
            ServeSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("where", "what"), [(headers, "parse_request"), (app, "encode_response")])
def test_others_are_answered_while_a_long_json_is_read_or_written(
    where: ModuleType, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, before = Gate(), getattr(where, what)

    def slow(*given: Any) -> Any:
        if threading.current_thread().name != "esen_lab server":
            gate(torch.zeros(0))
        return before(*given)

    monkeypatch.setattr(where, what, slow)
    with serving() as server:
        long = InBackground(lambda: infer(server, body_of(rows=20_000)))
        try:
            assert gate.reached.wait(60)
            assert infer(server)[0] == 200
        finally:
            gate.opened.set()
        status, told, _ = long.result()
        assert (status, told["outputs"][0]["shape"]) == (200, [20_000, 4])
        assert infer(server, body_of(rows=20_001) | {"outputs": [{"name": "none"}]})[0] == 400


# --- what goes wrong is counted and answered as what it is -----------------------------------------------------------


class Reports(FakeServed):
    """Says that its lane was busy for a quarter of a second; raises at a thirty-three."""

    def run(self, x: torch.Tensor, asked: AskedBatch) -> Any:
        found, _ = super().run(x, asked)
        if bool((x == 33).any()):
            raise ModelError("no thirty-threes, please")
        return found, SimpleNamespace(
            answered=None, spans=(), lanes=(SimpleNamespace(members=("a", "b"), busy_s=0.25),)
        )


def test_every_run_is_counted_once_and_what_failed_is_no_inference_and_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = Reports()
    with serving(served) as server:
        gate, first = occupied(served, lambda: infer(server, body_of(1, 0.0)))
        calls = [InBackground(lambda n=n: infer(server, body_of(n, 11.0 * n))) for n in (1, 2, 3)]
        until(lambda: server.waiting == 3)
        gate.opened.set()
        assert [call.result()[0] for call in (first, *calls)] == [200, 200, 200, 500]
        until(lambda: server.totals.answered == 3 and server.totals.batches == 5)
        totals = server.totals
        (one,) = ask(server, "GET", "/v2/models/stats")[1]["model_stats"]
        text = server.metrics().decode()
    assert any(told.startswith("a run failed") and "thirty-threes" in told for told in caplog.messages)
    # Alone, then six rows together, which failed, then each of the three for itself.
    assert (totals.batches, totals.rows, totals.lane_busy_s) == (5, 1 + 6 + 6, {0: 0.75})
    assert (one["inference_count"], one["execution_count"]) == (4, 3)
    assert [(size["batch_size"], size["compute_infer"]["count"]) for size in one["batch_stats"]] == [(1, 2), (2, 1)]
    parts = one["inference_stats"]
    assert [parts[part]["count"] for part in ("success", "queue", "compute_infer", "fail")] == [3, 3, 3, 1]
    assert parts["queue"]["ns"] + parts["compute_infer"]["ns"] <= parts["success"]["ns"]
    assert "esen_batch_requests_sum 7.0" in text
    assert "esen_batch_rows_sum 13.0" in text


def test_the_wait_of_a_request_is_counted_with_its_answer_and_not_where_it_got_none() -> None:
    served = FakeServed()
    with serving(served) as server:
        gate, late = occupied(served, lambda: infer(server, body_of(parameters={"timeout": 1_000_000})))
        assert late.result()[0] == 504  # its lanes are still at work
        gate.opened.set()
        until(lambda: server.totals.batches == 1)
        totals = server.totals
        assert (totals.answered, totals.queue_s, totals.request_compute_s) == (0, 0.0, 0.0)
        assert b"esen_queue_seconds_count 0.0" in server.metrics()
        assert server.status().queue_s is None


def test_a_request_whose_deadline_has_passed_when_it_is_there_is_not_run() -> None:
    served = FakeServed()
    with serving(served) as server:
        for enough in ({}, {"at_least": 1}):
            assert infer(server, body_of(parameters={"timeout": 1, **enough}))[0] == 504
        assert served.runs == []
        assert infer(server)[0] == 200


@pytest.mark.parametrize(("problem", "status"), [(RuntimeError("secret"), 500), (MemoryError(), 503)])
def test_an_answer_that_cannot_be_written_is_an_error_in_json(
    problem: Exception, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise problem

    with serving() as server:
        with monkeypatch.context() as patched:
            patched.setattr("esen_lab.serving.app.encode_response", fails)
            found, told, _ = infer(server)
        assert (found, "secret" in told["error"]) == (status, False)
        assert infer(server)[0] == 200
        until(lambda: server._service.held.now == 0)


def test_numbers_that_torch_keeps_as_the_negative_of_others_are_answered_in_binary_too() -> None:
    class Negative(FakeServed):
        def run(self, x: torch.Tensor, asked: AskedBatch) -> tuple[torch.Tensor, None]:
            return torch._neg_view(super().run(x, asked)[0]), None

    with serving(Negative()) as server:
        status, told, headers = infer(server, body_of(1, 1.0, parameters={"binary_data_output": True}))
        assert status == 200
        head = int(headers["inference-header-content-length"])
        assert torch.frombuffer(bytearray(told[head:]), dtype=torch.float32).tolist() == [-2.0] * 4


def test_what_has_come_whole_and_is_refused_is_answered_without_waiting_for_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("esen_lab.serving.body._DROPPING_S", 1000.0)
    with serving(max_body_bytes=1000) as server:
        bomb = gzip.compress(b" " * 50_000)
        told = f"POST /v2/models/ensemble/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(bomb)}\r\n"
        with socket.create_connection((server.host, server.port), timeout=60) as client:
            client.sendall(told.encode() + b"Content-Encoding: gzip\r\n\r\n" + bomb)
            assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_a_kind_of_content_that_is_not_read_is_named() -> None:
    with serving() as server:
        form = "application/x-www-form-urlencoded"  # as curl says where nobody tells it
        status, told, _ = infer(server, **{"Content-Type": form})
        assert (status, form in told["error"]) == (415, True)
        status, told, _ = infer(server, **{"Content-Encoding": "br"})
        assert (status, "'br'" in told["error"]) == (415, True)


# --- what is served becomes something else ---------------------------------------------------------------------------


def test_a_request_for_what_is_served_by_now_may_come_again_until_that_was_looked_at() -> None:
    served = FakeServed()
    with serving(served) as server:
        gate, first = occupied(served, lambda: infer(server))
        wide = {"name": "input", "shape": [1, 5], "datatype": "FP32", "data": [1.0] * 5}
        assert infer(server, {"inputs": [wide]})[0] == 400
        served.ensemble = SimpleNamespace(names=("a", "b"), example=torch.zeros(2, 5))
        status, told, headers = infer(server, {"inputs": [wide]})
        assert (status, headers["retry-after"]) == (503, "1")
        assert "has changed" in told["error"]
        gate.opened.set()
        assert first.result()[0] == 200
        until(lambda: ask(server, "GET", "/v2/models/ensemble")[1]["inputs"][0]["shape"] == [-1, 5])
        assert infer(server, {"inputs": [wide]})[0] == 200
        assert infer(server)[0] == 400


def test_another_plan_has_batches_filled_up_where_it_has_engines_and_not_where_it_has_none() -> None:
    def plan(*, eager: bool) -> Any:
        return SimpleNamespace(lanes=(SimpleNamespace(all_eager=eager),), jct_s=None)

    def run_at(rows: int) -> int:
        served.runs.clear()
        assert infer(server, body_of(rows))[0] == 200
        return len(served.runs[0])

    served = FakeServed()
    with serving(served, max_rows=16) as server:
        dispatcher = server._service.dispatcher
        assert dispatcher is not None
        assert run_at(7) == 7
        served.plan = plan(eager=False)
        until(lambda: {len(x) for x in served.runs} >= {1, 16})  # prepared while nothing is to do
        until(lambda: not dispatcher._to_prepare)
        known = {len(x) for x in served.runs}
        assert run_at(7) in known - {7}
        served.plan = plan(eager=True)
        until(lambda: dispatcher._sizes == ())
        assert run_at(7) == 7


def test_a_member_that_is_seen_to_draw_numbers_or_keep_state_while_it_is_served_is_joined_no_more() -> None:
    served = FakeServed()
    with serving(served) as server:
        gate, first = occupied(served, lambda: infer(server, body_of(1, 0.0)))
        calls = [InBackground(lambda n=n: infer(server, body_of(1, float(n)))) for n in (1, 2)]
        until(lambda: server.waiting == 2)
        served.begins_anew = True  # as the run at work shows
        gate.opened.set()
        assert [call.result()[0] for call in (first, *calls)] == [200] * 3
        assert [len(x) for x in served.runs] == [1, 1, 1]
        assert "draws random numbers" in ask(server, "GET", "/v2/models/ensemble")[1]["parameters"]["why_alone"]


@contextlib.contextmanager
def loop_held(server: Server) -> Iterator[None]:
    """Inside, the event loop does nothing."""
    held, go_on = threading.Event(), threading.Event()
    loop = server._loop
    assert loop is not None
    loop.call_soon_threadsafe(lambda: (held.set(), go_on.wait(60)))
    assert held.wait(60)
    try:
        yield
    finally:
        go_on.set()


def test_lanes_go_on_with_what_waits_before_the_batch_before_is_answered() -> None:
    served = FakeServed()
    with serving(served, max_rows=1) as server:
        gate, first = occupied(served, lambda: infer(server, body_of(1, 1.0)))
        second = InBackground(lambda: infer(server, body_of(1, 2.0)))
        until(lambda: server.waiting == 1)
        with loop_held(server):
            gate.opened.set()
            until(lambda: len(served.runs) == 2)
        for call, value in ((first, 2.0), (second, 4.0)):
            status, told, _ = call.result()
            assert (status, told["outputs"][0]["data"]) == (200, [value] * 4)
        until(lambda: server.totals.batches == 2)


def test_a_request_that_is_too_late_when_the_lanes_are_free_is_not_run() -> None:
    served = FakeServed()
    with serving(served, max_rows=1) as server:
        gate, first = occupied(served, lambda: infer(server, body_of(1, 1.0)))
        late = InBackground(lambda: infer(server, body_of(1, 2.0, parameters={"timeout": 300_000})))
        until(lambda: server.waiting == 1)
        came_s = time.monotonic()
        with loop_held(server):  # its timer cannot come before the run thread
            until(lambda: time.monotonic() > came_s + 0.3)
            gate.opened.set()
            until(lambda: server.waiting == 0)
        assert (first.result()[0], late.result()[0]) == (200, 504)
        assert infer(server, body_of(1, 3.0))[0] == 200
        assert [float(x[0, 0]) for x in served.runs] == [1.0, 3.0]
