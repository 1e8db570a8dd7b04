"""How good and how fast every searcher is, on made-up ensembles and on recorded curves: `make bench-search`.

    python benchmarks/bench_search.py [--quick] [--fresh] [--minutes 30] [--json benchmarks/results/search.json]
                                      [--page docs/search.md]

Every search is one record of the JSON file, written as soon as it is done; a run that was cut short, or was given so
many minutes only, goes on where the last one ended. The page gets the figures between two marks, the rest of it is
written by hand; plots are SVG, drawn here. Every ensemble is a function of its seed, so runs differ in times only.

    searcher    what was asked, with its options       over_best    JCT / best JCT any searcher found - 1
    reached     when it had the plan it returned       over_bound   JCT / largest proven bound - 1
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "doubles"))

import measured_on
from latencies import make_latencies, recorded_curves
from marked_page import Marks

from esen_lab.cost_model import fit_points
from esen_lab.planner import allocate

HERE = Path(__file__).parent
ROOT = HERE.parent
OPTUNA_TRIALS = (100, 500, 2000)
SIZES = (
    *((3, 16), (4, 16), (6, 16), (8, 16), (12, 16), (16, 16), (24, 16), (32, 16)),
    *((12, 100), (24, 100), (6, 132), (16, 132), (64, 132)),
)
QUICK_SIZES = ((4, 16), (8, 16))
PACKAGES = ("esen-lab", "numpy", "optuna", "cmaes", "scipy")
MARKS = Marks(name="figures", title="Searchers compared")
EXACT = "exact"

Tables = dict[str, list[float]]
Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One search to be done: a searcher on an ensemble."""

    ensemble: str
    tables: Tables
    units: int
    label: str
    searcher: str
    options: Mapping[str, Any]


# --- ensembles ----------------------------------------------------------------------------------------------------


def made_up(n: int, units: int, seed: int) -> Tables:
    """Latencies with 3 % noise: tables are not monotone."""
    return make_latencies(n, units, [n, units, seed], noise=0.03)


def recorded(n: int, seed: int) -> Tables:
    """`n` of the recorded A100 curves, interpolated to each percent, in seconds."""
    whole = [curve for _, curve in sorted(recorded_curves().items())]
    chosen = np.random.default_rng(seed).choice(len(whole), size=n, replace=False)
    return {f"m{k}": list(fit_points(f"m{k}", whole[i], 100).latency_s) for k, i in enumerate(chosen)}


def ensembles(quick: bool) -> Iterator[tuple[str, Tables, int]]:
    """(name, tables, units); the name ends with the seed."""
    seeds = range(1 if quick else 3)
    for n, units in QUICK_SIZES if quick else SIZES:
        for seed in seeds:
            yield f"made up {n} x {units} #{seed}", made_up(n, units, seed), units
    for n in (4,) if quick else (4, 8, 12):
        for seed in seeds:
            yield f"recorded {n} x 100 #{seed}", recorded(n, seed), 100


# --- searches -----------------------------------------------------------------------------------------------------


def searches(n: int, first: bool, quick: bool) -> Iterator[tuple[int, str, str, dict[str, Any]]]:
    """(turn, label, searcher, options): what is asked of an ensemble of `n`; later turns are the long ones."""
    plain = {"sequential_within": 0.0}
    yield 0, EXACT, "exact", plain
    yield 0, "exact, fast answer only", "exact", {**plain, "proof": False}
    if not quick:
        yield 0, "exact, one minute", "exact", {**plain, "time_limit_s": 60.0}
    for baseline in ("equal", "sequential"):
        yield 0, baseline, baseline, {}
    for trials in OPTUNA_TRIALS[:1] if quick else OPTUNA_TRIALS:
        work = trials * n
        if first or work <= 6_000:
            turn = 1 if work <= 6_000 else 2 if work <= 24_000 else 3
            yield turn, f"optuna tpe {trials}", "optuna", _optuna("tpe", trials)
    if not quick:
        for sampler in ("nsga2", "cmaes"):
            if first or 500 * n <= 6_000:
                yield 1, f"optuna {sampler} 500", "optuna", _optuna(sampler, 500)
        if first and n <= 8:
            yield 3, "optuna gp 100", "optuna", _optuna("gp", 100)


def _optuna(sampler: str, trials: int) -> dict[str, Any]:
    return {"sampler": sampler, "n_trials": trials, "warm_start": False}


def tasks(quick: bool) -> list[Task]:
    """Everything there is to do, quick things first."""
    found = [
        (turn, Task(ensemble=name, tables=tables, units=units, label=label, searcher=searcher, options=options))
        for name, tables, units in ensembles(quick)
        for turn, label, searcher, options in searches(len(tables), name.endswith("#0"), quick)
    ]
    return [task for _, task in sorted(found, key=lambda pair: pair[0])]


def measure(task: Task, commit: str) -> Record:
    """Do one search; seconds everywhere."""
    found = allocate(task.tables, task.units, task.searcher, **task.options)
    return {
        "ensemble": task.ensemble,
        "n": len(task.tables),
        "units": task.units,
        "searcher": task.label,
        "jct_s": found.jct_s,
        "bound_s": found.bound_s,
        "proven": found.proven,
        "elapsed_s": found.elapsed_s,
        "reached_s": found.trace[-1][0],
        "evaluations": found.evaluations,
        "commit": commit,
        **({"trace": [list(step) for step in found.trace]} if task.label == EXACT else {}),
    }


# --- what follows from the records --------------------------------------------------------------------------------


def compared(records: Sequence[Record]) -> list[Record]:
    """Each record with what it is worth beside the others of its ensemble."""
    by_ensemble: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_ensemble[record["ensemble"]].append(record)
    rows = []
    for mine in by_ensemble.values():
        best_s = min(record["jct_s"] for record in mine)
        bound_s = max(record["bound_s"] for record in mine)
        trace = next((record["trace"] for record in mine if record["searcher"] == EXACT), [])
        rows += [
            {
                **{key: value for key, value in record.items() if key != "trace"},
                "over_best": max(0.0, record["jct_s"] / best_s - 1),
                "over_bound": max(0.0, record["jct_s"] / bound_s - 1),
                "exact_reached_s": next((t for t, s, *_ in trace if s <= record["jct_s"] * (1 + 1e-9)), None),
            }
            for record in mine
        ]
    return rows


def times_sooner(rows: Sequence[Record], searcher: str) -> list[float]:
    """For each ensemble, how many times sooner the exact searcher had a plan as good as the one `searcher` returned."""
    return [
        row["reached_s"] / row["exact_reached_s"]
        for row in rows
        if row["searcher"] == searcher and row["exact_reached_s"] is not None
    ]


def one_lane_each_s(repeats: int = 50) -> float:
    """Median seconds for the exact shares of 8 sub-models on 16 units, one lane each."""
    tables = made_up(8, 16, 0)
    times = []
    for _ in range(repeats):
        begun_s = time.perf_counter()
        allocate(tables, 16, limits={"one_each": True})
        times.append(time.perf_counter() - begun_s)
    return statistics.median(times)


def summary(rows: Sequence[Record]) -> dict[str, Any]:
    """The figures that the goals are about, and one row per searcher."""
    by_searcher: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        by_searcher[row["searcher"]].append(row)
    exact = by_searcher[EXACT]
    small = [row for row in exact if row["n"] <= 12]
    large = [row for row in exact if row["n"] > 12]
    sooner = {label: times_sooner(rows, label) for label in by_searcher if label.startswith("optuna")}
    beaten = [
        (row["ensemble"], row["searcher"])
        for row in rows
        for mine in exact
        if mine["ensemble"] == row["ensemble"]
        and not row["searcher"].startswith("exact")
        and row["jct_s"] < mine["jct_s"] * (1 - 1e-9)
    ]
    return {
        "searchers": {
            label: {
                "mean_over_best": statistics.fmean(row["over_best"] for row in mine),
                "worst_over_best": max(row["over_best"] for row in mine),
                "mean_over_bound": statistics.fmean(row["over_bound"] for row in mine),
                "median_elapsed_s": statistics.median(row["elapsed_s"] for row in mine),
                "longest_s": max(row["elapsed_s"] for row in mine),
                "median_evaluations": statistics.median(row["evaluations"] for row in mine),
                "proven": sum(row["proven"] for row in mine),
                "ensembles": len(mine),
            }
            for label, mine in by_searcher.items()
        },
        "exact_beaten_by": [list(pair) for pair in beaten],
        "exact_worst_over_best_up_to_12": max((row["over_best"] for row in small), default=None),
        "exact_worst_over_bound_up_to_12": max((row["over_bound"] for row in small), default=None),
        "exact_worst_over_best_beyond_12": max((row["over_best"] for row in large), default=None),
        "exact_proven_up_to_12": f"{sum(row['proven'] for row in small)} of {len(small)}",
        "exact_times_sooner_than": {
            label: {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
            for label, ratios in sooner.items()
            if ratios
        },
    }


# --- plots --------------------------------------------------------------------------------------------------------

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")


def svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """A picture with a title, on white so that it can be read on any page."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
            f'     font-family="sans-serif" font-size="13" role="img" aria-label="{title}">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            f'<text x="10" y="24" font-size="15">{title}</text>',
            *parts,
            "</svg>\n",
        ]
    )


def bars(title: str, unit: str, values: Mapping[str, float]) -> str:
    """Horizontal bars on a logarithmic axis that begins at a thousandth of the largest value."""
    width, left, line = 760, 210, 24
    most = max(values.values()) or 1.0
    parts = []
    for k, (label, value) in enumerate(values.items()):
        y = 42 + line * k
        bar = (width - left - 110) * max(0.0, 1 + math.log10(max(value, most / 1000) / most) / 3)
        parts += [
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{label}</text>',
            f'<rect x="{left}" y="{y}" width="{bar:.1f}" height="{line - 7}" '
            f'fill="{COLOURS[0] if label.startswith(EXACT) else COLOURS[-1]}"/>',
            f'<text x="{left + bar + 6:.1f}" y="{y + 13}">{value:.3g} {unit}</text>',
        ]
    return svg(width, 50 + line * len(values), title, parts)


def lines(title: str, x_axis: str, y_axis: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """One line per series on logarithmic axes; what is below a hundredth of a percent is drawn there."""
    width, height, left, right, top, bottom = 760, 380, 70, 200, 44, 330
    least = 0.01
    xs = [x for points in series.values() for x, _ in points]
    ys = [max(y, least) for points in series.values() for _, y in points]
    x_low, x_high = math.log(min(xs)), math.log(max(xs) * 1.0001)
    y_low, y_high = math.log(least), math.log(max(*ys, 1.0))

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log(x) - x_low) / max(x_high - x_low, 1e-9)
        up = (math.log(max(y, least)) - y_low) / (y_high - y_low)
        return left + across * (width - left - right), bottom - up * (bottom - top)

    parts = [f'<path d="M{left},{top}V{bottom}H{width - right}" fill="none" stroke="black"/>']
    for y in (0.01, 0.1, 1, 10, 100):
        if y <= math.exp(y_high):
            _, height_of = at(min(xs), y)
            parts.append(f'<text x="{left - 6}" y="{height_of + 4:.1f}" text-anchor="end">{y:g} %</text>')
    parts += [
        f'<text x="{at(x, 1)[0]:.1f}" y="{bottom + 16}" text-anchor="middle">{x:g}</text>' for x in sorted(set(xs))
    ]
    parts.append(f'<text x="{(left + width - right) / 2}" y="{bottom + 36}" text-anchor="middle">{x_axis}</text>')
    parts.append(f'<text x="{left}" y="{top - 6}" font-size="12">{y_axis}</text>')
    for k, (label, points) in enumerate(series.items()):
        colour = COLOURS[k % len(COLOURS)]
        path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in sorted(points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            '<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}"/>'.format(*at(x, y), colour) for x, y in sorted(points)
        ]
        y = top + 10 + 20 * k
        parts.append(f'<rect x="{width - right + 14}" y="{y - 10}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{width - right + 32}" y="{y}">{label}</text>')
    return svg(width, height, title, parts)


def by_size(rows: Sequence[Record]) -> dict[str, list[tuple[float, float]]]:
    """For some searchers, (sub-models, mean percent above the best known)."""
    shown = (EXACT, "optuna tpe 2000", "optuna tpe 500", "optuna tpe 100", "optuna nsga2 500", "equal", "sequential")
    series: dict[str, list[tuple[float, float]]] = {}
    for label in shown:
        sizes: dict[int, list[float]] = defaultdict(list)
        for row in rows:
            if row["searcher"] == label:
                sizes[row["n"]].append(100 * row["over_best"])
        if sizes:
            series[label] = [(float(n), statistics.fmean(overs)) for n, overs in sizes.items()]
    return series


# --- the page -----------------------------------------------------------------------------------------------------


def figures(report: Mapping[str, Any]) -> str:
    """The part of the page that is made here, in Markdown."""
    found = report["summary"]
    table = [
        "| searcher | above best known, mean | worst | above the bound, mean | median time | longest "
        "| plans tried, median | proven optimal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, v in found["searchers"].items():
        table.append(
            f"| {label} | {_percent(v['mean_over_best'])} | {_percent(v['worst_over_best'])} | "
            f"{_percent(v['mean_over_bound'])} | {1e3 * v['median_elapsed_s']:.1f} ms | {v['longest_s']:.2f} s | "
            f"{v['median_evaluations']:,.0f} | {v['proven']} of {v['ensembles']} |"
        )
    sooner = [
        f"| {label} | {_times(v['median'])} | {_times(v['least'])} | {_times(v['most'])} |"
        for label, v in found["exact_times_sooner_than"].items()
    ]
    beaten = found["exact_beaten_by"]
    told = ", ".join(f"{name} by {who}" for name, who in beaten) or "never"
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    pictures = (("quality", "mean JCT above the best known"), ("time", "median search time"), ("size", "by size"))
    images = "\n\n".join(f"![{alt}]({report['stem']}_{name}.svg)" for name, alt in pictures)
    return "\n".join(
        [
            f"Made by `make bench-search` on {report['machine']}, pinned to one core: {versions}; "
            f"commits {', '.join(report['commits'])}. {report['ensembles']} ensembles, {report['done']} of "
            f"{report['asked']} searches done. Every search: `{report['json']}`.",
            "",
            *table,
            "",
            "How many times sooner than Optuna exact had a plan as good as the one that Optuna returned:",
            "",
            "| Optuna | median | least | most |",
            "|---|---|---|---|",
            *sooner,
            "",
            "- Exact, in its default 2 s, up to 12 sub-models: at most "
            f"{_percent(found['exact_worst_over_bound_up_to_12'])} above the proven bound, "
            f"{found['exact_proven_up_to_12']} proven to be optimal.",
            "- Exact beyond 12 sub-models: at most "
            f"{_percent(found['exact_worst_over_best_beyond_12'])} above the best known.",
            f"- Ensembles where another searcher found a better plan than exact in its 2 s: {told}.",
            "- Exact shares of 8 sub-models on 16 units, one lane each: "
            f"{1e3 * report['one_lane_each_8x16_s']:.2f} ms.",
            "",
            images,
        ]
    )


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def write_page(report: Mapping[str, Any], rows: Sequence[Record], page: Path) -> None:
    """Put the figures between the marks of the page, which is made where there is none, and the plots beside it."""
    searchers = report["summary"]["searchers"]
    plots = {
        "quality": bars(
            "Mean JCT above the best known", "%", {k: 100 * v["mean_over_best"] for k, v in searchers.items()}
        ),
        "time": bars("Median search time", "ms", {k: 1e3 * v["median_elapsed_s"] for k, v in searchers.items()}),
        "size": lines("JCT above the best known, by size", "sub-models", "mean over ensembles", by_size(rows)),
    }
    for name, picture in plots.items():
        page.with_name(f"{report['stem']}_{name}.svg").write_text(picture, encoding="utf-8")
    MARKS.write(page, figures(report))


# --- the run ------------------------------------------------------------------------------------------------------


def write_json(path: Path, records: Sequence[Record], about: Mapping[str, Any]) -> None:
    """One record in a line, after what is said of all of them."""
    lines_of = ",\n".join(json.dumps(record) for record in records)
    head = json.dumps(about, indent=1)[:-2] if about else "{"
    measured_on.write_whole(path, f'{head}{"," if about else ""}\n "records": [\n{lines_of}\n]}}\n')


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Do what is not done yet, then write figures and page."""
    MARKS.around(asked.page)  # now, not after an hour
    commit = measured_on.commit()
    records: list[Record] = []
    if asked.json.exists() and not asked.fresh:
        records = json.loads(asked.json.read_text(encoding="utf-8")).get("records", [])
    wanted = tasks(asked.quick)
    known = {(task.ensemble, task.label) for task in wanted}
    records = [record for record in records if (record["ensemble"], record["searcher"]) in known]
    done = {(record["ensemble"], record["searcher"]) for record in records}
    begun_s = time.monotonic()
    for task in wanted:
        if (task.ensemble, task.label) in done:
            continue
        if asked.minutes is not None and time.monotonic() - begun_s > 60 * asked.minutes:
            print("the time is up; the same command goes on from here", flush=True)
            break
        record = measure(task, commit)
        records.append(record)
        write_json(asked.json, records, {})
        print(
            f"{task.ensemble:24} {task.label:26} {1e3 * record['jct_s']:9.3f} ms in {record['elapsed_s']:.3f} s",
            flush=True,
        )
    rows = compared(records)
    about = {
        "machine": measured_on.processor(),
        "versions": measured_on.versions(PACKAGES),
        "commits": sorted({record["commit"] for record in records}),
        "ensembles": len({record["ensemble"] for record in records}),
        "done": len(records),
        "asked": len(wanted),
        "json": f"benchmarks/results/{asked.json.name}",
        "stem": asked.page.stem,
        "one_lane_each_8x16_s": one_lane_each_s(),
        "summary": summary(rows),
    }
    write_json(asked.json, records, about)
    write_page(about, rows, asked.page)
    return about


def main(words: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="Compare the searchers.")
    parser.add_argument("--quick", action="store_true", help="a few small ensembles: seconds instead of an hour")
    parser.add_argument("--fresh", action="store_true", help="forget what the JSON file holds, and begin anew")
    parser.add_argument("--minutes", type=float, help="begin no search after so many minutes; run again to go on")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/search.json, quick: in out/")
    parser.add_argument("--page", type=Path, help="default: docs/search.md, quick: in out/")
    asked = parser.parse_args(words)
    if asked.minutes is not None and not asked.minutes > 0:
        parser.error("--minutes takes a positive number")
    asked.json = asked.json or (ROOT / "out" / "search.json" if asked.quick else HERE / "results" / "search.json")
    asked.page = asked.page or (ROOT / "out" / "search.md" if asked.quick else ROOT / "docs" / "search.md")
    asked.page.parent.mkdir(parents=True, exist_ok=True)
    if hasattr(os, "sched_setaffinity") and words is None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core: what the goals are stated for
    about = run(asked)
    print(f"wrote {asked.json} and {asked.page}: {about['done']} of {about['asked']} searches", file=sys.stderr)


if __name__ == "__main__":
    main()
