"""The same load for a server behind a URL: the Open Inference Protocol's `/infer`, with binary tensors.

A few threads, each with a connection that stays: one takes the next request, sleeps until it is due, sends it, and
waits for its answer. Where all connections are busy a request is sent late; its time counts from when it was due.
"""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from select import POLLIN, poll
from typing import Any
from urllib.parse import urlsplit

from esen_lab.common.resources import begin
from esen_lab.common.units import check_count
from esen_lab.errors import DeviceError, UsageError
from esen_lab.load.batches import Replies, check_seconds

LATE_S = 0.001
_DATA_TYPES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent, each time the same.

    Attributes:
        body: JSON, then the tensors' bytes.
        headers: Of HTTP.
    """

    body: bytes
    headers: Mapping[str, str]


def infer_request(arrays: Mapping[str, Any]) -> Request:
    """A request of `/v2/models/NAME/infer` with NumPy arrays as binary tensors; answers are asked for as such too.

    Raises:
        UsageError: An array is of a type that the protocol does not have.
    """
    inputs, parts = [], []
    for name, array in arrays.items():
        if str(array.dtype) not in _DATA_TYPES:
            raise UsageError("The protocol has a type for every tensor", given=f"{name} of {array.dtype}")
        parts.append(array.tobytes())
        inputs.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": _DATA_TYPES[str(array.dtype)],
                "parameters": {"binary_data_size": len(parts[-1])},
            }
        )
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Request(body=b"".join([head, *parts]), headers=headers)


def drive_url(
    url: str,
    request: Request,
    due_s: Sequence[float],
    *,
    connections: int = 32,
    timeout_s: float = 10.0,
    give_up_s: float = math.inf,
) -> tuple[list[Replies], int]:
    """Send every request when it is due.

    Args:
        url: Where, such as "http://127.0.0.1:8000/v2/models/ensemble/infer".
        request: What.
        due_s: When each is due, ascending, in seconds from now.
        connections: How many may be under way.
        timeout_s: After so long without an answer one counts as never answered.
        give_up_s: Nothing is sent after so many seconds: a rate that is not held has no end. What is left over then
            counts as never answered.

    Returns:
        The requests, and how many were sent more than `LATE_S` late.

    Raises:
        UsageError: The URL is none of HTTP, or a number is not possible.
        DeviceError: Nothing answers there at all.
    """
    host, port, path = _parted(url)
    check_seconds(timeout_s, "How long an answer is waited for")
    check_count(connections, "A load has at least one connection")
    _try(host, port, timeout_s, url)
    senders = _Senders(host, port, path, request, due_s, timeout_s, give_up_s)
    threads = [threading.Thread(target=senders.work, name="esen_lab load", daemon=True) for _ in range(connections)]
    try:
        for thread in threads:
            begin(thread)
        for thread in threads:
            while thread.is_alive():
                thread.join(0.25)  # in slices, so that Ctrl-C is heard
    finally:
        senders.stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join(timeout_s)
    return senders.found, senders.late


class _Senders:
    """What the threads of one load share."""

    def __init__(
        self,
        host: str,
        port: int,
        path: str,
        request: Request,
        due_s: Sequence[float],
        timeout_s: float,
        give_up_s: float,
    ) -> None:
        self._where = (host, port, timeout_s)
        self._path = path
        self._request = request
        self._due_s = due_s
        self._give_up_s = give_up_s
        self.found = [Replies(due_s=due) for due in due_s]
        self.late = 0
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._waiting = iter(range(len(due_s)))
        self._start_s = time.perf_counter()

    def work(self) -> None:
        """Send one request after another on one connection, until none is left."""
        host, port, timeout_s = self._where
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        try:
            while (index := self._next()) is not None:
                begin_s = self._now_s()
                if self._sent(connection):
                    due_s = self._due_s[index]
                    self.found[index] = Replies(due_s=due_s, begin_s=begin_s, end_s=self._now_s())
        finally:
            connection.close()

    def _now_s(self) -> float:
        return time.perf_counter() - self._start_s

    def _next(self) -> int | None:
        """The next request, once it is due; None where there is none any more."""
        with self._lock:
            index = next(self._waiting, None)
        if index is None or self.stop.wait(max(0.0, self._due_s[index] - self._now_s())):
            return None
        if self._now_s() > self._give_up_s:
            return None
        if self._now_s() - self._due_s[index] > LATE_S:
            with self._lock:
                self.late += 1
        return index

    def _sent(self, connection: http.client.HTTPConnection) -> bool:
        """Whether an answer came."""
        if _was_closed(connection):  # while nothing was sent: servers keep one that is silent for seconds only
            connection.close()  # the request opens it again
        try:
            connection.request("POST", self._path, self._request.body, dict(self._request.headers))
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request opens it again
            return False
        return response.status == 200


def _was_closed(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has ended a connection on which nothing is under way."""
    if connection.sock is None:
        return False
    waiting = poll()
    waiting.register(connection.sock, POLLIN)
    return bool(waiting.poll(0))


def _parted(url: str) -> tuple[str, int, str]:
    """Host, port, and the path with its query.

    Raises:
        UsageError: The URL is none of HTTP.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError as problem:  # of its port, or of an address in brackets
        raise UsageError("A load is sent to a URL", given=f"{url}: {problem}") from problem
    if parts.scheme != "http" or not host:
        raise UsageError("A load is sent to a URL that begins with http://", given=url)
    return host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _try(host: str, port: int, timeout_s: float, url: str) -> None:
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.connect()
    except OSError as problem:
        raise DeviceError(
            "A server answers where a load is sent", given=f"{url}: {problem}", hint="Start it first."
        ) from problem
    finally:
        connection.close()
