"""What of a request's time is whose: servers that do ever more of it, asked in turns by Triton's client.

    constant   a thread that reads a request and sends the same bytes: the client and the loopback
    http       uvicorn and its event loop in front of an application that does the same
    nothing    our server with a model that costs nothing: the protocol, the queue, the run thread and back
    lab        our server with three small networks in lanes; and `lab.run` in the same process

Each is a process of its own, and is asked for a block of requests in its turn. What one takes longer than the one
before is its own part. Of the last one `lab.run` is taken off, back to back, and what it takes longer after a pause
like that between two requests: cores and lanes have slept. What is left then is caches that others have used, and
threads that share the cores.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench_request import ROW, Nothing, register_three

_FIRST = 3  # of a block: they find cold caches
_PAUSE_S = 0.0004  # about what passes between two runs of one client's
_HEAD = {"model_name": "ensemble", "model_version": "1"}
_OUTPUT = {"name": "output", "datatype": "FP32", "shape": [4, 10], "parameters": {"binary_data_size": 160}}


def parts(rounds: int, rows: int) -> dict[str, float]:
    """Ask all of them, and print a table.

    Args:
        rounds: How many blocks of 25 requests for each.
        rows: Of a request.

    Returns:
        Medians in seconds, by kind; "run" is that of `lab.run` back to back, "apart" with pauses between.
    """
    took_s: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "run", "apart")}
    with ExitStack() as stack:
        asked = {kind: stack.enter_context(_asked(kind, rows)) for kind in KINDS}
        for _ in range(rounds):
            for kind, (ask, _) in asked.items():
                took_s[kind] += [_timed(ask) for _ in range(25 + _FIRST)][_FIRST:]
            run = asked["lab"][1]
            took_s["run"] += run(25 + _FIRST, 0.0)[_FIRST:]
            took_s["apart"] += run(25 + _FIRST, _PAUSE_S)[_FIRST:]
    found = {kind: statistics.median(values) for kind, values in took_s.items()}
    for what, us in table(found).items():
        print(f"{what:52} {us:7.0f} us")
    return found


def table(found: dict[str, float]) -> dict[str, float]:
    """The parts in microseconds, from medians by kind."""
    lasted = {
        "the client and the loopback": found["constant"],
        "uvicorn and its event loop": found["http"] - found["constant"],
        "our application, the run thread and back": found["nothing"] - found["http"],
        "a run after a pause, longer than back to back": found["apart"] - found["run"],
        "a run within a server, longer than after a pause": found["lab"] - found["nothing"] - found["apart"],
        "added to lab.run in all": found["lab"] - found["run"],
        "lab.run": found["run"],
    }
    return {what: seconds * 1e6 for what, seconds in lasted.items()}


def serve(kind: str, rows: int) -> None:
    """Be one of them: the port on standard output, then until standard input ends."""
    KINDS[kind](rows)


def _timed(ask: Callable[[], object], pause_s: float = 0.0) -> float:
    if pause_s:
        time.sleep(pause_s)
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began


@contextmanager
def _asked(kind: str, rows: int) -> Iterator[tuple[Callable[[], object], Callable[[int, float], list[float]]]]:
    """One of them as a process: what asks it once, and what has it run by itself so often, after pauses."""
    import numpy
    import tritonclient.http as triton

    command = [sys.executable, str(Path(__file__).with_name("bench_serve.py")), "--rows", str(rows), "--serve", kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    try:
        client = triton.InferenceServerClient(f"127.0.0.1:{int(stdout.readline())}")
        tensor = triton.InferInput("input", [rows, ROW], "FP32")
        tensor.set_data_from_numpy(numpy.ones((rows, ROW), dtype=numpy.float32))

        def run(count: int, pause_s: float) -> list[float]:
            print(count, pause_s, file=stdin, flush=True)
            found: list[float] = json.loads(stdout.readline())
            return found

        def ask() -> object:
            return client.infer("ensemble", [tensor])

        for _ in range(50):
            ask()
        yield ask, run
        client.close()
    finally:
        stdin.close()
        process.wait(30)


def _body() -> tuple[bytes, int]:
    head = json.dumps({**_HEAD, "outputs": [_OUTPUT]}).encode()
    return head + bytes(160), len(head)


def _constant(_: int) -> None:
    body, head = _body()
    fields = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nInference-Header-Content-Length: {head}\r\n\r\n"
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    connection, _ = listening.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = connection.makefile("rb")
    while line := reader.readline():
        size = 0
        while line.strip():
            if line.lower().startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
            line = reader.readline()
        reader.read(size)
        connection.sendall(fields.encode() + body)


def _http(_: int) -> None:
    from esen_lab.serving.connection import CONNECTION
    from esen_lab.serving.http_server import HttpServer, listen
    from esen_lab.serving.server_settings import ServeSettings

    body, head = _body()
    fields = b"content-length: %d\r\ninference-header-content-length: %d\r\n" % (len(body), head)

    async def app(scope: Any, receive: Any, _: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        scope[CONNECTION].answer(fields, body)

    async def finish() -> None:
        """Nothing waits."""

    listening = listen("127.0.0.1", 0)
    server = HttpServer(app, listening, ServeSettings(port=0), finish)
    server.start()
    print(listening.getsockname()[1], flush=True)
    sys.stdin.read()
    server.end(1.0)


def _nothing(rows: int) -> None:
    import torch

    from esen_lab.serving.server import Server
    from esen_lab.serving.server_settings import ServeSettings

    with Server(ServeSettings(port=0)).start() as server:
        server.warm(Nothing(torch.randn(rows, ROW)))
        print(server.port, flush=True)
        sys.stdin.read()


def _lab(rows: int) -> None:
    from esen_lab import Lab

    with tempfile.TemporaryDirectory() as folder, Lab(device="cpu", store=Path(folder) / "profiles.sqlite") as lab:
        x = register_three(lab, rows)
        print(lab.serve(0).port, flush=True)
        for line in sys.stdin:
            count, pause_s = line.split()
            print(json.dumps([_timed(lambda: lab.run(x), float(pause_s)) for _ in range(int(count))]), flush=True)


KINDS: dict[str, Callable[[int], None]] = {"constant": _constant, "http": _http, "nothing": _nothing, "lab": _lab}
