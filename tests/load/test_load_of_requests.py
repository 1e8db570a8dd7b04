from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np
import pytest

from esen_lab.errors import DeviceError, UsageError
from esen_lab.load import LoadTable, Replies, arrivals_s, drive, drive_url, infer_request, row_of


class Clock:
    """Time that goes on only where something waits or works."""

    def __init__(self) -> None:
        self.now = 100.0
        self.batches: list[int] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def work(self, rows: int) -> None:
        self.batches.append(rows)
        self.now += 1.0


def driven(due_s: list[float], most_rows: int = 2, give_up_s: float = 100.0) -> tuple[Clock, list[Replies]]:
    clock = Clock()
    found = drive(clock.work, due_s, most_rows=most_rows, give_up_s=give_up_s, clock=clock, sleep=clock.sleep)
    return clock, found


def test_the_same_seed_gives_the_same_times_and_another_rate_the_same_process() -> None:
    assert arrivals_s(50, 2, seed=3) == arrivals_s(50, 2, seed=3)
    assert arrivals_s(50, 2, seed=3) != arrivals_s(50, 2, seed=4)
    slow, fast = arrivals_s(10, 4, seed=1), arrivals_s(20, 2, seed=1)
    assert [2 * due for due in fast] == pytest.approx(slow)


def test_requests_come_as_often_as_was_asked() -> None:
    due_s = arrivals_s(200, 50, seed=0)
    assert len(due_s) == pytest.approx(10_000, rel=0.05)
    gaps = np.diff(due_s)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as in a Poisson process, and in no regular one


@pytest.mark.parametrize("rate", [0.01, 1e-300])
def test_a_request_at_a_rate_at_which_none_would_come_is_due_within_the_load(rate: float) -> None:
    assert arrivals_s(rate, 2.0) == (2.0,)


@pytest.mark.parametrize(("rate", "duration"), [(1e-5, 1e10), (0, 1), (-1, 1), (1, math.inf), (True, 1), (1e9, 1)])
def test_impossible_loads_are_refused(rate: float, duration: float) -> None:
    with pytest.raises(UsageError):
        arrivals_s(rate, duration)
    with pytest.raises(UsageError, match="A seed is a whole number"):
        arrivals_s(10, 1, seed=-1)


def test_what_is_due_when_a_batch_is_done_goes_together() -> None:
    clock, found = driven([0.0, 0.1, 0.2, 0.3])
    assert clock.batches == [1, 2, 1]
    assert [one.latency_s for one in found] == pytest.approx([1.0, 1.9, 1.8, 2.7])
    assert [one.begin_s - one.due_s for one in found] == pytest.approx([0.0, 0.9, 0.8, 1.7])


def test_the_time_of_a_request_counts_from_when_it_was_due_and_not_from_when_it_was_sent() -> None:
    _, found = driven([0.0, 0.5, 0.6, 0.7, 0.8], most_rows=1)
    assert found[-1].latency_s == pytest.approx(4.2)


def test_nothing_is_begun_before_it_is_due() -> None:
    _, found = driven([0.0, 5.0])
    assert found[1].begin_s == pytest.approx(5.0)


def test_a_rate_that_is_not_held_is_given_up_and_says_so() -> None:
    _, found = driven([i / 10 for i in range(100)], give_up_s=20.0)
    row = row_of("plan", 10, found, deadline_s=2.0, duration_s=10.0)
    assert row.unanswered == 100 - 40 + 1
    assert math.isinf(row.p99_s)
    assert "never" in row.cells
    assert row.goodput_per_s < 1


def test_a_row_parts_queue_and_compute_and_counts_what_is_in_time() -> None:
    _, found = driven([0.0, 0.1, 0.2, 0.3])
    row = row_of("plan", 4, found, deadline_s=1.85, duration_s=2.0)
    assert (row.p50_s, row.p99_s) == pytest.approx((1.8, 2.7))
    assert row.goodput_per_s == pytest.approx(1.0)
    assert row.compute_s == pytest.approx(1.0)
    assert row.mean_rows == pytest.approx((1 + 2 + 2 + 1) / 4)
    table = LoadTable(rows=(row,), deadline_s=1.85, duration_s=2.0, most_rows=2)
    assert "1.80 s" in str(table)
    assert table.to_dict()["rows"][0]["p99_s"] == pytest.approx(2.7)


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[bytes]] = []
    paths: ClassVar[list[str]] = []
    status = 200

    def do_POST(self) -> None:
        self.paths.append(self.path)
        self.seen.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(handler: type[Echo]) -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    made.daemon_threads = False
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    Echo.seen.clear()
    Echo.paths.clear()
    Echo.status = 200
    try:
        yield f"http://127.0.0.1:{made.server_address[1]}/v2/models/m/infer"
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


@pytest.fixture
def server() -> Iterator[str]:
    with serving(Echo) as url:
        yield url


def test_every_request_is_sent_to_a_server_and_its_time_taken(server: str) -> None:
    request = infer_request({"INPUT": np.ones((1, 3), "float32")})
    found, late = drive_url(server, request, [0.0, 0.01, 0.02, 0.03], connections=2)
    assert all(math.isfinite(one.latency_s) for one in found)
    assert Echo.seen == [request.body] * 4
    assert 0 <= late <= 4


def test_the_body_is_the_protocols(server: str) -> None:
    request = infer_request({"INPUT": np.ones((1, 3), "float32")})
    head = int(request.headers["Inference-Header-Content-Length"])
    assert request.body[:head].startswith(b'{"inputs": [{"name": "INPUT", "shape": [1, 3], "datatype": "FP32"')
    assert request.body[head:] == np.ones(3, "float32").tobytes()
    with pytest.raises(UsageError, match="complex64"):
        infer_request({"x": np.ones(1, "complex64")})


def test_refusals_count_as_never_answered(server: str) -> None:
    Echo.status = 503
    found, _ = drive_url(server, infer_request({"x": np.ones(1)}), [0.0, 0.0])
    assert row_of("m", 2, found, deadline_s=1, duration_s=1).unanswered == 2


def test_nobody_there_is_said_at_once() -> None:
    with pytest.raises(DeviceError, match="Start it first"):
        drive_url("http://127.0.0.1:9/v2", infer_request({"x": np.ones(1)}), [0.0])
    with pytest.raises(UsageError, match="http://"):
        drive_url("ftp://127.0.0.1", infer_request({"x": np.ones(1)}), [0.0])


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/v2", "http://[::1/v2", "http://", "https://127.0.0.1"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="A load is sent to a URL"):
        drive_url(url, infer_request({"x": np.ones(1)}), [0.0])


@pytest.mark.parametrize(
    "wrong", [{"connections": 0}, {"connections": 1.5}, {"timeout_s": 0}, {"timeout_s": 1e300}, {"timeout_s": math.nan}]
)
def test_a_load_without_connections_or_patience_is_refused(server: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        drive_url(server, infer_request({"x": np.ones(1)}), [0.0], **wrong)
    assert not Echo.seen


def test_the_query_of_a_url_is_sent_too(server: str) -> None:
    drive_url(f"{server}?version=2", infer_request({"x": np.ones(1)}), [0.0])
    assert Echo.paths == ["/v2/models/m/infer?version=2"]


class Impatient(Echo):
    """Ends a connection on which nothing comes for a moment, as servers do after some seconds."""

    timeout = 0.1


def test_a_connection_that_the_server_ended_while_it_was_silent_costs_no_request() -> None:
    with serving(Impatient) as url:
        found, _ = drive_url(url, infer_request({"x": np.ones(1)}), [0.0, 0.4, 0.8], connections=1)
    assert [math.isfinite(one.latency_s) for one in found] == [True] * 3
