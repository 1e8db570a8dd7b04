"""The servers that `bench_rivals.py` compares: how each is started, asked and understood, and that it answers right."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy
import torch
from load_models import RIVALS, Mean, example, member
from load_process import serving
from rival_servers import BATCH, KINDS, WAIT_S
from rival_triton import NAME, write_repository

from esen_lab import Lab
from esen_lab.errors import EsenError, InfeasibleError
from esen_lab.load import infer_request
from esen_lab.load.url import Request

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esen_lab"
OURS = "esen_lab"
NAMES = (OURS, "Triton", "Triton, tuned", "FastAPI", "LitServe", "Ray Serve")
_AT_ONCE = 2 * BATCH
_ALONE_S = _JOINED_S = 5.0
_CALM_S = 6.0
_RATES = (1.5, 0.8, 0.4, 0.2)
_SIZES = (1, 2, 4, 8, BATCH)
_WARM = 3  # runs of another size that do not count
_CLOSE = {"rtol": 1e-4, "atol": 1e-5}
_RAY = {  # on busy cores its parts take longer to start than it waits for
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to start a server.

    Attributes:
        words: What it is told, for people.
        start: Starts it; gives its address, and ends it.
    """

    words: str
    start: Callable[[], AbstractContextManager[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One server.

    Attributes:
        name: As in the table.
        path: Where requests go.
        request: What is sent for a row.
        answer: The ten numbers of an answer.
        versions: Of what serves.
        settings: How it may be started; the best is taken.
    """

    name: str
    path: str
    request: Callable[[torch.Tensor], Request]
    answer: Callable[[bytes], Any]
    versions: Mapping[str, str]
    settings: tuple[Setting, ...]


def ours(
    folder: Path, *, base_per_s: float, p99_s: float, engines: bool, runs: int
) -> tuple[Way, dict[int, list[float]]]:
    """Ours, a plan for a rate, exported and served as for real; and what its runs take without a server, by rows.

    Args:
        folder: What is exported goes here.
        base_per_s: The plan is for the largest part of it that a plan holds.
        p99_s: Within what 99 % of answers are to be.
        engines: Whether members may run by other backends than torch, eagerly.
        runs: How many of one row; a fourth of that of each larger batch.
    """
    with Lab(device="cpu", combine="mean", store=folder / "points.sqlite3") as lab:
        for name in RIVALS:
            lab.register(name, member(name), example())
        lab.profile(budget_s=0.3, backends=None if engines else []).result(timeout=900)
        planned = _planned(lab, base_per_s, p99_s)
        took_s = {rows: _runs_s(lab, rows, runs if rows == 1 else runs // 4) for rows in _SIZES}
        exported = lab.export(folder / "ours.py")
        lanes = " / ".join(", ".join(lane.members) for lane in lab.plan.lanes)
    command = [sys.executable, "-m", "esen_lab", "serve", str(exported.folder), "--name", NAME, "--trust"]
    command += ["--max-rows", str(BATCH), "--port", "{port}"]
    by = "all backends" if engines else "torch, eagerly"
    words = f"`esen-lab serve --max-rows {BATCH}`, {planned}; lanes: {lanes}; {by}"
    path = f"/v2/models/{NAME}/infer"
    way = Way(
        name=OURS,
        path=path,
        request=_binary("input"),
        answer=_last_bytes,
        versions={"torch": torch.__version__},
        settings=(Setting(words=words, start=lambda: serving(command, path, _binary("input")(example()))),),
    )
    return way, took_s


def _runs_s(lab: Lab, rows: int, times: int) -> list[float]:
    x, took_s = example(rows), []
    for _ in range(_WARM + times):
        began = time.perf_counter()
        lab.run(x)
        took_s.append(time.perf_counter() - began)
    return took_s[_WARM:]


def _planned(lab: Lab, base_per_s: float, p99_s: float) -> str:
    """Search; what the plan is for, in words."""
    for part in _RATES:
        with suppress(InfeasibleError):
            lab.search(rate_per_s=part * base_per_s, p99_s=p99_s)
            return f"a plan for {part * base_per_s:.0f}/s"
    lab.search()
    return "the plan for one request: none holds a rate"


def rivals(folder: Path) -> Iterator[Way | tuple[str, str]]:
    """The others; of one that cannot be had, its name and why."""
    yield from _tritons(folder)
    known = _pythons()
    program = str(HERE / "rival_servers.py")
    for kind, name, words, path, request, answer in (
        ("fastapi", "FastAPI", "uvicorn, no batching, as many at once as there are cores", "/", _binary("x"), None),
        ("litserve", "LitServe", f"batches of {BATCH}, {WAIT_S * 1e3:g} ms; fast queue; JSON", "/predict", _json, _y),
        ("ray", "Ray Serve", f"`@serve.batch`: {BATCH}, {WAIT_S * 1e3:g} ms", "/", _binary("x"), None),
    ):
        package = KINDS[kind][0]
        python, versions = next(((at, had) for at, had in known.items() if package in had), ("", {}))
        if not python:
            yield name, "not installed: tools/rivals_env.sh makes its environment where it can be had"
            continue
        settings = []
        for processes, threads in shares(len(os.sched_getaffinity(0)), pool=kind == "fastapi"):
            command = [python, program, kind, "{port}", str(processes), str(threads)]
            settings.append(
                Setting(
                    words=f"{words}; {_many(processes, 'process')}, {_many(threads, 'thread')} of torch each",
                    start=lambda command=command, path=path, request=request: serving(  # type: ignore[misc]
                        command, path, request(example()), **_RAY
                    ),
                )
            )
        yield Way(
            name=name,
            path=path,
            request=request,
            answer=answer or _last_bytes,
            versions={key: versions[key] for key in (package, "uvicorn", "torch") if key in versions},
            settings=tuple(settings),
        )


def shares(cores: int, *, pool: bool) -> tuple[tuple[int, int], ...]:
    """Processes and threads of torch in each that use all cores and no more; the first is good everywhere.

    Args:
        cores: How many there are.
        pool: Whether one process may also run several requests side by side.
    """
    found = [(cores, 1), (1, cores), *([(1, 1)] if pool else [])]
    return tuple(dict.fromkeys(found))


def check(way: Way, at: str, *, alone: int, joined: int) -> tuple[float, float]:
    """Ask a server for what is known, one request after another and many at once; nothing counts before.

    Args:
        way: Who is asked.
        at: Its address.
        alone: How many requests one after another, for five seconds at most: the first half warms it up.
        joined: How many times all rows at once, begun within five seconds.

    Returns:
        The median of one after another, in seconds, and the largest difference to the networks' own answers.

    Raises:
        EsenError: It does not answer, or not what the networks answer.
    """
    rows = [example(seed=seed) for seed in range(_AT_ONCE)]
    wanted = list(Mean(RIVALS)(torch.cat(rows)).numpy())
    took_s, difference = _one_after_another(way, at, rows, wanted, alone)
    until_s = time.monotonic() + _JOINED_S
    for number in range(joined):  # different rows at once: what is joined to a batch must come back to who sent it
        if number and time.monotonic() > until_s:
            break
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            found = list(threads.map(lambda row: _asked(way, at, row), rows))
        difference = max(difference, *(_same(way, one, known) for one, known in zip(found, wanted, strict=True)))
    return statistics.median(took_s[len(took_s) // 2 :]), difference


def calm(way: Way, at: str, alone_s: float) -> None:
    """Wait until a server is done with what nobody waits for any more: a load must not pay for the one before it."""
    until_s = time.monotonic() + _CALM_S
    while time.monotonic() < until_s:
        began = time.perf_counter()
        with suppress(EsenError):
            _asked(way, at, example())
            if time.perf_counter() - began < 3 * alone_s:
                return
        time.sleep(0.05)


def _one_after_another(
    way: Way, at: str, rows: list[torch.Tensor], wanted: list[Any], times: int
) -> tuple[list[float], float]:
    took_s, difference = [], 0.0
    connection = _connection(at)
    try:
        until_s = time.monotonic() + _ALONE_S
        for number in range(times):
            if number >= len(rows) and time.monotonic() > until_s:
                break
            request = way.request(rows[number % len(rows)])
            began = time.perf_counter()
            body = _post(connection, way.path, request)
            took_s.append(time.perf_counter() - began)
            difference = max(difference, _same(way, body, wanted[number % len(rows)]))
    finally:
        connection.close()
    return took_s, difference


def _same(way: Way, body: bytes, wanted: Any) -> float:
    found = way.answer(body)
    if found.shape != wanted.shape or not numpy.allclose(found, wanted, **_CLOSE):
        raise EsenError("All servers answer as the networks do", given=f"{found} for {wanted}")
    return float(abs(found - wanted).max())


def _asked(way: Way, at: str, row: torch.Tensor) -> bytes:
    connection = _connection(at)
    try:
        return _post(connection, way.path, way.request(row))
    finally:
        connection.close()


def _connection(at: str) -> http.client.HTTPConnection:
    parts = urlsplit(at)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)


def _post(connection: http.client.HTTPConnection, path: str, request: Request) -> bytes:
    try:
        connection.request("POST", path, request.body, dict(request.headers))
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as problem:
        raise EsenError("A server answers", given=f"{type(problem).__name__}: {problem}") from problem
    if answer.status != 200:
        raise EsenError("A server answers", given=f"{answer.status}: {body[:200]!r}")
    return body


def _tritons(folder: Path) -> Iterator[Way | tuple[str, str]]:
    server = CACHE / "triton" / "bin" / "tritonserver"
    path = f"/v2/models/{NAME}/infer"
    version = _pytriton(server) if server.exists() else ""
    for name, batches, counts in (("Triton", False, (0,)), ("Triton, tuned", True, (1, 0))):
        if not version:
            yield name, "not installed: tools/triton_env.sh makes its environment where it can be had"
            continue
        repository = Path(tempfile.mkdtemp(dir=folder))
        write_repository(repository, batches=batches, most_rows=BATCH)
        command = [str(server), f"--model-repository={repository}", "--http-address=127.0.0.1", "--http-port={port}"]
        command += ["--allow-grpc=false", "--allow-metrics=false", "--exit-timeout-secs=10"]
        command += ["--backend-config=python,shm-region-prefix-name={mark}"]
        words = f"a model per member, Python backend, {'dynamic batching' if batches else 'all at its defaults'}"
        yield Way(
            name=name,
            path=path,
            request=_binary("INPUT"),
            answer=_last_bytes,
            versions={"nvidia-pytriton": version},
            settings=tuple(
                Setting(
                    words=f"{words}, {_many(threads, 'thread')} of torch each" if threads else words,
                    start=lambda command=command, threads=threads: serving(  # type: ignore[misc]
                        command, path, _binary("INPUT")(example()), **_threads(threads)
                    ),
                )
                for threads in counts
            ),
        )


def _threads(number: int) -> dict[str, str]:
    """What tells torch so many threads; nothing for its default."""
    return {"OMP_NUM_THREADS": str(number)} if number else {}


def _pytriton(server: Path) -> str:
    code = "from importlib.metadata import version; print(version('nvidia-pytriton'))"
    words = [str(server.with_name("python")), "-c", code]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60).stdout.strip()


def _pythons() -> dict[str, Mapping[str, str]]:
    """Pythons that rivals may be had by, with the versions that each has: their own environment, then this one."""
    found: dict[str, Mapping[str, str]] = {}
    for python in (str(CACHE / "rivals" / "bin" / "python"), sys.executable):
        if Path(python).exists():
            words = [python, str(HERE / "rival_servers.py"), "versions"]
            told = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
            found[python] = json.loads(told.stdout) if told.returncode == 0 else {}
    return found


def _binary(name: str) -> Callable[[torch.Tensor], Request]:
    return lambda row: infer_request({name: row.numpy()})


def _json(row: torch.Tensor) -> Request:
    body = json.dumps({"x": row[0].tolist()}).encode()
    return Request(body=body, headers={"Content-Type": "application/json"})


def _y(body: bytes) -> Any:
    return numpy.array(json.loads(body)["y"], dtype=numpy.float32)


def _last_bytes(body: bytes) -> Any:
    return numpy.frombuffer(body[-40:], dtype=numpy.float32)


def _many(number: int, what: str) -> str:
    more = "es" if what.endswith("s") else "s"
    return f"{number} {what}{more if number != 1 else ''}"
