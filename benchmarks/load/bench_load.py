"""Latency and goodput under a load: a plan in this process, and servers behind HTTP, by the same seeded arrivals.

    python benchmarks/load/bench_load.py                                     the plan, sequential, unlimited; in process
    python benchmarks/load/bench_load.py --plain                             a server without batching, as by hand
    python benchmarks/load/bench_load.py --triton ENV/bin/tritonserver       the plan exported into a real Triton
    python benchmarks/load/bench_load.py --url http://127.0.0.1:8000/v2/models/NAME/infer --input INPUT

Generator and servers share the cores: read differences, not absolute times. The load of the machine is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from load_models import SIZES, example, member
from load_process import serving

from esen_lab import Lab
from esen_lab.load import LoadRow, LoadTable, arrivals_s, drive_url, infer_request, row_of
from esen_lab.load.url import Request


def main() -> None:
    """Read the line, measure, print."""
    asked = _line()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end with it
    rates = [float(rate) for rate in asked.rates.split(",")]
    print(f"load average {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} cores")
    with Lab(device="cpu") as lab:
        for name in SIZES:
            lab.register(name, member(name), example(asked.rows))
        lab.profile(budget_s=0.3, backends=[] if asked.eager else None).result(timeout=900)
        print(lab.search())
        rows: list[LoadRow] = []
        if not asked.url and not asked.plain and not asked.triton:
            table = lab.load_test(rates, p99_s=asked.p99, duration_s=asked.seconds)
            rows += table.rows
            print(table)
            for row in table.rows:
                if row.predicted_p99_s is not None:
                    print(
                        f"{row.name} {row.rate_per_s:g}/s: computed p99 is {row.predicted_p99_s / row.p99_s:.2f} of it"
                    )
        with tempfile.TemporaryDirectory() as folder:
            if asked.triton:
                made = lab.export(Path(folder) / "ensemble", form="triton")
                command = [str(made.folder / "start.sh"), "--allow-grpc=false", "--allow-metrics=false"]
                with serving([*command, "--http-port={port}"], "/v2/health/ready", TRITONSERVER=asked.triton) as at:
                    rows += _load("Triton, our lanes", f"{at}/v2/models/ensemble/infer", _binary("INPUT"), rates, asked)
            if asked.plain:
                program = [sys.executable, str(Path(__file__).parent / "load_servers.py"), "{port}"]
                with serving(program, "/") as at:
                    rows += _load("plain HTTP", at, _binary("x"), rates, asked)
        if asked.url:
            rows += _load("URL", asked.url, _binary(asked.input), rates, asked)
    table = LoadTable(rows=tuple(rows), deadline_s=asked.p99, duration_s=asked.seconds, most_rows=16)
    print(table)
    print(f"load average {os.getloadavg()[0]:.1f}")
    if asked.json:
        Path(asked.json).write_text(json.dumps(table.to_dict(), indent=1) + "\n")


def _line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="20,50,100")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--p99", type=float, default=0.1)
    parser.add_argument("--rows", type=int, default=1, help="of the example that the plan is searched for")
    parser.add_argument("--eager", action="store_true", help="no engines besides torch")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--triton", default="", help="a tritonserver")
    parser.add_argument("--url", default="")
    parser.add_argument("--input", default="INPUT", help="with --url: the name of the input")
    parser.add_argument("--json", default="", help="where to write the rows")
    return parser.parse_args()


def _binary(name: str) -> Request:
    return infer_request({name: example().numpy()})


def _load(name: str, url: str, request: Request, rates: list[float], asked: argparse.Namespace) -> Iterator[LoadRow]:
    drive_url(url, request, arrivals_s(10, 2))  # warm
    for rate in rates:
        found, late = drive_url(url, request, arrivals_s(rate, asked.seconds))
        row = row_of(name, rate, found, deadline_s=asked.p99, duration_s=asked.seconds, late=late)
        print(" ".join(row.cells), f"unanswered {row.unanswered}, late {row.late} of {row.requests}", flush=True)
        yield row


if __name__ == "__main__":
    main()
