"""What `make gpu-check` measured, as tables in Markdown and as files of latencies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_steps import failures_in


def tables(result: Mapping[str, Any]) -> str:
    """All tables of one result.

    Args:
        result: What `gpu_check.py` wrote.
    """
    where = ", ".join(filter(None, [", ".join(result.get("gpus") or []), result.get("driver"), result.get("commit")]))
    parts = [f"{result['kind']}: {where}, {result['began_at']}"]
    found = result["sections"]
    parts += [_limits(found["limits"])] if found.get("limits", {}).get("in_force") else []
    parts += [_gate(found["gate"])] if "gate" in found else []
    parts += [_hosts(found["one-graph"])] if "one-graph" in found else []
    parts += [_ensemble(name, one) for name, one in found.items() if "/" in name]
    parts.append(_failed(found))
    return "\n\n".join(filter(None, parts))


def write_profiles(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the latencies that each ensemble's profile measured, one file each; returns the files.

    Args:
        result: What `gpu_check.py` wrote.
        folder: Where to; made when it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, found in result["sections"].items():
        recorded = found.get("profile", {}).get("recorded")
        if recorded:
            of = {key: result.get(key) for key in ("kind", "driver", "commit", "machine", "began_at")}
            path = folder / f"{name.replace('/', '-')}.json"
            path.write_text(json.dumps({**recorded, "of": of}, indent=1) + "\n", encoding="utf-8")
            written.append(path)
    return written


def _limits(found: Mapping[str, Any]) -> str:
    return _table(("share", "in force"), [(f"{share} %", told) for share, told in found["in_force"].items()])


def _gate(found: Mapping[str, Any]) -> str:
    rows = [
        (backend, dtype, _verdict(verdict))
        for backend, verdicts in found.items()
        if isinstance(verdicts, Mapping)
        for dtype, verdict in verdicts.items()
        if dtype != "device" and isinstance(verdict, Mapping)
    ]
    return _table(("backend", "dtype", "gate"), rows)


def _verdict(found: Mapping[str, Any]) -> str:
    return str(found["failed"]) if "failed" in found else "passed" if found.get("passed") else "FAILED"


def _hosts(found: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            _ms(one.get("jct_median_s")),
            _us(one.get("host_median_s")),
            _us(one.get("call_less_gpu_median_s")),
            "yes" if one.get("one_graph") else "no",
        )
        for name, one in found.items()
        if isinstance(one, Mapping) and "jct_median_s" in one
    ]
    heads = ("ensemble", "JCT ms", "host around a replay µs", "call less GPU µs", "one graph")
    return _table(heads, rows) if rows else ""


def _ensemble(name: str, found: Mapping[str, Any]) -> str:
    """Every way to run one ensemble, the losing ones too."""
    rows = found.get("compared", {}).get("rows", {})
    read = found.get("utilization", {})
    lines = [
        (
            way,
            _ms(row.get("median_s")),
            _ms(row.get("spread_s")),
            _ratio(row.get("ratio_to_unlimited")),
            _ratio(row.get("ratio_to_bound")),
            _activity(read.get(way, {})),
            str(row.get("why_none") or ("ran eagerly" if row.get("fell_back") else row.get("agreement"))),
        )
        for way, row in rows.items()
    ]
    heads = ("way", "JCT ms", "spread ms", "/ unlimited", "/ bound", "SM activity %", "outputs")
    goals = ", ".join(f"{goal}: {value}" for goal, value in found.get("goals", {}).items())
    body = _table(heads, lines) if lines else f"no comparison: {found.get('failed') or found.get('compared')}"
    parts = [f"### {name}", _against_the_base(found), body, goals, _clocks(found)]
    return "\n\n".join(filter(None, parts))


def _against_the_base(found: Mapping[str, Any]) -> str:
    """The ways that the goals are held against, in the same rounds."""
    read = found.get("utilization", {})
    rows = [
        (
            way,
            _ms(one.get("median_s")),
            _ratio(one.get("ratio_to_base")),
            " to ".join(map(_ratio, one.get("ratio_quartiles") or ())) or "-",
            _activity(read.get(way, {})),
            "ran eagerly" if one.get("fell_back") else {True: "agree", False: "DIFFER", None: "-"}[one.get("agrees")],
        )
        for way, one in found.get("paired", {}).items()
        if isinstance(one, Mapping)
    ]
    heads = ("way", "JCT ms", "/ MPS default, same round", "quartiles", "SM activity %", "outputs")
    return _table(heads, rows) if rows else ""


def _clocks(found: Mapping[str, Any]) -> str:
    """SM clocks before and after, and why they were low."""
    told = []
    for when in ("gpu_before", "gpu_after"):
        states = found.get(when)
        for one in states.values() if isinstance(states, Mapping) else ():
            why = one.get("throttled")
            told.append(f"{one.get('sm_mhz')} MHz" + (f" ({', '.join(why)})" if isinstance(why, list) and why else ""))
    return f"SM clock: {' -> '.join(told)}" if told else ""


def _activity(found: Mapping[str, Any]) -> str:
    percent = found.get("percent", {})
    return next((f"{value:.0f}" for label, value in percent.items() if "SM activity" in label and value), "-")


def _failed(found: Mapping[str, Any]) -> str:
    why = {name: one.get("failed") or one.get("not_whole") for name, one in found.items()}
    rows = [(name, str(told).splitlines()[0][:120]) for name, told in why.items() if told]
    for name, one in found.items():
        rows += [(f"{name}: {step}", told[:120]) for step, told in failures_in(one).items() if step]
    return _table(("section", "not whole"), rows) if rows else ""


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value * 1e3:.3f}"


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value * 1e6:.0f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(" ".join(str(cell).split()) for cell in line) + " |" for line in lines)
