"""The command line of an exported script: run, time, write the answer."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from esen_lab.common.command_line import CommandParser, whole
from esen_lab.common.statistics import quantile, spread
from esen_lab.common.trees import tree_spec
from esen_lab.common.units import format_seconds, format_units, marked
from esen_lab.errors import EsenError, NotTrusted, UsageError, WorkerError
from esen_lab.export.arrays import ARRAYS_FILE, check_suffix, load_tree, save_tree
from esen_lab.export.running import Running
from esen_lab.files import check_free
from esen_lab.terminal import tell, visible_line


@dataclass(frozen=True, slots=True, kw_only=True)
class JctTiming:
    """JCTs of repeated runs, in seconds.

    Attributes:
        repeats: How many runs.
        median_s: Their median.
        spread_s: Their interquartile range.
        quantile_90_s: 90th percentile.
        quantile_99_s: 99th percentile.
        best_s: The shortest.
    """

    repeats: int
    median_s: float
    spread_s: float
    quantile_90_s: float
    quantile_99_s: float
    best_s: float


def timing_of(jcts_s: Sequence[float]) -> JctTiming:
    """The statistics of at least one run; quantiles are interpolated between runs."""
    return JctTiming(
        repeats=len(jcts_s),
        median_s=statistics.median(jcts_s),
        spread_s=spread(jcts_s),
        quantile_90_s=quantile(jcts_s, 0.9),
        quantile_99_s=quantile(jcts_s, 0.99),
        best_s=min(jcts_s),
    )


def run_command(load: Callable[..., Running], argv: Sequence[str] | None = None, *, program: str = "") -> int:
    """Run an exported ensemble from the command line.

    Args:
        load: Starts it; called with `device=` a name or None, and with `trust=True` where `--trust` is given.
        argv: Arguments, without the program's name; None takes the process's.
        program: What this was started as, for messages; "" for the script's name.

    Returns:
        The exit status: 0, or 1 when it could not be done; then one line on standard error says why, and for files that
        are not trusted one line for each thing that they would run.
    """
    program = program or Path(sys.argv[0]).name
    options = _parser(program).parse_args(argv)
    try:
        with load(device=options.device, **({"trust": True} if options.trust else {})) as ensemble:
            report = _run(ensemble, options)
    except NotTrusted as problem:
        tell(f"{program}: {problem.in_full}", sys.stderr)
        return 1
    except EsenError as problem:
        tell(f"{program}: {problem}", sys.stderr)
        if isinstance(problem, WorkerError) and problem.details():
            tell(problem.details(), sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    # JSON writes every control character as its own escape but one.
    tell(json.dumps(report, indent=2).replace("\x7f", "\\u007f") if options.json else _text(report))
    return 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = CommandParser(prog=program, description="Run an ensemble by its exported plan and time it.")
    parser.add_argument("--input", type=Path, help=".npy, or .npz for several arrays; default: the stored example")
    parser.add_argument("--output", type=Path, help="where the answer goes: .npy, or .npz for several arrays")
    parser.add_argument("--repeat", type=whole(1), default=1, metavar="N", help="timed runs (default 1)")
    parser.add_argument("--warmup", type=whole(0), default=3, metavar="N", help="runs before them (default 3)")
    parser.add_argument("--device", help="a device other than the plan's")
    parser.add_argument(
        "--trust", action="store_true", help="run the folder's code although somebody else made it, or it has changed"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def _run(ensemble: Running, options: argparse.Namespace) -> dict[str, Any]:
    example = ensemble.ensemble.example
    x = load_tree(options.input, example) if options.input else example
    if options.output:
        if not options.output.absolute().parent.is_dir():
            raise UsageError("The answer goes into a folder that is there", given=str(options.output))
        check_free(options.output, ARRAYS_FILE)  # now, and not when all runs are made
    with ensemble.runner.measuring():  # what sub-models keep between calls begins with the first run that counts
        for _ in range(options.warmup):
            ensemble(x)
    jcts_s: list[float] = []
    y, notes = None, dict.fromkeys(ensemble.plan.notes)
    far: tuple[str, ...] = ()
    for _ in range(options.repeat):
        y = ensemble(x)
        if options.output and not jcts_s:
            check_suffix(options.output, y)
        jcts_s.append(ensemble.report.jct_s)
        far = getattr(ensemble.report, "far", ())  # each run finds other words for how far: the last one's count
        notes.update(dict.fromkeys(note for note in ensemble.report.notes if note not in far))
    notes.update(dict.fromkeys(far))
    if options.output:
        save_tree(options.output, y)
    identity = ensemble.device.identity
    made_for = {"units": ensemble.plan.units, **ensemble.plan.device}
    for what in ("kind", "name", "units"):
        before, now = made_for.get(what), getattr(identity, what)
        if before is not None and before != now:
            notes[f"The plan was made for another device: {what} {before}, here {now}."] = None
    return {
        "input": str(tree_spec(x)),
        "output": str(tree_spec(y, "the output")),
        "timing": asdict(timing_of(jcts_s)),
        "predicted_s": ensemble.plan.jct_s,
        "unmeasured": dict(ensemble.plan.unmeasured),
        "device": identity.to_dict(),
        "plan": ensemble.plan.describe(),
        "lanes": [
            {"units": lane.units, "members": list(lane.members), "in_force": lane.in_force}
            for lane in ensemble.report.lanes
        ],
        "combine": ensemble.ensemble.combine.describe(),
        "written": str(options.output) if options.output else None,
        "notes": list(notes),
    }


def _text(report: dict[str, Any]) -> str:
    timing = report["timing"]
    lines = [
        f"JCT     median {format_seconds(timing['median_s'])}, spread {format_seconds(timing['spread_s'])}, "
        f"p90 {format_seconds(timing['quantile_90_s'])}, p99 {format_seconds(timing['quantile_99_s'])}, "
        f"best {format_seconds(timing['best_s'])}, {timing['repeats']} run{'' if timing['repeats'] == 1 else 's'}",
        f"device  {report['device']['name']}, {format_units(report['device']['units'], report['device']['unit'])}",
        f"input   {report['input']}",
        f"output  {report['output']}" + (f" -> {report['written']}" if report["written"] else ""),
        f"combine {report['combine']}",
    ]
    for number, lane in enumerate(report["lanes"], start=1):
        lines.append(f"lane {number}  {lane['units']}: {' + '.join(lane['members'])} ({lane['in_force']})")
    if report["predicted_s"] is not None:
        lines.append(f"planned {marked(format_seconds(report['predicted_s']), report['unmeasured'])}")
    lines += [f"note    {note}" for note in report["notes"]]
    return "\n".join(map(visible_line, lines))
