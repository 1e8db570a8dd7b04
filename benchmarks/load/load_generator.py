"""Sends one load to a server, from a process that does nothing else: JSON on standard input, a row on standard output.

    python load_generator.py < order.json

No torch is loaded here, and no thread spins: what it takes of the cores is the same for every server.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from esen_lab.files.schemas import plain
from esen_lab.load import LoadRow, arrivals_s, drive_url, row_of
from esen_lab.load.url import Request

CONNECTIONS = 128
"""As many as are open at once: more than a server that answers within the limit at any rate here can keep waiting."""
_LONGER = 1.3  # a rate that is not held is given up after so many times its duration
_TIMEOUT_S = 3.0


def load(
    name: str, url: str, request: Request, *, rate_per_s: float, seconds: float, seed: int, p99_s: float
) -> LoadRow:
    """What a load comes to, sent from a process of its own.

    Args:
        name: Who answers.
        url: Where it is sent to.
        request: What is sent.
        rate_per_s: How many a second.
        seconds: For how long.
        seed: Of the times at which they are due.
        p99_s: Within what one is in time.

    Raises:
        RuntimeError: The generator failed; with the end of what it said.
    """
    order = {
        "name": name,
        "url": url,
        "body": base64.b64encode(request.body).decode(),
        "headers": dict(request.headers),
        "rate_per_s": rate_per_s,
        "seconds": seconds,
        "seed": seed,
        "p99_s": p99_s,
    }
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(order),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + 3 * seconds,
        start_new_session=True,  # Ctrl-C is this process's: it ends the generator
    )
    if done.returncode:
        raise RuntimeError(f"no load could be sent to {url}: {done.stderr[-500:]}")
    return LoadRow(**finite(json.loads(done.stdout)))


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it was before it became JSON, where a percentile that was never reached is None."""
    never = ("p50_s", "p90_s", "p95_s", "p99_s")
    return {key: float("inf") if value is None and key in never else value for key, value in row.items()}


def as_json(row: LoadRow) -> dict[str, Any]:
    """Plain data of a row; None for a percentile that was never reached."""
    return {key: None if value == float("inf") else value for key, value in plain(row).items()}


def main() -> None:
    """Do what the order says."""
    order = json.load(sys.stdin)
    request = Request(body=base64.b64decode(order["body"]), headers=order["headers"])
    found, late = drive_url(
        order["url"],
        request,
        arrivals_s(order["rate_per_s"], order["seconds"], seed=order["seed"]),
        connections=CONNECTIONS,
        timeout_s=_TIMEOUT_S,
        give_up_s=_LONGER * order["seconds"],
    )
    row = row_of(
        order["name"], order["rate_per_s"], found, deadline_s=order["p99_s"], duration_s=order["seconds"], late=late
    )
    print(json.dumps(as_json(row)))


if __name__ == "__main__":
    main()
