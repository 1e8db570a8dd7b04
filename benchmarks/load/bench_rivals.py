#!/usr/bin/env python3
"""The same ensemble behind ours and behind what else people serve with, under the same seeded load.

    tools/triton_env.sh; tools/rivals_env.sh              what they need, in environments of their own
    python benchmarks/load/bench_rivals.py                ten minutes: benchmarks/results/serving.json, docs/load.md
    python benchmarks/load/bench_rivals.py --quick        a minute or two: shows that all of it works, writes nothing
    python benchmarks/load/bench_rivals.py --table        the page anew, of what the JSON file holds

Every server is a process of its own, and so is the generator. A server is sent nothing before its answers to requests
alone and joined are found equal to the networks' own. Requests have one row and come at random; they are joined to
batches of at most 16 where they are joined. Rates are parts of what one process answers by running the members one
after another without a server: that is the 1. Then the highest rate within the limit is looked for, in steps of 10 %.
Ways take turns, round by round; a round of a way is in the JSON file as soon as it is done, and what was cut short goes
on from there (`--fresh` begins anew). A rival with several sensible settings is tried at each first, and measured at
its best. Generator and server share the cores: read what stands side by side.

    load_models.py       the networks
    load_generator.py    the load, from a process of its own
    load_process.py      a server's life
    rival_ways.py        who is compared, and how each is asked and checked
    rival_servers.py     FastAPI, LitServe, Ray Serve
    rival_triton.py      a repository for Triton
    rival_page.py        tables
    rival_reasons.txt    why another way beats ours
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT)]  # this checkout's package, whichever is installed

import torch  # noqa: E402
from load_generator import as_json, load  # noqa: E402
from load_models import RIVALS, Mean, example  # noqa: E402
from measured_on import commit, processor, write_whole  # noqa: E402
from rival_page import cell, reasons, text_of, write_page  # noqa: E402
from rival_ways import NAMES, OURS, Setting, Way, calm, check, ours, rivals  # noqa: E402

from esen_lab.errors import EsenError  # noqa: E402
from esen_lab.load import LoadRow  # noqa: E402

PARTS = (0.25, 0.5, 1.0)
_PROBES = 4
_PROBE = 0.7  # one is so much shorter than a rate
STEP = 1.1
_START_S = 9.0  # of a server, with its checks, roughly
_LEAST_S = 2.0

Sender = Callable[[float, float, int], LoadRow]
"""Sends a load: its rate, its duration, its seed."""


def main(words: Sequence[str] | None = None) -> None:
    """Read the line, measure, write."""
    asked = _line(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end with it
    why = reasons(HERE / "rival_reasons.txt")
    if asked.table:
        write_page(json.loads(asked.json.read_text(encoding="utf-8")), asked.page, why)
        return
    try:
        with tempfile.TemporaryDirectory(prefix="esen_") as folder:
            found = measure(asked, Path(folder))
    except KeyboardInterrupt:
        raise SystemExit("cut short; the same command goes on from here") from None
    print(text_of(found, why))
    if asked.page:
        write_page(found, asked.page, why)
        print(f"written: {asked.json}, {asked.page}")


def _line(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="all of it takes about so long")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--p99", type=float, default=0.05, metavar="S", help="what 99 %% of answers are to be within")
    parser.add_argument("--engines", action="store_true", help="ours with all backends; else all run torch, eagerly")
    parser.add_argument("--only", default="", help=f"ways, separated by semicolons: {'; '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="writes nothing unless --json and --page say where")
    parser.add_argument("--fresh", action="store_true", help="forget what the JSON file holds")
    parser.add_argument("--page", type=Path, help="docs/load.md unless told otherwise")
    parser.add_argument("--json", type=Path, help="benchmarks/results/serving.json unless told otherwise")
    parser.add_argument("--table", action="store_true", help="write the page from what was measured before")
    asked = parser.parse_args(words)
    asked.only = [name.strip() for name in asked.only.split(";") if name.strip()] or list(NAMES)
    if unknown := set(asked.only) - set(NAMES):
        parser.error(f"there is no way {', '.join(sorted(unknown))}; there are {'; '.join(NAMES)}")
    if asked.rounds < 1 or not asked.minutes > 0 or not asked.p99 > 0:
        parser.error("rounds, minutes and the limit are above 0")
    if not asked.quick:
        asked.page = asked.page or ROOT / "docs" / "load.md"
        asked.json = asked.json or ROOT / "benchmarks" / "results" / "serving.json"
    return asked


def measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure what is not measured yet; written after each round of a way."""
    began_s = time.monotonic()
    found = _begun(asked)
    told, missing = found["asked"], found["missing"]
    jobs = [(number, name) for number in range(told["rounds"]) for name in asked.only[:: -1 if number % 2 else 1]]
    done = {(one["round"], one["name"]) for one in found["measured"]}
    left = [job for job in jobs if job not in done]
    if len(left) < len(jobs):
        print(f"{len(left)} of {len(jobs)} rounds are to be measured", flush=True)
    wanted = {name for _, name in left}
    ways = _ways(asked, found, folder, wanted)
    left = [job for job in left if job[1] in ways]
    if not told["seconds"]:
        trials = sum(len(way.settings) for way in ways.values() if len(way.settings) > 1)
        told["seconds"] = _seconds(asked.minutes, len(left), trials, time.monotonic() - began_s)
    print(f"{told['seconds']:.1f} s for each rate", flush=True)
    for name, way in ways.items():
        if len(way.settings) > 1 and name not in found["chosen"] and not asked.quick:
            _attempt(found, name, lambda way=way: _choose(way, found))  # type: ignore[misc]
            _write(asked.json, found)
    for number, name in left:
        if time.monotonic() - began_s > 78 * asked.minutes:
            print("the time is up; the same command goes on from here", flush=True)
            break
        if name not in missing:
            _attempt(found, name, lambda number=number, name=name: _round(ways[name], number, found, asked.quick))  # type: ignore[misc]
            _write(asked.json, found)
    return found


def _begun(asked: argparse.Namespace) -> dict[str, Any]:
    """What was measured before, or what all of it is to be measured by."""
    if asked.json and asked.json.exists() and not asked.fresh:
        found: dict[str, Any] = json.loads(asked.json.read_text(encoding="utf-8"))
        if found["asked"]["quick"] == asked.quick:
            found["missing"] = {name: why for name, why in found["missing"].items() if name not in asked.only}
            return found
    base_per_s = alone_per_s(2 if asked.quick else 6)
    load_now = os.getloadavg()[0]
    print(f"load average {load_now:.1f}; without a server: {base_per_s:.0f} requests a second", flush=True)
    return {
        "machine": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"Python": platform.python_version()},
        "asked": {
            "base_per_s": base_per_s,
            "parts": [0.3, 0.8] if asked.quick else list(PARTS),
            "rounds": 1 if asked.quick else asked.rounds,
            "probes": 1 if asked.quick else _PROBES,
            "alone": 64 if asked.quick else 300,
            "joined": 1 if asked.quick else 3,
            "seconds": 1.5 if asked.quick else None,
            "p99_s": asked.p99,
            "engines": asked.engines,
            "quick": asked.quick,
        },
        "jct_s": None,
        "batches_s": {},
        "missing": {},
        "chosen": {},
        "measured": [],
    }


def _ways(asked: argparse.Namespace, found: dict[str, Any], folder: Path, wanted: set[str]) -> dict[str, Way]:
    """Those that are wanted and can be had."""
    told, ways = found["asked"], {}
    if OURS in wanted:
        runs, base_per_s = told["alone"] // 2, told["base_per_s"]
        way, took_s = ours(folder, base_per_s=base_per_s, p99_s=told["p99_s"], engines=told["engines"], runs=runs)
        found["jct_s"] = statistics.median(took_s[1])
        found["batches_s"] = {str(rows): values for rows, values in took_s.items()}
        ways[OURS] = way
    if wanted - {OURS}:
        for one in rivals(folder):
            if isinstance(one, Way):
                ways[one.name] = one
            elif one[0] in wanted:
                found["missing"][one[0]] = one[1]
                print(f"{one[0]}: left out, {one[1]}", flush=True)
    return {name: ways[name] for name in asked.only if name in wanted and name in ways}


def _seconds(minutes: float, rounds: int, trials: int, spent_s: float) -> float:
    """How long each rate is sent, so that all of it takes what was asked for; a trial is two rates of half as long."""
    each = len(PARTS) + _PROBES * _PROBE
    seconds = (60 * minutes - spent_s - (rounds + trials) * _START_S) / (rounds * each + trials) / 1.1
    if seconds < _LEAST_S:
        raise SystemExit(f"{minutes:g} minutes leave {seconds:.1f} s for each rate; {_LEAST_S:g} are the least")
    return round(seconds, 1)


def _attempt(found: dict[str, Any], name: str, act: Callable[[], None]) -> None:
    """Do it; a server that does not serve is left out, and the others go on."""
    try:
        act()
    except (EsenError, RuntimeError, subprocess.SubprocessError) as problem:
        found["missing"][name] = f"it did not serve: {' '.join(str(problem).split())[:300]}"
        found["measured"] = [one for one in found["measured"] if one["name"] != name]
        print(f"{name}: {problem}", flush=True)


def _choose(way: Way, found: dict[str, Any]) -> None:
    """Try the settings of a rival, and keep the best: most in time, and where that is equal, the lowest latency."""
    told, tried = found["asked"], []
    for setting in way.settings:
        with setting.start() as at:
            alone_s, _ = check(way, at, alone=told["alone"] // 2, joined=told["joined"])
            send = _sender(way, at, alone_s, told)
            rows = [send(part * told["base_per_s"], 0.5 * told["seconds"], 7) for part in (0.5, 1.0)]
        in_time = sum(row.goodput_per_s for row in rows)
        tried.append({"setting": setting.words, "in_time_per_s": in_time, "p50_s": as_json(rows[0])["p50_s"]})
        print(f"{way.name}, tried {setting.words}: {in_time:.0f} a second in time", flush=True)
    most = max(one["in_time_per_s"] for one in tried)
    near = [one for one in tried if one["in_time_per_s"] >= 0.97 * most]
    best = min(near, key=lambda one: float("inf") if one["p50_s"] is None else one["p50_s"])
    found["chosen"][way.name] = {"setting": best["setting"], "tried": tried}


def _round(way: Way, number: int, found: dict[str, Any], quick: bool) -> None:
    """Measure one way once."""
    told, load_before, began_s = found["asked"], os.getloadavg()[0], time.monotonic()
    setting = _setting(way, found)
    with setting.start() as at:
        alone_s, difference = check(way, at, alone=told["alone"], joined=told["joined"])
        send = _sender(way, at, alone_s, told)
        send(0.5 * told["base_per_s"], 1.0, 99)  # several at once, for those that join
        rows = []
        for part in told["parts"]:
            rows.append(send(part * told["base_per_s"], told["seconds"], number))
            if math.isinf(rows[-1].p50_s):
                break  # half of it is never answered: of more there is nothing to learn
        held_per_s, probes = highest(
            lambda rate: send(rate, _PROBE * told["seconds"], 50 + number),
            rows,
            p99_s=told["p99_s"],
            probes=told["probes"],
        )
    row = rows[0]
    print(
        f"{way.name}, round {number + 1}: {cell(row)} in time a second at {row.rate_per_s:.0f}/s; "
        f"{f'{held_per_s:.0f}/s' if held_per_s else 'no rate'} within the limit "
        f"({time.monotonic() - began_s:.0f} s)",
        flush=True,
    )
    found["versions"].update(way.versions)
    found["measured"].append(
        {
            "name": way.name,
            "round": number,
            "setting": setting.words,
            "versions": dict(way.versions),
            "commit": commit(),
            "date": time.strftime("%Y-%m-%d"),
            "load": [round(load_before, 1), round(os.getloadavg()[0], 1)],
            "quick": quick,
            "alone_s": alone_s,
            "difference": difference,
            "rows": [as_json(one) for one in rows],
            "held_per_s": held_per_s,
            "probes": probes,
        }
    )


def _setting(way: Way, found: dict[str, Any]) -> Setting:
    words = found["chosen"].get(way.name, {}).get("setting")
    return next((one for one in way.settings if one.words == words), way.settings[0])


def _sender(way: Way, at: str, alone_s: float, told: dict[str, Any]) -> Sender:
    request = way.request(example())

    def send(rate_per_s: float, seconds: float, seed: int) -> LoadRow:
        calm(way, at, alone_s)
        return load(
            way.name,
            at + way.path,
            request,
            rate_per_s=round(rate_per_s, 1),
            seconds=seconds,
            seed=seed,
            p99_s=told["p99_s"],
        )

    return send


def highest(
    send: Callable[[float], LoadRow], rows: Sequence[LoadRow], *, p99_s: float, probes: int
) -> tuple[float, list[list[Any]]]:
    """The highest rate whose 99th percentile is within the limit, to 10 % where the probes suffice; 0.0 for none.

    Args:
        send: Sends a load of this rate.
        rows: What is known, by rate.
        p99_s: The limit.
        probes: How many loads may be sent.

    Returns:
        The rate, and every probe: its rate, and whether it was held.
    """
    ascending = sorted(rows, key=lambda row: row.rate_per_s)
    least, most = 0.0, float("inf")
    for row in ascending:
        if row.p99_s > p99_s:
            most = row.rate_per_s
            break
        least = row.rate_per_s
    sent: list[list[Any]] = []
    while len(sent) < probes and most > least * STEP:
        if most == float("inf"):
            rate = 2 * least
        elif not least:
            rate = most / 2
        else:
            rate = (least * most) ** 0.5
        held = send(rate).p99_s <= p99_s
        sent.append([round(rate, 1), held])
        least, most = (rate, most) if held else (least, rate)
    return round(least, 1), sent


def alone_per_s(rounds: int) -> float:
    """Requests a second by the members one after another in this process, at the better number of threads."""
    model, x, found = Mean(RIVALS), example(), []
    before = torch.get_num_threads()
    for threads in {1, before}:
        torch.set_num_threads(threads)
        took_s = []
        for _ in range(25 * rounds):
            began = time.perf_counter()
            model(x)
            took_s.append(time.perf_counter() - began)
        found.append(1 / statistics.median(took_s))
    torch.set_num_threads(before)
    return max(found)


def _write(path: Path | None, found: dict[str, Any]) -> None:
    if path is not None:
        write_whole(path, json.dumps(found, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
