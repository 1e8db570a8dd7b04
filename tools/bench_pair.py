"""Another revision against this checkout, in pairs: `make bench-pair BASE=REV` says what became slower.

    python tools/bench_pair.py REV [--pairs 12] [--most 3] [--verbs] [--json FILE]

What users wait for is measured through names that both have: loading the extension, a run on warm lanes, a search, a
slider, a plan that is put in force; with --verbs, every verb from Enter to the answer. A pair is one process with each,
and they take turns to come first, so that what else the machine does meets both alike. Told are medians of both and of
the ratios of the pairs, with their quartiles. A ratio whose lower quartile is above 1 + MOST % is called slower, and
makes the exit status 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_verbs import verb_times
from house import ROOT, checkout_of

LIMIT_S = 600
RUNS, MOVES, SEARCHES, SWAPS = 300, 100, 10, 3


def median_s(act: Callable[[], object], repeats: int) -> float:
    """The median of how long it takes, in seconds; two more come first, to warm up."""
    taken = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[2:])


def measured() -> dict[str, float]:
    """Seconds of each thing that users wait for, with the package that is on the path."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    began = time.perf_counter()
    shell.extension_manager.load_extension("esen_lab")
    found = {"%load_ext": time.perf_counter() - began}
    import torch

    from esen_lab import Lab

    x = torch.ones(24, 64)
    with Lab("cpu") as lab:
        for name, width in (("a", 64), ("b", 128), ("c", 256)):
            layers = torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 8)
            lab.register(name, torch.nn.Sequential(*layers), x)
        lab.profile(budget_s=0.2).result(timeout=LIMIT_S)
        found["search"] = median_s(lab.search, SEARCHES)
        found["run"] = median_s(lambda: lab.run(x), RUNS)
        editor = lab.tune()
        editor.oversubscribe()  # so that any share of any lane has room
        turns = itertools.count()
        found["slider"] = median_s(lambda: editor.share({"a": 1 + next(turns) % lab.device.units}), MOVES)
        plans = itertools.cycle([editor.share({"a": units}) and editor.plan() for units in (1, lab.device.units)])
        found["apply"] = median_s(lambda: lab.apply(next(plans)), SWAPS)
    shell.extension_manager.unload_extension("esen_lab")
    return found


KINDS: dict[str, Callable[[], dict[str, float]]] = {"waits": measured, "verbs": verb_times}


def in_child(checkout: Path, kind: str) -> dict[str, float]:
    """What `KINDS` measures, in a process of its own, with the package of a checkout and nothing kept from before."""
    with tempfile.TemporaryDirectory() as home:
        folders = {name: str(Path(home) / name.lower()) for name in ("ESEN_LAB_HOME", "ESEN_LAB_LOCKS", "IPYTHONDIR")}
        ran = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), "--child", kind],
            cwd=home,
            env={**os.environ, **folders, "PYTHONPATH": str(checkout)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=LIMIT_S,
        )
    figures: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def compared(before: list[dict[str, float]], after: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """By what both have: medians in seconds, and the quartiles of after / before over the pairs."""
    rows = {}
    for name in (name for name in before[0] if all(name in figures for figures in before + after)):
        pairs = [(one[name], other[name]) for one, other in zip(before, after, strict=True)]
        low, middle, high = statistics.quantiles([new / old for old, new in pairs], n=4, method="inclusive")
        old_s, new_s = (statistics.median(side) for side in zip(*pairs, strict=True))
        rows[name] = {"before_s": old_s, "after_s": new_s, "low": low, "ratio": middle, "high": high}
    return rows


def table(rows: dict[str, dict[str, float]], most: float) -> str:
    """The comparison as a Markdown table."""
    lines = ["| | before (ms) | after (ms) | after / before | quartiles | |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        verdict = "slower" if row["low"] > 1 + most else ""
        lines.append(
            f"| {name} | {1e3 * row['before_s']:.3g} | {1e3 * row['after_s']:.3g} | {row['ratio']:.3f} "
            f"| {row['low']:.3f} to {row['high']:.3f} | {verdict} |"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit status."""
    if arguments[:1] == ["--child"]:
        print(f"\n{json.dumps(KINDS[arguments[1]]())}")
        return 0
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("base", metavar="REV", help="the revision before")
    words.add_argument("--pairs", type=int, default=12, help="at least 2")
    words.add_argument("--most", type=float, default=3.0, metavar="PERCENT", help="what counts as slower")
    words.add_argument("--verbs", action="store_true", help="measure every verb, from Enter to the answer")
    words.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    given: Any = words.parse_args(arguments)
    if given.pairs < 2:
        words.error("--pairs takes 2 or more")
    figures: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    with tempfile.TemporaryDirectory() as folder:
        sides = {"before": checkout_of(given.base, Path(folder)), "after": ROOT}
        for number in range(given.pairs):
            for side in sorted(sides, reverse=bool(number % 2)):
                figures[side].append(in_child(sides[side], "verbs" if given.verbs else "waits"))
            print(f"pair {number + 1} of {given.pairs}", file=sys.stderr, flush=True)
            if given.json:  # a run that is ended has what it measured
                given.json.write_text(json.dumps({"base": given.base, **figures}, indent=1) + "\n", encoding="utf-8")
    rows = compared(figures["before"], figures["after"])
    print(table(rows, given.most / 100))
    if given.json:
        given.json.write_text(
            json.dumps({"base": given.base, "rows": rows, **figures}, indent=1) + "\n", encoding="utf-8"
        )
    return int(any(row["low"] > 1 + given.most / 100 for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
