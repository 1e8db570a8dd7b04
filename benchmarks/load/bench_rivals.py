#!/usr/bin/env python3
"""The same ensemble behind ours and behind what else people serve with, under the same seeded load.

    tools/triton_env.sh; tools/rivals_env.sh               what they need, in environments of their own
    python benchmarks/load/bench_rivals.py --minutes 15    writes benchmarks/results/serving.json and docs/load.md
    python benchmarks/load/bench_rivals.py --quick         seconds: shows that all of it works, and writes nothing

Every server is a process of its own and answers requests of one row, joined to batches of at most 16 where it joins
them. Rates are parts of what one process answers by running the members one after another without a server: that is
the 1. Ways take turns, round by round. Generator and server share the cores: read what stands side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy
import torch
from load_models import SIZES, Mean, example, member
from load_page import Report, write_page
from load_process import serving
from rival_servers import BATCH, KINDS
from rival_triton import NAME, write_repository

from esen_lab import Lab
from esen_lab.errors import EsenError
from esen_lab.load import arrivals_s, drive_url, infer_request, row_of
from esen_lab.load.batches import Replies
from esen_lab.load.url import Request

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esen_lab"
OURS = "esen_lab"
PARTS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.4)
_ALONE = 200  # requests one after another
_START_S = 12.0  # of a server, roughly
_LONGER = 1.3  # a rate that is not held is given up after so many times its duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One server.

    Attributes:
        name: As in the table.
        setting: What it was told, in words.
        path: Where requests go.
        request: What is sent.
        answer: The ten numbers of an answer.
        start: Starts it; gives its address.
        versions: Of what serves.
    """

    name: str
    setting: str
    path: str
    request: Request
    answer: Callable[[bytes], Any]
    start: Callable[[], AbstractContextManager[str]]
    versions: Mapping[str, str]


def main() -> None:
    """Read the line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0, help="all of it takes about so long")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--p99", type=float, default=0.05, metavar="S", help="what 99 %% of answers are to be within")
    parser.add_argument(
        "--engines", action="store_true", help="ours with all backends; else everybody runs torch eager"
    )
    parser.add_argument("--only", default="", help="ways by name, separated by commas")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "load.md")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "serving.json")
    parser.add_argument("--table", action="store_true", help="write the page from what was measured before")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end with it
    words = reasons(HERE / "rival_reasons.txt")
    if given.table:
        write_page(Report.read(given.json), given.page, words)
        return
    with tempfile.TemporaryDirectory() as folder:
        report = measure(given, Path(folder))
    print(report.text(words))
    if not given.quick:
        given.json.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
        write_page(report, given.page, words)
        print(f"written: {given.json}, {given.page}")


def reasons(path: Path) -> dict[str, str]:
    """Why a way beats ours, by its name: lines of "way: words"."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {
        name.strip(): why.strip()
        for name, _, why in (line.partition(":") for line in lines if line.strip() and not line.startswith("#"))
    }


def measure(given: argparse.Namespace, folder: Path) -> Report:
    """Start every server in turns, and send it every rate."""
    began_s, load = time.monotonic(), os.getloadavg()[0]
    parts, rounds = ((0.3, 1.0), 1) if given.quick else (PARTS, given.rounds)
    base_per_s = alone_per_s()
    print(
        f"load average {load:.1f}; one after another, without a server: {base_per_s:.0f} requests a second", flush=True
    )
    ours, jct_s = our_way(given, folder, base_per_s)
    missing: dict[str, str] = {}
    ways = [ours, *rivals(folder, missing)]
    if given.only:
        ways = [way for way in ways if way.name in given.only.split(",")]
    left_s = given.minutes * 60 - (time.monotonic() - began_s)
    seconds = 3.0 if given.quick else (left_s / rounds / len(ways) - _START_S) / len(parts) / 1.15
    if seconds < 3.0:
        raise SystemExit(f"{given.minutes:g} minutes leave {seconds:.1f} s for each rate; 3 are the least")
    found: dict[tuple[str, float], list[Replies]] = defaultdict(list)
    late: dict[tuple[str, float], int] = defaultdict(int)
    alone: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            if way.name in missing:
                continue
            try:
                with way.start() as at:
                    alone[way.name].append(_warm(way, at))
                    for part in parts:
                        due_s = arrivals_s(part * base_per_s, seconds, seed=number)
                        sent = drive_url(at + way.path, way.request, due_s, give_up_s=_LONGER * seconds)
                        found[way.name, part] += sent[0]
                        late[way.name, part] += sent[1]
                        print(f"{way.name} at {part:g}: {len(due_s)} requests", flush=True)
            except EsenError as problem:
                for key in [key for key in found if key[0] == way.name]:
                    del found[key]
                missing[way.name] = f"it did not serve: {str(problem).splitlines()[0][:200]}"
                print(f"{way.name}: {problem}", flush=True)
    rows = [
        row_of(
            name,
            round(part * base_per_s, 1),
            answered,
            deadline_s=given.p99,
            duration_s=seconds * rounds,
            late=late[name, part],
        )
        for (name, part), answered in found.items()
    ]
    return Report(
        rows=tuple(rows),
        settings={way.name: way.setting for way in ways},
        versions={name: version for way in ways for name, version in way.versions.items()},
        missing=missing,
        alone_s={name: statistics.median(values) for name, values in alone.items()},
        jct_s=jct_s,
        base_per_s=base_per_s,
        p99_s=given.p99,
        seconds=seconds * rounds,
        machine=f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} logical CPUs",
        load=(load, os.getloadavg()[0]),
        date=time.strftime("%Y-%m-%d"),
    )


def alone_per_s() -> float:
    """Requests a second by the members one after another in this process, without a server; the best third."""
    model, x = Mean(), example()
    rounds = []
    for _ in range(9):
        began = time.perf_counter()
        for _ in range(50):
            model(x)
        rounds.append(50 / (time.perf_counter() - began))
    return statistics.median(sorted(rounds)[-3:])


def our_way(given: argparse.Namespace, folder: Path, base_per_s: float) -> tuple[Way, float]:
    """Ours: a plan for the rate, exported and served as for real; and the JCT of a request alone in its lanes."""
    with Lab(device="cpu", combine="mean") as lab:
        for name in SIZES:
            lab.register(name, member(name), example())
        lab.profile(budget_s=0.3, backends=None if given.engines else []).result(timeout=900)
        lab.search(rate_per_s=0.8 * base_per_s, p99_s=given.p99)
        print(lab.plan, flush=True)
        x, took_s = example(), []
        for _ in range(_ALONE):
            began = time.perf_counter()
            lab.run(x)
            took_s.append(time.perf_counter() - began)
        exported = lab.export(folder / "ensemble.py")
        lanes = "; ".join(", ".join(lane.members) for lane in lab.plan.lanes)
    command = [sys.executable, "-m", "esen_lab", "serve", str(exported.folder), "--name", NAME, "--trust"]
    command += ["--max-rows", str(BATCH), "--port", "{port}"]
    request = infer_request({"input": example().numpy()})
    path = f"/v2/models/{NAME}/infer"
    return (
        Way(
            name=OURS,
            setting=f"`esen-lab serve`; lanes: {lanes}; {'all backends' if given.engines else 'torch eager'}",
            path=path,
            request=request,
            answer=_last_bytes,
            start=lambda: serving(command, path, request),
            versions={"torch": torch.__version__},
        ),
        statistics.median(took_s),
    )


def rivals(folder: Path, missing: dict[str, str]) -> Iterator[Way]:
    """The others; those that cannot be had are named in `missing`."""
    yield from _tritons(folder, missing)
    python = CACHE / "rivals" / "bin" / "python"
    program = str(HERE / "rival_servers.py")
    known: dict[str, str] = {}
    if python.exists():
        told = subprocess.run([python, program, "versions"], capture_output=True, text=True, check=False, timeout=120)
        known = json.loads(told.stdout) if told.returncode == 0 else {}
    binary = infer_request({"x": example().numpy()})
    numbers = json.dumps({"x": example()[0].tolist()}).encode()
    in_json = Request(body=numbers, headers={"Content-Type": "application/json"})
    for kind, name, setting, path, request, answer in (
        ("fastapi", "FastAPI", "uvicorn, a thread for each request, no batching", "/", binary, _last_bytes),
        (
            "litserve",
            "LitServe",
            f"batches of {BATCH}, 5 ms; fast queue; JSON",
            "/predict",
            in_json,
            lambda body: numpy.array(json.loads(body)["y"], dtype=numpy.float32),
        ),
        ("ray", "Ray Serve", f"batches of {BATCH}, 5 ms; one replica", "/", binary, _last_bytes),
    ):
        package = KINDS[kind][0]
        if package not in known:
            missing[name] = "not installed: tools/rivals_env.sh makes its environment where it can be had"
        command = [str(python), program, kind, "{port}"]
        yield Way(
            name=name,
            setting=setting,
            path=path,
            request=request,
            answer=answer,
            start=lambda command=command, path=path, request=request: serving(command, path, request),  # type: ignore[misc]
            versions={key: known[key] for key in (package, "uvicorn") if key in known},
        )


def _tritons(folder: Path, missing: dict[str, str]) -> Iterator[Way]:
    server = CACHE / "triton" / "bin" / "tritonserver"
    request = infer_request({"INPUT": example().numpy()})
    path = f"/v2/models/{NAME}/infer"
    for name, batches in (("Triton", False), ("Triton, dynamic batching", True)):
        repository = folder / name.replace(", ", "_").replace(" ", "_")
        write_repository(repository, batches=batches, most_rows=BATCH)
        if not server.exists():
            missing[name] = "not installed: tools/triton_env.sh makes its environment where it can be had"
        command = [str(server), f"--model-repository={repository}", "--http-address=127.0.0.1", "--http-port={port}"]
        command += ["--allow-grpc=false", "--allow-metrics=false"]
        yield Way(
            name=name,
            setting=f"a model per member, Python backend, {'dynamic batching' if batches else 'defaults'}",
            path=path,
            request=request,
            answer=_last_bytes,
            start=lambda command=command: serving(command, path, request),  # type: ignore[misc]
            versions={"nvidia-pytriton": _pytriton(server)} if server.exists() else {},
        )


def _pytriton(server: Path) -> str:
    python = server.with_name("python")
    code = "from importlib.metadata import version; print(version('nvidia-pytriton'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip() or "?"


def _last_bytes(body: bytes) -> Any:
    return numpy.frombuffer(body[-40:], dtype=numpy.float32)


def _warm(way: Way, at: str) -> float:
    """Compare the answer, warm it up, and give the median of requests one after another, in seconds."""
    import http.client
    from urllib.parse import urlsplit

    parts = urlsplit(at)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    took_s = []
    try:
        for _ in range(2 * _ALONE):
            began = time.perf_counter()
            connection.request("POST", way.path, way.request.body, dict(way.request.headers))
            answer = connection.getresponse()
            body = answer.read()
            took_s.append(time.perf_counter() - began)
            if answer.status != 200:
                raise EsenError("A server answers", given=f"{answer.status}: {body[:200]!r}")
    except OSError as problem:
        raise EsenError("A server answers", given=str(problem)) from problem
    finally:
        connection.close()
    if not numpy.allclose(way.answer(body), Mean()(example()).numpy(), rtol=1e-4, atol=1e-5):
        raise EsenError("All servers answer alike", given=f"{way.answer(body)}")
    drive_url(at + way.path, way.request, arrivals_s(50, 1.0), give_up_s=3.0)  # several at once, for those that join
    return statistics.median(took_s[_ALONE:])


if __name__ == "__main__":
    main()
