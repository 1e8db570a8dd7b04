"""What a server is tested with where no lanes are needed, and a client that says exactly what goes over the wire."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch

from esen_lab.serving.served import AskedBatch
from esen_lab.serving.server import Server
from esen_lab.serving.server_settings import ServeSettings

X = torch.arange(32, dtype=torch.float32).reshape(4, 8) / 10
"""An input of the lab that tests serve."""
EXAMPLE = torch.arange(8, dtype=torch.float32).reshape(2, 4)


class FakeServed:
    """Doubles its input in the server's run thread. `Served`, without lanes.

    Attributes:
        before: Called with each input first: may wait, or raise.
        runs: The inputs that it was given once it was warm.
    """

    begins_anew = False
    fallen_back: tuple[str, ...] = ()

    def __init__(self, example: Any = EXAMPLE) -> None:
        self.ensemble = SimpleNamespace(names=("a", "b"), example=example)
        self.plan = SimpleNamespace(lanes=(), jct_s=None)
        self.before: Callable[[torch.Tensor], object] = lambda x: None
        self.runs: list[torch.Tensor] = []
        self.asked: list[AskedBatch] = []
        self.mended = 0
        self.closed = 0

    @property
    def stands_for(self) -> tuple[object, ...]:
        return (self.ensemble, self.plan)

    def run(self, x: torch.Tensor, asked: AskedBatch) -> tuple[torch.Tensor, None]:
        self.runs.append(x)
        self.asked.append(asked)
        self.before(x)
        return x * 2, None

    def mend(self) -> bool:
        self.mended += 1
        return False

    def close(self) -> None:
        self.closed += 1


@contextlib.contextmanager
def serving(served: FakeServed | None = None, **settings: Any) -> Iterator[Server]:
    """A server of a double, ready; what preparing it has run is forgotten."""
    with Server(ServeSettings(port=0, **settings)).start() as server:
        found = served or FakeServed()
        server.warm(found)  # type: ignore[arg-type]
        found.runs.clear()
        found.asked.clear()
        yield server


class Gate:
    """Keeps runs waiting until it is opened; says when the first has come to it."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, x: torch.Tensor) -> None:
        self.reached.set()
        assert self.opened.wait(60)


def body_of(rows: int = 1, value: float = 1.0, **more: Any) -> dict[str, Any]:
    """A request of the example's look."""
    tensor = {"name": "input", "shape": [rows, 4], "datatype": "FP32", "data": [value] * (4 * rows)}
    return {"inputs": [tensor], **more}


def ask(
    server: Any, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    """One request over a connection of its own: status, content (JSON where it is), headers in lower case."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    try:
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        connection.request(method, path, data, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        told = {name.lower(): value for name, value in answer.getheaders()}
        if told.get("content-type") == "application/json" and content:
            return answer.status, json.loads(content), told
        return answer.status, content, told
    finally:
        connection.close()


def infer(server: Any, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """One inference request."""
    return ask(server, "POST", "/v2/models/ensemble/infer", body_of() if body is None else body, headers)


class InBackground:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.value: Any = None
        self._call = call
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        self.value = self._call()

    def result(self) -> Any:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.value


def occupied(served: FakeServed, call: Callable[[], Any]) -> tuple[Gate, InBackground]:
    """A call that is at work, and holds the lanes until the gate is opened."""
    gate = served.before = Gate()
    first = InBackground(call)
    assert gate.reached.wait(60)
    return gate, first
