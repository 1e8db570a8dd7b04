"""What the panel shows of a lab, section by section: plain data, computed anew at each look."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from esen_lab.units import format_percent, format_seconds

Section = Any  # JSON
NAMES = ("device", "ensemble", "jobs", "plan", "comparison", "actions", "next_step", "busy")
# Of a GPU, the first of these readings stands for it; the words are the label. "GPU-Util" says only that a kernel ran.
_OF_A_GPU = (("sm", "SM activity"), ("util", "GPU-Util (any kernel ran)"))
_PERCENT = 100.0


def sections(lab: Any, *, cell_busy: bool, input_name: str = "") -> dict[str, Section]:
    """All sections of a lab; of None, those that need no lab.

    Args:
        lab: The notebook's `Lab`, or None.
        cell_busy: Whether a cell is running.
        input_name: What the notebook calls an input that fits the sub-models, or "".
    """
    jobs = [] if lab is None else _jobs(lab)
    status = None if lab is None else lab.status()
    return {
        "device": None if lab is None else _device(lab, status),
        "ensemble": {"combine": "", "submodels": []} if status is None else _ensemble(lab, status),
        "jobs": jobs,
        "plan": None if lab is None or lab.plan is None else _plan(lab, lab.plan),
        "comparison": None if lab is None or lab.comparison is None else _comparison(lab.comparison),
        "actions": _actions(lab, status, input_name),
        "next_step": _next_step(status),
        "busy": {"cell": cell_busy},
    }


def running_jobs(lab: Any) -> dict[str, Callable[[], None]]:
    """What cancels each running job, by the id that `sections` gave it."""
    return {
        job_id: job.cancel
        for job_id, job in (("profile", lab.job), ("search", lab.search_job))
        if job is not None and not job.done
    }


def _device(lab: Any, status: Any) -> Section:
    device = status.device
    used, label = _utilization(lab)
    return {
        "kind": device["kind"],
        "name": device["name"],
        "units": device["units"],
        "unit": device["unit"],
        "simulated": device["simulated"],
        "notes": list(status.device_notes),
        "free_bytes": lab.free_bytes(),
        "in_force": [
            {"lane": number, "units": lane.units, "text": text} for number, (lane, text) in enumerate(lab.in_force(), 1)
        ],
        "utilization": used,
        "utilization_label": label,
    }


def _utilization(lab: Any) -> tuple[float | None, str]:
    """The device's utilization, 0 to 1 in steps of a percent, and what it is called; None where it cannot be read.

    With several GPUs it is absent: which of the readings is the device's is not known here.
    """
    values = lab.glance()
    if not lab.device.identity.kind.startswith("cuda"):
        return (round(values["cpu"] / _PERCENT, 2), "CPU") if "cpu" in values else (None, "")
    for key, label in _OF_A_GPU:
        found = [value for name, value in values.items() if re.fullmatch(rf"gpu\d+{key}", name)]
        if len(found) == 1:
            return round(found[0] / _PERCENT, 2), label
    return None, ""


def _ensemble(lab: Any, status: Any) -> Section:
    wanted = _wanted(lab)
    known = _known(lab)
    rows = []
    for row in status.submodels:
        name = row["name"]
        points = max(status.profiled.get(name, 0), known.get(name, 0))
        state = "running" if name in wanted else "done" if points else "none"
        rows.append(
            {
                "name": name,
                "parameters": row["parameters"],
                "bytes": row["memory_bytes"],
                "recipe": row["recipe"],
                "example": row["example"],
                "points": points,
                "points_wanted": wanted.get(name),
                "state": state,
            }
        )
    return {"combine": status.combine, "submodels": rows}


def _wanted(lab: Any) -> dict[str, int]:
    """For each sub-model that is being measured, how many points are asked for, where that is known."""
    job = lab.job
    if job is None or job.done:
        return {}
    return dict(getattr(job, "wanted", {}))


def _known(lab: Any) -> dict[str, int]:
    """For each sub-model, how many points the running job knows so far."""
    job = lab.job
    if job is None or job.done:
        return {}
    found: dict[str, int] = {}
    for point in getattr(job.snapshot(), "points", ()):
        found[point.name] = found.get(point.name, 0) + 1
    return found


def _jobs(lab: Any) -> list[Section]:
    rows = []
    job = lab.job
    if job is not None:
        seen = job.snapshot()
        rows.append(
            {
                "id": "profile",
                "kind": "profile",
                "state": _PROFILE_STATES.get(str(seen.state), "running"),
                "done": seen.done,
                "total": seen.total,
                "left_s": None if seen.eta_s is None else round(seen.eta_s, 1),
                "text": seen.message,
            }
        )
    searching = lab.search_job
    if searching is not None:
        reached = searching.snapshot()
        state = "running"
        if searching.done:
            state = "failed" if searching.error else "cancelled" if searching.cancelled else "done"
        rows.append(
            {
                "id": "search",
                "kind": "search",
                "state": state,
                "done": reached.evaluations,
                "total": None,
                "left_s": None,
                "text": _search_text(reached, searching.error),
            }
        )
    return sorted(rows, key=lambda row: row["state"] != "running")


_PROFILE_STATES: Mapping[str, str] = {
    "running": "running",
    "waiting": "running",
    "finished": "done",
    "cancelled": "cancelled",
    "failed": "failed",
}


def _search_text(reached: Any, error: BaseException | None) -> str:
    if error is not None:
        return str(error).splitlines()[0]
    parts = []
    if reached.jct_s is not None:
        parts.append(f"best {format_seconds(reached.jct_s)}")
        if reached.bound_s:
            gap = max(0.0, reached.jct_s / reached.bound_s - 1)
            parts.append("proven optimum" if reached.proven else f"at most {format_percent(gap)} above the optimum")
    return ", ".join(parts) or reached.message


def _plan(lab: Any, plan: Any) -> Section:
    lanes = []
    for lane in plan.lanes:
        members = [
            {"name": name, "predicted_s": plan.predicted_s.get(name), "mechanism": way}
            for name, way in zip(lane.members, lane.mechanisms, strict=True)
        ]
        lanes.append(
            {
                "units": lane.units,
                "percent": _PERCENT * lane.units / plan.units,
                "jct_s": sum(member["predicted_s"] or 0.0 for member in members),
                "submodels": members,
            }
        )
    slowest = max(lane["jct_s"] for lane in lanes)
    for lane in lanes:
        lane["limiting"] = len(lanes) > 1 and slowest > 0 and lane["jct_s"] == slowest
    measured = lab.measured_s()
    return {
        "searcher": plan.searcher,
        "jct_s": plan.jct_s,
        "measured_s": plan.measured_s if measured is None else measured,
        "bound_s": plan.bound_s,
        "gap": plan.gap,
        # What nobody has to improve: it is at its bound.
        "proven": plan.gap is not None and plan.gap < 1e-9,
        "warm": bool(lab.in_force()),
        "total_units": sum(lane.units for lane in plan.lanes),
        "units": plan.units,
        "lanes": lanes,
        "answers": _answers(lab, plan),
        "text": " ".join(plan.notes),
    }


def _answers(lab: Any, plan: Any) -> Section:
    """What is known of the answers under a plan: a verdict counts for the very lanes that it judged."""
    wrong = lab.wrong_answers(plan)
    if wrong:
        return {"state": "wrong", "text": " ".join(wrong)}
    verdict = lab.numerics
    lanes = [
        (number, lane.units, name, way)
        for number, lane in enumerate(plan.lanes)
        for name, way in zip(lane.members, lane.mechanisms, strict=True)
    ]
    if verdict is None or [(row.lane, row.units, row.name, row.mechanism) for row in verdict.rows] != lanes:
        return {"state": "unchecked", "text": ""}
    state = "same" if verdict.passed else "wrong" if verdict.wrong else "unsteady"
    return {"state": state, "text": verdict.text}


def _comparison(comparison: Any) -> Section:
    working = [row.median_s for row in comparison.rows if not row.failed]
    rows = [
        {
            "strategy": row.strategy,
            "lanes": row.lanes,
            "median_s": None if row.failed else row.median_s,
            "spread_s": None if row.failed else row.spread_s,
            "ratio": row.ratio_to.get("sequential"),
            "outputs": row.failed or row.agreement,
            "best": not row.failed and row.median_s == min(working),
        }
        for row in comparison.rows
    ]
    return {"at": "", "rows": rows, "text": comparison.verdict}


def _next_step(status: Any) -> Section:
    if status is None:
        return {"text": "Register a sub-model.", "action": "register"}
    text = status.next_step
    action = next((action for action in _IDS if f"%esen {action}" in text), None)
    return {"text": text, "action": action}


_IDS = ("register", "profile", "search", "tune", "run", "compare", "export", "watch", "doctor")


def _actions(lab: Any, status: Any, input_name: str) -> list[Section]:
    members = bool(status and status.submodels)
    measured = members and all(status.profiled.get(row["name"]) for row in status.submodels)
    plan = lab is not None and lab.plan is not None
    profiling = lab is not None and lab.job is not None and not lab.job.done
    need_members = "" if members else "Register a sub-model first."
    need_points = need_members or ("" if measured else "Profile the sub-models first.")
    need_plan = need_members or ("" if plan else need_points or "Search for a plan first.")  # one may be loaded
    need_input = need_members or (
        "" if input_name else "No variable of the notebook holds the example input: write %esen run YOUR_INPUT."
    )
    given = input_name or "x"
    table = (
        ("register", "Register", "%esen register NAME --example x", ""),
        ("profile", "Profile", "%esen profile", need_members or ("A profile is running." if profiling else "")),
        ("search", "Search", "%esen search", need_points),
        ("tune", "Tune", "%esen tune", need_points),
        ("run", "Run", f"y = %esen run {given}", need_input),
        ("compare", "Compare", f"%esen compare {given}", need_plan or need_input),
        ("numerics", "Check answers", "%esen numerics", need_plan),
        ("export", "Export", "%esen export plan.py", need_plan),
        ("watch", "Watch", "%esen watch", ""),
        ("doctor", "Doctor", "%run -m esen_lab doctor", ""),
    )
    return [
        {"id": action, "label": label, "line": line, "enabled": not why, "why": why}
        for action, label, line, why in table
    ]
