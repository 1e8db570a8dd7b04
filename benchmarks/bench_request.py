#!/usr/bin/env python3
"""What one request costs the server: CPU time and voluntary thread switches by thread, and where the CPU time goes.

    python benchmarks/bench_request.py                     a lab in two lanes, and a model that costs nothing
    python benchmarks/bench_request.py --profile 25        then the dearest functions of the event loop, by cProfile

One client, one request at a time over one connection, in a process of its own. CPU time and switches are the kernel's
counts for each thread of the server's process: on a busy machine they hold where times on the wall do not.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROW = 64
TASKS = Path("/proc/self/task")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5, help="the figures are medians of so many")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--server-only", action="store_true", help="without the lab")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="print the N dearest functions of the loop")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--client", nargs=3, metavar=("PORT", "ROWS", "COUNT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        ask(*map(int, given.client))
        return 0
    os.environ.setdefault("ESEN_LAB_BACKENDS", "eager")
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    found = {"a model that costs nothing": of_nothing(given)}
    if not given.server_only:
        with tempfile.TemporaryDirectory() as folder:
            found["three members in lanes"] = of_lab(given, Path(folder))
    if given.json:
        given.json.write_text(json.dumps({"load": os.getloadavg()[0], **found}, indent=1) + "\n")
    return 0


def register_three(lab: Any, rows: int) -> Any:
    """Register the members that requests are answered by; returns their example, shape (rows, ROW)."""
    import torch
    from torch import nn

    x = torch.randn(rows, ROW)
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        lab.register(name, nn.Sequential(nn.Linear(ROW, 256), nn.ReLU(), nn.Linear(256, 10)), example=x)
    return x


class Nothing:
    """A served model whose run costs nothing: what is left is the server's."""

    begins_anew = False
    fallen_back: tuple[str, ...] = ()

    def __init__(self, example: Any) -> None:
        self.ensemble = SimpleNamespace(names=("nothing",), example=example)
        self.plan = SimpleNamespace(lanes=(), jct_s=None)

    @property
    def stands_for(self) -> tuple[object, ...]:
        """What it is the model of."""
        return (self.ensemble, self.plan)

    def run(self, x: Any, asked: Any) -> tuple[Any, None]:
        """The input."""
        del asked
        return x, None

    def mend(self) -> bool:
        """Nothing ends."""
        return False

    def close(self) -> None:
        """Nothing was started."""


def of_nothing(given: argparse.Namespace) -> dict[str, Any]:
    """The server alone."""
    import torch

    from esen_lab.serving.server import Server
    from esen_lab.serving.server_settings import ServeSettings

    with Server(ServeSettings(port=0)).start() as server:
        server.warm(Nothing(torch.randn(given.rows, ROW)))
        return measure("a model that costs nothing", server, given)


def of_lab(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A lab behind it, and what its runs cost without a server."""
    from esen_lab import Lab

    with Lab(device="cpu", store=folder / "profiles.sqlite") as lab:
        x = register_three(lab, given.rows)
        server = lab.serve(0)
        found = measure("three members in lanes", server, given)
        rounds = []
        for _ in range(given.rounds):
            before = _threads()
            for _ in range(given.requests):
                lab.run(x)
            rounds.append(_between(before, _threads(), given.requests))
        found["lab.run alone"] = _told("lab.run alone", rounds)
    return found


def measure(name: str, server: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Rounds of requests, and then one more under the profiler."""
    rounds, latencies_s = [], []
    _client(server, given.rows, 200)
    for _ in range(given.rounds):
        before = _threads()
        latencies_s.append(_client(server, given.rows, given.requests))
        rounds.append(_between(before, _threads(), given.requests))
    print(f"{name}: {statistics.median(latencies_s) * 1e3:.3f} ms on the wall, as the client sees it")
    found = _told(name, rounds)
    if given.profile:
        _profile(server, given)
    return found


def _told(name: str, rounds: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Print and give the medians."""
    threads = sorted({thread for one in rounds for thread in one})
    found = {}
    for thread in threads:
        values = [one.get(thread, [0.0, 0.0]) for one in rounds]
        cpu_us, switches = (statistics.median(column) for column in zip(*values, strict=True))
        if cpu_us >= 1 or switches >= 0.05:
            found[thread] = {"cpu_us": round(cpu_us, 1), "switches": round(switches, 2)}
    found["all"] = {key: round(sum(one[key] for one in found.values()), 2) for key in ("cpu_us", "switches")}
    for thread, one in found.items():
        print(f"  {name:28} {thread:26} {one['cpu_us']:8.1f} us of CPU, {one['switches']:5.2f} switches a request")
    return found


def _threads() -> dict[str, tuple[float, int]]:
    """CPU time in us and voluntary switches of each thread of this process, by its name."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found: dict[str, tuple[float, int]] = {}
    for task in TASKS.iterdir():
        try:
            ran_ns = int((task / "schedstat").read_text().split()[0])
            status = (task / "status").read_text()
        except OSError:
            continue  # it has ended
        switches = int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
        name = names.get(int(task.name), "others")
        before = found.get(name, (0.0, 0))
        found[name] = (before[0] + ran_ns / 1e3, before[1] + switches)
    return found


def _between(before: dict[str, Any], after: dict[str, Any], count: int) -> dict[str, list[float]]:
    return {
        name: [(now - then) / count for now, then in zip(values, before.get(name, (0.0, 0)), strict=True)]
        for name, values in after.items()
    }


def _client(server: Any, rows: int, count: int) -> float:
    """So many requests by a client of its own; the median latency that it saw, in seconds."""
    command = [sys.executable, "-S", __file__, "--client", str(server.port), str(rows), str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def ask(port: int, rows: int, count: int) -> None:
    """The client: the same request again and again; prints the median latency."""
    size = rows * ROW * 4
    look = {"name": "input", "shape": [rows, ROW], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [look], "parameters": {"binary_data_output": True}}).encode()
    lines = (
        f"POST /v2/models/ensemble/infer HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(head) + size}\r\n"
        f"Inference-Header-Content-Length: {len(head)}\r\nContent-Type: application/octet-stream\r\n\r\n"
    )
    request = lines.encode() + head + bytes(size)
    took_s = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            began = time.perf_counter()
            connection.sendall(request)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += connection.recv(1 << 16)
            fields, _, rest = answer.partition(b"\r\n\r\n")
            if not fields.startswith(b"HTTP/1.1 200"):
                raise SystemExit(answer.decode(errors="replace"))
            left = int(fields.lower().partition(b"content-length:")[2].split()[0]) - len(rest)
            while left > 0:
                left -= len(connection.recv(1 << 16))
            took_s.append(time.perf_counter() - began)
    print(statistics.median(took_s))


def _profile(server: Any, given: argparse.Namespace) -> None:
    """The dearest functions of the event loop's thread."""
    profiler = cProfile.Profile()
    loop = server._loop
    loop.call_soon_threadsafe(profiler.enable)
    _client(server, given.rows, given.requests)
    done = threading.Event()
    loop.call_soon_threadsafe(lambda: (profiler.disable(), done.set()))
    done.wait(10)
    told = io.StringIO()
    pstats.Stats(profiler, stream=told).strip_dirs().sort_stats("tottime").print_stats(given.profile)
    print(told.getvalue())


if __name__ == "__main__":
    sys.exit(main())
