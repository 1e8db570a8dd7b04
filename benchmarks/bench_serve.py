#!/usr/bin/env python3
"""What serving adds to `lab.run`, and whether a server grows.

    python benchmarks/bench_serve.py                       pairs: lab.run, and the same by Triton's client over loopback
    python benchmarks/bench_serve.py --parts               what of it is whose: serve_parts.py
    python benchmarks/bench_serve.py --soak-minutes 10     then requests at 80 % of what it can hold, by Poisson's clock

Pairs are taken in turns, so that what else the machine does falls on both. Clients of the soak are another process. Its
latencies count from the moment at which a request was due, not from when it was sent.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROW = 64
THREADS = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--soak-minutes", type=float, default=0.0)
    parser.add_argument("--load", type=float, default=0.8, help="of what the server can hold")
    parser.add_argument("--parts", action="store_true", help="a table of parts, and nothing else")
    parser.add_argument("--rounds", type=int, default=40, help="of the table of parts")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=4, metavar=("PORT", "ROWS", "RATE", "SECONDS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        port, rows, rate, seconds = given.client
        print(json.dumps(load(int(port), int(rows), float(rate), float(seconds))))
        return 0
    os.environ.setdefault("ESEN_LAB_BACKENDS", "eager")
    if given.serve or given.parts:
        return whose(given)
    with tempfile.TemporaryDirectory() as folder:
        return measure(given, Path(folder))


def whose(given: argparse.Namespace) -> int:
    """The table of parts, or one of the servers that it asks."""
    from serve_parts import parts, serve

    if given.serve:
        serve(given.serve, given.rows)
    else:
        print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
        parts(given.rounds, given.rows)
    return 0


def measure(given: argparse.Namespace, folder: Path) -> int:
    from bench_request import register_three

    from esen_lab import Lab

    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    with Lab(device="cpu", store=folder / "profiles.sqlite") as lab:
        x = register_three(lab, given.rows)
        server = lab.serve(0)
        assert server is not None
        pairs(lab, server, x, given.pairs)
        if given.soak_minutes > 0:
            soak(server, given)
    return 0


def pairs(lab: Any, server: Any, x: Any, count: int) -> None:
    """One request at a time, in turns with the same run without a server."""
    import tritonclient.http as triton

    client = triton.InferenceServerClient(server.address)
    tensor = triton.InferInput("input", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x.numpy())
    runs_s, requests_s, cpu_s = [], [], []
    for _ in range(count + 50):
        began, began_cpu = time.perf_counter(), time.process_time()
        lab.run(x)
        between, between_cpu = time.perf_counter(), time.process_time()
        client.infer("ensemble", [tensor])
        ended, ended_cpu = time.perf_counter(), time.process_time()
        runs_s.append(between - began)
        requests_s.append(ended - between)
        cpu_s.append((ended_cpu - between_cpu) - (between_cpu - began_cpu))
    client.close()
    # Of the client too, which is in this process; on a busy machine it says more than the time on the wall.
    print(f"added CPU time of client and server, median {statistics.median(cpu_s[50:]) * 1e3:.3f} ms")
    runs_s, requests_s = runs_s[50:], requests_s[50:]
    added = [request - run for request, run in zip(requests_s, runs_s, strict=True)]
    for name, values in (("lab.run", runs_s), ("over HTTP", requests_s), ("added", added)):
        ordered = sorted(values)
        print(
            f"{name:10} median {statistics.median(values) * 1e3:.3f} ms, p10 {ordered[len(ordered) // 10] * 1e3:.3f} ms"
        )


def soak(server: Any, given: argparse.Namespace) -> None:
    """Requests at a rate that the server can hold, and what it holds of memory, descriptors and threads meanwhile."""
    most = clients(server, given, 0.0, 10.0)["answered"] / 10.0
    rate = most * given.load
    print(f"holds {most:.0f} requests/s by {THREADS} clients; soak at {rate:.0f}/s", flush=True)
    samples: list[dict[str, float]] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(2.0):
            samples.append(sample())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        told = clients(server, given, rate, given.soak_minutes * 60)
    finally:
        stop.set()
        watcher.join()
    print(json.dumps(told))
    part = max(1, len(samples) // 4)
    for name in samples[0]:
        first = statistics.median(one[name] for one in samples[part : 2 * part])
        last = statistics.median(one[name] for one in samples[-part:])
        print(f"{name:12} second quarter {first:10.1f}, last quarter {last:10.1f}, change {last - first:+.1f}")
    print(server)


def sample() -> dict[str, float]:
    """What this process and those that it started hold."""
    import psutil

    own = psutil.Process()
    children = own.children(recursive=True)
    return {
        "server MB": own.memory_info().rss / 1e6,
        "lanes MB": sum(child.memory_info().rss for child in children if child.is_running()) / 1e6,
        "descriptors": float(own.num_fds()),
        "threads": float(own.num_threads()),
        "processes": float(len(children)),
    }


def clients(server: Any, given: argparse.Namespace, rate: float, seconds: float) -> dict[str, float]:
    """Clients in another process; a rate of 0 is as fast as they can."""
    command = [sys.executable, __file__, "--client", str(server.port), str(given.rows), str(rate), str(seconds)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(out.stdout)
    return found


def load(port: int, rows: int, rate: float, seconds: float) -> dict[str, float]:
    """Send requests; what came of them. With a rate, each is due at a time of its own, whatever the others do."""
    look = {"name": "input", "shape": [rows, ROW], "datatype": "FP32"}
    look["parameters"] = {"binary_data_size": rows * ROW * 4}
    head = json.dumps({"inputs": [look], "parameters": {"binary_data_output": True}}).encode()
    body = head + bytes(rows * ROW * 4)
    headers = {"Inference-Header-Content-Length": str(len(head))}
    draw = random.Random(1)
    due: list[float] = []
    at = 0.0
    while rate and (at := at + draw.expovariate(rate)) < seconds:
        due.append(at)
    lock, results = threading.Lock(), {"answered": 0, "refused": 0}
    latencies: list[float] = []
    began = time.monotonic()
    place = iter(range(len(due)))

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            if rate:
                with lock:
                    index = next(place, None)
                if index is None:
                    break
                start = began + due[index]
                time.sleep(max(0.0, start - time.monotonic()))
            else:
                start = time.monotonic()
                if start - began > seconds:
                    break
            connection.request("POST", "/v2/models/ensemble/infer", body, headers)
            answer = connection.getresponse()
            answer.read()
            with lock:
                results["answered" if answer.status == 200 else "refused"] += 1
                latencies.append(time.monotonic() - start)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(THREADS if not rate else 4 * THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latencies.sort()
    told: dict[str, float] = dict(results)
    for name, part in (("p50_ms", 0.5), ("p99_ms", 0.99)):
        told[name] = round(latencies[int(part * (len(latencies) - 1))] * 1e3, 2) if latencies else 0.0
    return told


if __name__ == "__main__":
    sys.exit(main())
