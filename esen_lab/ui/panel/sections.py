"""What the panel shows of a lab, section by section: plain data, computed anew at each look."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from esen_lab.common.units import format_percent, format_seconds
from esen_lab.ui.colours import COLOURS
from esen_lab.ui.views.planned import total_s
from esen_lab.ui.views.setup import in_words

Section = Any  # JSON
NAMES = ("device", "ensemble", "nodes", "jobs", "plan", "comparison", "actions", "next_step", "busy")
# Of a GPU, the first of these readings stands for it; the words are the label. "GPU-Util" says only that a kernel ran.
_OF_A_GPU = (("sm", "SM activity"), ("util", "GPU-Util (any kernel ran)"))
_PERCENT = 100.0
_MOST_NODES = 200  # a page lists no more, and is told how many there are
_MOST_NAMED = 5  # in a sentence


def sections(
    lab: Any, *, cell_busy: bool, input_name: str = "", output_name: str = "y", example: str = ""
) -> dict[str, Section]:
    """All sections of a lab; of None, those that need no lab.

    Args:
        lab: The notebook's `Lab`, or None.
        cell_busy: Whether a cell is running.
        input_name: What the notebook calls an input that fits the sub-models, or "".
        output_name: What it may call an answer: no variable of the user's own.
        example: A cell that registers two sub-models, for a notebook without any.
    """
    jobs = [] if lab is None else _jobs(lab)
    status = None if lab is None else lab.status()
    return {
        "device": None if lab is None else _device(lab, status),
        "ensemble": {"combine": "", "submodels": []} if status is None else _ensemble(lab, status),
        # After the ensemble: sub-models have their colours in its order, not in that of the nodes.
        "nodes": None if lab is None else _nodes(lab),
        "jobs": jobs,
        "plan": None if lab is None or lab.plan is None else _plan(lab, lab.plan),
        "comparison": None if lab is None or lab.comparison is None else _comparison(lab.comparison),
        "actions": _actions(lab, status, input_name, output_name),
        "next_step": _next_step(status, example),
        "busy": {"cell": cell_busy},
    }


def running_jobs(lab: Any) -> dict[str, Callable[[], None]]:
    """What cancels each running job, by the id that `sections` gave it."""
    return {
        job_id: job.cancel
        for job_id, job in (("profile", lab.job), ("search", lab.search_job))
        if job is not None and not job.state.over
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
        "free_bytes": lab.readings.free_bytes(),
        "in_force": [
            {"lane": number, "units": lane.units, "text": text}
            for number, (lane, text) in enumerate(lab.lanes.in_force(), 1)
        ],
        "utilization": used,
        "utilization_label": label,
    }


def _utilization(lab: Any) -> tuple[float | None, str]:
    """The device's utilization, 0 to 1 in steps of a percent, and what it is called; None where it cannot be read.

    With several GPUs it is absent: which of the readings is the device's is not known here.
    """
    values = lab.readings.glance()
    if not lab.device.identity.kind.startswith("cuda"):
        return (round(values["cpu"] / _PERCENT, 2), "CPU") if "cpu" in values else (None, "")
    for key, label in _OF_A_GPU:
        found = [value for name, value in values.items() if re.fullmatch(rf"gpu\d+{key}", name)]
        if len(found) == 1:
            return round(found[0] / _PERCENT, 2), label
    return None, ""


def _ensemble(lab: Any, status: Any) -> Section:
    wanted, known = _measuring(lab)
    COLOURS.learn(row["name"] for row in status.submodels)
    rows = []
    for row in status.submodels:
        name = row["name"]
        points = max(status.profiled.get(name, 0), known[name])
        rows.append(
            {
                "name": name,
                "parameters": row["parameters"],
                "bytes": row["memory_bytes"],
                "colour": COLOURS.of(name),
                "recipe": row["recipe"],
                "example": row["example"],
                "points": points,
                "points_wanted": wanted.get(name),
                "state": "running" if name in wanted else "done" if points else "none",
            }
        )
    return {"combine": status.combine, "submodels": rows}


def _nodes(lab: Any) -> Section:
    """The nodes of the cluster as they are known here: none is asked, since a look may come several times a second."""
    status = lab.cluster.glance()
    if status is None:
        return None
    # Not with this file: a lab has loaded the room by now, the notebook's extension shall not wait for it.
    from esen_lab.cluster import key_of

    values = lab.readings.glance()
    listed = status.nodes
    if len(listed) > _MOST_NODES:  # those that do nothing for this lab are left out first
        listed = sorted(listed, key=lambda node: node.state == "idle")[:_MOST_NODES]
    counted = f"{len(listed)} of {len(status.nodes)} nodes are listed." if len(listed) < len(status.nodes) else ""
    return {
        "address": status.address,
        "dashboard": status.dashboard,
        "nodes": [
            {
                "name": node.name,
                "units": node.units,
                "gpus": node.gpus,
                "state": node.state,
                "submodels": [{"name": name, "colour": COLOURS.of(name)} for name in node.members],
                "busy": None if node.state == "gone" else _part(values.get(key_of(node.name))),
                "notes": list(node.notes),
            }
            for node in listed
        ],
        "text": " ".join(filter(None, (_gone(lab.plan, status.nodes), counted, *status.notes))),
    }


def _part(percentage: float | None) -> float | None:
    """A percentage as a part of one, in steps of a percent; None where there is none."""
    return None if percentage is None else min(round(percentage / _PERCENT, 2), 1.0)


def _gone(plan: Any, nodes: Sequence[Any]) -> str:
    """Which nodes of the plan are gone, and how it goes on; "" where all are there."""
    there = {node.name for node in nodes if node.state != "gone"}
    gone = [] if plan is None else [name for name in plan.devices if name not in there]
    if not gone:
        return ""
    more = f" and {len(gone) - _MOST_NAMED} more" if len(gone) > _MOST_NAMED else ""
    told = f"Node {gone[0]} is gone" if len(gone) == 1 else f"Nodes {', '.join(gone[:_MOST_NAMED])}{more} are gone"
    if len(gone) == len(plan.devices):
        return f"{told}, and the plan has no other: lab.studies.place makes one for nodes that are there."
    without = "it" if len(gone) == 1 else f"{gone[0]}, and so for each"
    return f"{told}: lab.cluster.replan_without({gone[0]!r}) goes on without {without}."


def _measuring(lab: Any) -> tuple[dict[str, int], Counter[str]]:
    """Of a running profile, by sub-model: how many points are asked for, where that is known, and are there by now."""
    job = lab.job
    if job is None or job.state.over:
        return {}, Counter()
    return dict(getattr(job, "wanted", {})), Counter(point.name for point in getattr(job.snapshot(), "points", ()))


def _jobs(lab: Any) -> list[Section]:
    rows = []
    if lab.job is not None:
        seen = lab.job.snapshot()
        left_s = None if seen.eta_s is None else round(seen.eta_s, 1)
        rows.append(_job("profile", seen.state, seen.done, seen.message, total=seen.total, left_s=left_s))
    searching = lab.search_job
    if searching is not None:
        reached = searching.snapshot()
        rows.append(_job("search", searching.state, reached.evaluations, _search_text(reached, searching.error)))
    return sorted(rows, key=lambda row: row["state"] != "running")


def _job(kind: str, state: str, done: int, text: str, *, total: int | None = None, left_s: float | None = None) -> Any:
    shown = {"state": _STATES[state], "done": done, "total": total, "left_s": left_s, "text": text}
    return {"id": kind, "kind": kind, **shown}


_STATES: Mapping[str, str] = {
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
            {
                "name": name,
                "colour": COLOURS.of(name),
                "predicted_s": plan.predicted_s.get(name),
                "unmeasured": plan.unmeasured.get(name, ""),
                "backend": way,
            }
            for name, way in zip(lane.members, lane.backends, strict=True)
        ]
        lanes.append(
            {
                "units": lane.units,
                "percent": _PERCENT * lane.units / plan.devices.get(lane.device, plan.units),
                "jct_s": total_s(plan.predicted_s, lane),
                "submodels": members,
            }
        )
    for stage in plan.stages:  # each waits for the slowest lane of the one before
        beside = [lanes[number] for number in stage]
        known = [lane["jct_s"] for lane in beside if lane["jct_s"] is not None]
        for lane in beside:  # of some nobody knows what they take: then none is known to be the slowest
            lane["limiting"] = len(beside) > 1 and len(known) == len(beside) and lane["jct_s"] == max(known)
    measured = lab.state.measured_s
    return {
        "searcher": plan.searcher,
        "jct_s": plan.jct_s,
        "measured_s": plan.measured_s if measured is None else measured,
        "bound_s": plan.bound_s,
        "gap": plan.gap,
        # What nobody has to improve: it is at its bound.
        "proven": plan.gap is not None and plan.gap < 1e-9,
        "warm": bool(lab.lanes.in_force()),
        "total_units": sum(lane.units for lane in plan.lanes),
        "units": plan.units,
        "lanes": lanes,
        "answers": _answers(lab, plan),
        "text": " ".join((*plan.notes, *_prediction_notes(lab, plan))),
    }


def _prediction_notes(lab: Any, plan: Any) -> list[str]:
    """What must stand beside a prediction: what it rests on, and that the last run was far from it."""
    told = [f"Predicted {plan.predicted_text()}."] if plan.unmeasured else []
    report = lab.report
    if report is not None and lab.state.measured_s is not None:
        told += report.far
    return told


def _answers(lab: Any, plan: Any) -> Section:
    """What is known of the answers under a plan: a verdict counts for the very lanes that it judged."""
    wrong = (*lab.lanes.unlike, *lab.points.wrong_answers(plan))
    if wrong:
        return {"state": "wrong", "text": " ".join(wrong)}
    verdict = lab.numerics
    lanes = [
        (number, lane.units, name, way)
        for number, lane in enumerate(plan.lanes)
        for name, way in zip(lane.members, lane.backends, strict=True)
    ]
    if verdict is None or [(row.lane, row.units, row.name, row.backend) for row in verdict.rows] != lanes:
        return {"state": "unchecked", "text": ""}
    state = "same" if verdict.passed else "wrong" if verdict.wrong or verdict.unlike else "unsteady"
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
            "outputs": row.outputs,
            "best": not row.failed and row.median_s == min(working),
        }
        for row in comparison.rows
    ]
    return {"at": "", "rows": rows, "text": comparison.verdict}


def _next_step(status: Any, example: str) -> Section:
    if status is None:
        return {"text": "Register a sub-model.", "action": "register", "example": example}
    step = status.next_step
    action = None if step.action == "wait" else str(step.action)
    return {"text": in_words(step), "action": action, "example": "" if status.submodels else example}


def _actions(lab: Any, status: Any, input_name: str, output_name: str) -> list[Section]:
    members = bool(status and status.submodels)
    measured = members and all(status.profiled.get(row["name"]) for row in status.submodels)
    plan = lab is not None and lab.plan is not None
    profiling = lab is not None and lab.job is not None and not lab.job.state.over
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
        ("run", "Run", f"{output_name} = %esen run {given}", need_input),
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
