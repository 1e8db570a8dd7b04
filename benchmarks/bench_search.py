"""How good and how fast every searcher is, on made-up ensembles and on recorded curves.

    python benchmarks/bench_search.py [--quick] [--json benchmarks/results/search.json] [--page docs/search.md]

Writes the figures as JSON, a page that explains them, and one SVG plot per question beside the page. Every ensemble is
a function of its seed, so runs differ in their times only.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from esen_lab.fitting import fit_points
from esen_lab.search import Allocation, allocate

HERE = Path(__file__).parent
RECORDED = HERE.parent / "tests" / "data" / "muxserve_a100_mps.csv"
OPTUNA_TRIALS = (100, 500, 2000)
SIZES = ((3, 16), (4, 16), (6, 16), (8, 16), (12, 16), (16, 16), (24, 16), (32, 16), (12, 100), (24, 100), (64, 132))
QUICK_SIZES = ((4, 16), (8, 16), (12, 16))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One searcher on one ensemble. Times in seconds.

    `reached_s` is when it had the plan it returned; `exact_reached_s` when the exact searcher had one as good.
    """

    ensemble: str
    n: int
    units: int
    searcher: str
    jct_s: float
    bound_s: float
    over_best: float
    proven: bool
    elapsed_s: float
    reached_s: float
    exact_reached_s: float | None
    evaluations: int


def made_up(n: int, units: int, seed: int) -> dict[str, list[float]]:
    """Latencies between 1 and 10 ms, knees from a quarter of the device up, 3 % noise: tables are not monotone."""
    random = np.random.default_rng([n, units, seed])
    shares = np.arange(1, units + 1)
    tables = {}
    for i in range(n):
        base_s = np.exp(random.uniform(np.log(1e-3), np.log(1e-2)))
        knee = random.uniform(max(1, units / 4), 1.5 * units)
        fixed = random.uniform(0.02, 0.4)
        table = base_s * (fixed + (1 - fixed) * np.maximum(1, knee / shares))
        tables[f"m{i}"] = (table * np.exp(random.normal(0, 0.03, units))).tolist()
    return tables


def recorded(n: int, seed: int) -> dict[str, list[float]]:
    """`n` of the recorded A100 curves, interpolated to each percent."""
    curves: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    with RECORDED.open(encoding="utf-8") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            key = (row["phase"], row["model"], row["n_gpus"], row["batch_size"], row["seq_len"])
            curves[key][int(row["share_pct"])] = float(row["latency_ms"]) / 1e3
    whole = [curve for _, curve in sorted(curves.items()) if len(curve) == 8]
    chosen = np.random.default_rng(seed).choice(len(whole), size=n, replace=False)
    return {f"m{k}": list(fit_points(f"m{k}", whole[i], 100).latency_s) for k, i in enumerate(chosen)}


def ensembles(quick: bool) -> Iterator[tuple[str, dict[str, list[float]], int]]:
    for n, units in QUICK_SIZES if quick else SIZES:
        for seed in range(1 if quick else 3):
            yield f"made up {n} x {units} #{seed}", made_up(n, units, seed), units
    for n in (4,) if quick else (4, 8, 12):
        for seed in range(1 if quick else 3):
            yield f"recorded {n} x 100 #{seed}", recorded(n, seed), 100


def searches(n: int, first: bool, quick: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield "exact", "exact", {"sequential_within": 0.0}
    yield "exact, fast answer only", "exact", {"sequential_within": 0.0, "proof": False}
    if not quick:
        yield "exact, one minute", "exact", {"sequential_within": 0.0, "time_limit_s": 60.0, "steps": 1500}
    for sampler in ("tpe", "nsga2", "cmaes"):
        for trials in OPTUNA_TRIALS[:1] if quick else OPTUNA_TRIALS if sampler == "tpe" else OPTUNA_TRIALS[1:2]:
            if trials * n <= (24_000 if first else 6_000):  # beyond, a study alone takes minutes
                yield (
                    f"optuna {sampler} {trials}",
                    "optuna",
                    {
                        "sampler": sampler,
                        "n_trials": trials,
                        "warm_start": False,
                    },
                )
    yield "random 2000", "random", {"n_trials": 2000}
    for rule in ("equal", "proportional", "knee", "sequential"):
        yield rule, rule, {}
    if n <= 8:
        yield "brute", "brute", {}


def measure(quick: bool) -> list[Row]:
    rows: list[Row] = []
    for name, tables, units in ensembles(quick):
        found: dict[str, Allocation] = {}
        for label, searcher, options in searches(len(tables), name.endswith("#0"), quick):
            found[label] = allocate(tables, units, searcher, **options)
        best_s = min(one.jct_s for one in found.values())
        bound_s = max(one.bound_s for label, one in found.items())
        for label, one in found.items():
            over_best = max(0.0, one.jct_s / best_s - 1)
            rows.append(
                Row(
                    ensemble=name,
                    n=len(tables),
                    units=units,
                    searcher=label,
                    jct_s=one.jct_s,
                    bound_s=bound_s,
                    over_best=over_best,
                    proven=one.proven,
                    elapsed_s=one.elapsed_s,
                    reached_s=one.trace[-1][0],
                    exact_reached_s=next((t for t, s in found["exact"].trace if s <= one.jct_s * (1 + 1e-9)), None),
                    evaluations=one.evaluations,
                )
            )
        told = "  ".join(f"{row.searcher} +{100 * row.over_best:.1f} %" for row in rows[-len(found) :])
        print(f"{name:24} {told}", flush=True)
    return rows


def times_sooner(rows: list[Row], searcher: str) -> list[float]:
    """For each ensemble, how many times sooner the exact searcher had a plan as good as the one `searcher` returned."""
    return [
        row.reached_s / row.exact_reached_s
        for row in rows
        if row.searcher == searcher and row.exact_reached_s is not None
    ]


def one_lane_each_s() -> float:
    """Median seconds for the exact shares of 8 sub-models on 16 units, one lane each."""
    tables = made_up(8, 16, 0)
    times = []
    for _ in range(50):
        begun_s = time.perf_counter()
        allocate(tables, 16, limits={"one_each": True})
        times.append(time.perf_counter() - begun_s)
    return statistics.median(times)


def summary(rows: list[Row]) -> dict[str, Any]:
    by_searcher: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_searcher[row.searcher].append(row)
    exact = by_searcher["exact"]
    small = [r for r in exact if r.n <= 12]
    large = [r for r in exact if r.n > 12]
    speed_ups = {
        label: statistics.median(times_sooner(rows, label)) for label in by_searcher if label.startswith("optuna")
    }
    return {
        "searchers": {
            label: {
                "mean_over_best": statistics.fmean(r.over_best for r in mine),
                "worst_over_best": max(r.over_best for r in mine),
                "median_elapsed_s": statistics.median(r.elapsed_s for r in mine),
                "longest_s": max(r.elapsed_s for r in mine),
                "proven": sum(r.proven for r in mine),
                "ensembles": len(mine),
            }
            for label, mine in by_searcher.items()
        },
        "exact_worst_over_best_up_to_12": max((r.over_best for r in small), default=None),
        "exact_worst_over_best_beyond_12": max((r.over_best for r in large), default=None),
        "exact_proven_up_to_12": f"{sum(r.proven for r in small)} of {len(small)}",
        "exact_times_sooner_than": speed_ups,
        "one_lane_each_8x16_s": one_lane_each_s(),
    }


def bars(title: str, unit: str, values: dict[str, float]) -> str:
    """A horizontal bar chart as SVG, on a logarithmic axis that begins at a thousandth of the largest value."""
    width, left, line = 760, 210, 24
    most = max(values.values()) or 1.0
    height = 50 + line * len(values)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        '     font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="24" font-size="15">{title}</text>',
    ]
    for k, (label, value) in enumerate(values.items()):
        y = 42 + line * k
        bar = (width - left - 110) * max(0.0, 1 + np.log10(max(value, most / 1000) / most) / 3)
        color = "#1f77b4" if label.startswith("exact") else "#999999"
        parts += [
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{label}</text>',
            f'<rect x="{left}" y="{y}" width="{bar:.1f}" height="{line - 7}" fill="{color}"/>',
            f'<text x="{left + bar + 6:.1f}" y="{y + 13}">{value:.3g} {unit}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def page(report: dict[str, Any], folder: Path) -> str:
    searchers = report["summary"]["searchers"]
    (folder / "search_quality.svg").write_text(
        bars("Mean JCT above the best known", "%", {k: 100 * v["mean_over_best"] for k, v in searchers.items()}),
        encoding="utf-8",
    )
    (folder / "search_time.svg").write_text(
        bars("Median search time", "ms", {k: 1e3 * v["median_elapsed_s"] for k, v in searchers.items()}),
        encoding="utf-8",
    )
    lines = [
        "| searcher | mean above best known | worst | median time | longest | proven optimal |",
        "|---|---|---|---|---|---|",
    ]
    for label, v in searchers.items():
        lines.append(
            f"| {label} | {100 * v['mean_over_best']:.2f} % | {100 * v['worst_over_best']:.2f} % | "
            f"{1e3 * v['median_elapsed_s']:.1f} ms | {v['longest_s']:.2f} s | {v['proven']} of {v['ensembles']} |"
        )
    s = report["summary"]

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f} %"

    sooner = ", ".join(f"{label} {ratio:.0f} x" for label, ratio in s["exact_times_sooner_than"].items())
    table = "\n".join(lines)
    return f"""# Searchers compared

Made by `python benchmarks/bench_search.py` on {report["machine"]}, {report["python"]}. {report["ensembles"]} ensembles:
made-up ones of 3 to 64 sub-models on 16, 100 and 132 units, and recorded A100 curves (see
`tests/data/muxserve_a100_mps.csv`). "Best known" is the best plan that any searcher found for an ensemble. Optuna runs
without a warm start, and its trials choose lanes only: the shares are solved exactly for it too.

{table}

![mean JCT above the best known](search_quality.svg)

![median search time](search_time.svg)

- Exact, in its default 2 s, up to 12 sub-models: at most {percent(s["exact_worst_over_best_up_to_12"])} above the best
  known; {s["exact_proven_up_to_12"]} proven to be optimal.
- Exact beyond 12 sub-models: at most {percent(s["exact_worst_over_best_beyond_12"])} above the best known.
- How many times sooner exact had a plan as good as Optuna's best than Optuna itself (median over the ensembles):
  {sooner}.
- Exact shares of 8 sub-models on 16 units, one lane each: {1e3 * s["one_lane_each_8x16_s"]:.2f} ms.

Every row: `{report["json"]}`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the searchers.")
    parser.add_argument("--quick", action="store_true", help="a few small ensembles, seconds instead of many minutes")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "search.json")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "search.md")
    asked = parser.parse_args()
    rows = measure(asked.quick)
    report = {
        "machine": f"{platform.machine()}, {platform.system()}",
        "python": f"Python {platform.python_version()}, numpy {np.__version__}",
        "ensembles": len({row.ensemble for row in rows}),
        "json": "benchmarks/results/" + asked.json.name,
        "summary": summary(rows),
        "rows": [asdict(row) for row in rows],
    }
    for path in (asked.json, asked.page):
        path.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    asked.page.write_text(page(report, asked.page.parent), encoding="utf-8")
    print(f"wrote {asked.json} and {asked.page}")


if __name__ == "__main__":
    main()
