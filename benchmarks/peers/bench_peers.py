"""Plans against everything that people would use instead: `make bench-peers`.

    python benchmarks/peers/bench_peers.py [--ensembles vision,trees] [--batches 1,4] [--quick] [--fresh] [--minutes 60]
                                           [--json benchmarks/results/peers.json] [--page docs/benchmarks.md]
    python benchmarks/peers/bench_peers.py --table        figures and plots anew, of what the JSON file holds

A row is an ensemble at one batch. It is measured in a process of its own, and written to the JSON file as soon as it is
done; a run that was cut short goes on where it ended (`--fresh` begins anew), also on another machine: each row keeps
what it was measured on, and the page says it. On the page, the figures stand between
two marks, and the rest is written by hand. Where a plan is more than 3 % slower than the best alternative, the page
says so with the words that `reasons.txt` beside this file has for that row.

    peer_ensembles.py    the ensembles
    peer_rows.py         what is measured of one
    peer_ray.py          Ray actors
    peer_page.py         figures and plots
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]

from measured_on import write_whole  # noqa: E402
from peer_ensembles import ENSEMBLES, missing  # noqa: E402
from peer_page import MARKS, reasons, write_page  # noqa: E402
from peer_rows import PLAN, Row  # noqa: E402

BATCHES = (1, 4, 32)
QUICK_BATCHES = (4,)


def records(path: Path) -> list[Row]:
    """The rows of a JSON file, or none; each with what it was measured on."""
    if not path.exists():
        return []
    found: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return found


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """One row in a line."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_whole(path, f'{{"rows": [\n{lines}\n]}}\n')


def row_in_process(name: str, batch: int, *, quick: bool) -> Row:
    """One row, from a process that ends with it.

    Raises:
        SystemExit: It failed; what it said is on standard error.
    """
    words = [sys.executable, str(HERE / "peer_rows.py"), name, str(batch), "quick" if quick else "whole"]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name} at batch {batch} could not be measured (exit status {done.returncode}).")
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def run(asked: argparse.Namespace) -> list[Row]:
    """Measure what is not measured yet."""
    rows = [] if asked.fresh else records(asked.json)
    wanted = [(name, batch) for name in asked.ensembles for batch in asked.batches]
    done = {(row["ensemble"], row["batch"]) for row in rows if asked.quick or not row["quick"]}
    left = [one for one in wanted if one not in done and not missing(one[0])]
    for name in dict.fromkeys(name for name, _ in wanted if missing(name)):
        print(f"{name}: left out, since {missing(name)} is not installed (pip install 'esen_lab[bench]')", flush=True)
    if len(left) < len(wanted):
        print(f"{len(left)} of {len(wanted)} rows are to be measured", flush=True)
    began = time.monotonic()
    for number, (name, batch) in enumerate(left):
        if asked.minutes is not None and time.monotonic() - began > 60 * asked.minutes:
            print("the time is up; the same command goes on from here", flush=True)
            break
        told = f", {_minutes((time.monotonic() - began) / number * (len(left) - number))} left" if number else ""
        print(f"[{number + 1} of {len(left)}{told}] {name}, batch {batch} ...", end=" ", flush=True)
        row = row_in_process(name, batch, quick=asked.quick)
        rows = [one for one in rows if (one["ensemble"], one["batch"]) != (name, batch)] + [row]
        write_json(asked.json, sorted(rows, key=_place))
        print(f"{_told(row)}, in {_minutes(row['took_s'])}", flush=True)
    return sorted(rows, key=_place)


def _told(row: Row) -> str:
    found = row["compared"].get(PLAN)
    if found is None:
        return f"nothing to compare: {row['verdict']}"
    return f"the plan takes {found['ratio']:.2f} times the time of {found['against']}"


def _place(row: Row) -> tuple[int, int]:
    return list(ENSEMBLES).index(row["ensemble"]), row["batch"]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _names(text: str) -> list[str]:
    found = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in found if name not in ENSEMBLES]
    if unknown or not found:
        raise argparse.ArgumentTypeError(f"ensembles are {', '.join(ENSEMBLES)}; not {', '.join(unknown) or 'nothing'}")
    return found


def _batches(text: str) -> list[int]:
    found = [int(word) if word.strip().isdecimal() else 0 for word in text.split(",")]
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"batches are positive whole numbers, not {text!r}")
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="Plans against everything that people would use instead.")
    parser.add_argument("--ensembles", type=_names, default=list(ENSEMBLES), metavar="A,B", help=", ".join(ENSEMBLES))
    parser.add_argument("--batches", type=_batches, metavar="N,M", help="default: 1,4,32; quick: 4")
    parser.add_argument("--quick", action="store_true", help="few rounds: whether it works, not how fast it is")
    parser.add_argument("--fresh", action="store_true", help="forget what the JSON file holds, and begin anew")
    parser.add_argument("--resume", action="store_true", help="keep rows that are done: so it is without --fresh, too")
    parser.add_argument("--minutes", type=float, help="begin no row after so many minutes; run again to go on")
    parser.add_argument("--table", action="store_true", help="measure nothing: page and plots of what the file holds")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/peers.json, quick: in out/")
    parser.add_argument("--page", type=Path, help="default: docs/benchmarks.md, quick: in out/")
    asked = parser.parse_args(words)
    if asked.minutes is not None and not asked.minutes > 0:
        parser.error("--minutes takes a positive number")
    if asked.fresh and asked.resume:
        parser.error("--fresh forgets the rows that --resume keeps")
    asked.batches = asked.batches or list(QUICK_BATCHES if asked.quick else BATCHES)
    asked.json = asked.json or (ROOT / "out" if asked.quick else ROOT / "benchmarks" / "results") / "peers.json"
    asked.page = asked.page or (ROOT / "out" if asked.quick else ROOT / "docs") / "benchmarks.md"
    asked.page.parent.mkdir(parents=True, exist_ok=True)
    MARKS.around(asked.page)  # now, not after an hour
    rows = records(asked.json) if asked.table else run(asked)
    if not rows:
        raise SystemExit(f"{asked.json} holds no rows: run without --table first")
    write_page(rows, asked.page, reasons(HERE / "reasons.txt"))
    print(f"wrote {asked.json} and {asked.page}: {len(rows)} rows", file=sys.stderr)


if __name__ == "__main__":
    main()
