"""From Enter to the answer: how long each verb of `%esen` takes in a session, for `bench_pair.py --verbs`."""

from __future__ import annotations

import statistics
import time
from typing import Any

PREPARE = """import torch
from torch import nn
%load_ext esen_lab
torch.manual_seed(0)
x, labels = torch.randn(48, 64), torch.arange(48) % 8
slim, middle, wide = (nn.Sequential(nn.Linear(64, w), nn.ReLU(), nn.Linear(w, 8)) for w in (64, 256, 1024))"""
# As a session goes: what a verb needs came before. "{n}" is another number each time.
LINES = (
    "register slim --example x",
    "register middle",
    "register wide",
    "combine mean",
    "list",
    "status",
    "help",
    "device",
    "profile --budget 50ms --backends eager --wait",
    "measurements",
    "fit",
    "search --wait",
    "plan",
    "show plan",
    "tune",
    "share slim=1",
    "tune undo",
    "run x",
    "run x --deadline 10s",
    "show report",
    "numerics",
    "compare x --rounds 5 --strategies sequential",
    "show comparison",
    "members x labels",
    "cascade x labels",
    "best --within 1s --on x,labels",
    "place 2",
    "history",
    "save plan{n}.json",
    "load plan{n}.json",
    "record latencies{n}.json",
    "export plan{n}.py",
    "watch",
    "watch --stop",
    "close",
)
ROUNDS = 2


def verb_times() -> dict[str, float]:
    """Seconds that each line takes until its answer is shown: the median of the rounds of a session but the first.

    A line that is refused, as an older version refuses verbs that it does not have, is left out.
    """
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    _ran(shell, PREPARE)
    taken: dict[str, list[float]] = {}
    refused: set[str] = set()
    for number in range(ROUNDS + 1):
        for line in LINES:
            began = time.perf_counter()
            if _ran(shell, f"%esen {line.format(n=number)}"):
                taken.setdefault(line.format(n=""), []).append(time.perf_counter() - began)
            else:
                refused.add(line.format(n=""))
    _ran(shell, "%unload_ext esen_lab")
    # The first round brings what is imported on first use, and measures.
    return {line: statistics.median(times[1:]) for line, times in taken.items() if line not in refused}


def _ran(shell: Any, cell: str) -> bool:
    return bool(shell.run_cell(cell, store_history=False).success)
