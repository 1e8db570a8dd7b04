"""One row of `make bench-peers`: an ensemble at one batch, by plans and by everything that people would use instead."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from measured_on import commit, processor, versions
from peer_ensembles import ensemble
from peer_ray import ACTORS, CALLED, ray_actors

from esen_lab import Lab
from esen_lab.common.statistics import median_interval, quantile, spread
from esen_lab.common.units import BACKENDS
from esen_lab.lanes.backends import why_not
from esen_lab.planner.plan import Plan
from esen_lab.run import PEERS, STRATEGIES, Comparison

Row = dict[str, Any]

PLAN, EAGER, BF16 = "plan", "plan, eager alone", "plan, bf16 allowed"
"""The plans of a row: with all backends, with eager alone, and with bfloat16 where that is faster."""
OURS = (EAGER, PLAN, BF16)
_ROUNDS = 2  # of a refinement, whose plans with all networks at once are run besides
IN_BF16 = "openvino-async@bf16"
PACKAGES = ("esen-lab", "torch", "numpy", "openvino", "onnxruntime", "transformers", "scikit-learn", "ray")


def measured(name: str, batch: int, *, quick: bool) -> Row:
    """Measure one row.

    Args:
        name: The ensemble.
        batch: Its batch.
        quick: Few rounds, little profiling, no bfloat16 and no torch.compile, which takes longest: whether everything
            works, not how fast it is.
    """
    networks, x = ensemble(name, batch)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Lab(device="cpu", store=Path(folder) / "profiles.sqlite3") as lab:
        for key, network in networks.items():
            lab.register(key, network, example=x)
        lab.profile(budget_s=0.2 if quick else 1.0).result(timeout=3600)
        plans = _plans(lab, budget_s=0.1 if quick else 0.5, whole=not quick)
        prepared_s = time.monotonic() - began
        peers = [name for name in PEERS if not (quick and name == "inductor")]
        strategies = [*STRATEGIES, *peers, *([IN_BF16] if BF16 in plans else [])]
        with ray_actors(lab.ensemble, networks) as ways:
            lab.plan = plans.pop(PLAN)
            found = lab.compare(
                x,
                rounds=6 if quick else 40,
                strategies=strategies,
                plans=plans,
                ways=ways,
                budget_s=20.0 if quick else 240.0,
            )
        lab.run(x)
        report = lab.report
        assert report is not None
        spans = {span.name: [span.start_s, span.end_s, span.predicted_s] for span in report.spans}
    return {
        "ensemble": name,
        "batch": batch,
        "members": list(networks),
        "quick": quick,
        "commit": commit(),
        "on": about(),
        "prepared_s": round(prepared_s, 1),
        "took_s": round(time.monotonic() - began, 1),
        "rounds": found.rounds,
        "predicted_s": found.predicted_s,
        "bound_s": found.bound_s,
        "verdict": found.verdict,
        "last_run": {"jct_s": report.jct_s, "overhead_s": report.overhead_s, "spans": spans},
        "strategies": {row.strategy: _strategy(row) for row in found.rows},
        **_against(found),
    }


def _plans(lab: Lab, *, budget_s: float, whole: bool) -> dict[str, Plan]:
    """The plans to compare, each searched with what sub-models may be executed by, and refined by a few runs."""
    here = [name for name in BACKENDS if not why_not(name) and (whole or name != "inductor")]
    in_bf16 = [f"{name}@bf16" for name in ("eager", "openvino") if not why_not(f"{name}@bf16")]
    allowed = {EAGER: ["eager"], PLAN: here} | ({BF16: [*here, *in_bf16]} if whole else {})
    found = {}
    lab.search()
    for name, backends in allowed.items():
        lab.lanes.choose_backends(backends=backends, budget_s=budget_s)
        lab.search()
        found[name] = lab.studies.refine(rounds=_ROUNDS, runs=5 if whole else 2).plan
    return found


def _strategy(row: Any) -> dict[str, Any]:
    times_s = list(row.times_s)
    return {
        "median_s": statistics.median(times_s) if times_s else None,
        "p99_s": quantile(times_s, 0.99) if times_s else None,
        "spread_s": spread(times_s) if times_s else None,
        "lanes": row.lanes,
        "setting": CALLED.format(about()["versions"]["ray"]) if row.strategy == ACTORS else row.setting,
        "fallen_back": dict(row.fallen_back),
        "outputs": f"{row.outputs}: {row.failed}" if row.failed else row.outputs,
        "agrees": row.agrees,
        "applicable": row.applicable,
        "times_s": [round(jct_s, 7) for jct_s in times_s],
    }


def _against(found: Comparison) -> dict[str, Any]:
    """For each plan, how it compares with the best alternative of its precision, paired by rounds."""
    times = {row.strategy: row.times_s for row in found.rows if row.agrees and row.times_s}
    others = [name for name in times if name not in OURS]
    compared = {}
    for ours in OURS:
        rivals = [name for name in others if ours == BF16 or "@bf16" not in name]
        if ours in times and rivals:
            best = min(rivals, key=lambda name: statistics.median(times[name]))
            compared[ours] = {"against": best, **paired(times[ours], times[best])}
            compared[ours]["sequential"] = paired(times[ours], times["sequential"])
    return {"compared": compared}


def paired(ours_s: Sequence[float], theirs_s: Sequence[float]) -> dict[str, Any]:
    """The median of ours / theirs over rounds, with its 95 % interval; None for what too few rounds do not tell."""
    ratios = [a / b for a, b in zip(ours_s, theirs_s, strict=True)]
    low, high = median_interval(ratios)
    known = low > 0
    return {"ratio": statistics.median(ratios), "low": low if known else None, "high": high if known else None}


def about() -> dict[str, Any]:
    """The machine and the versions."""
    return {"machine": processor(), "cores": len(os.sched_getaffinity(0)), "versions": versions(PACKAGES)}


def main() -> None:
    """Measure one row, in a process of its own, and print it as the last line: what one leaves disturbs no other."""
    name, batch, quick = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "quick"
    row: Mapping[str, Any] = measured(name, batch, quick=quick)
    print(json.dumps(row, allow_nan=False), flush=True)


if __name__ == "__main__":
    main()
