"""Views of searches and their results: allocations, refinements, fronts of members, placements, cascades."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from esen_lab.common.surroundings import step
from esen_lab.common.units import (
    format_confidence,
    format_count,
    format_percent,
    format_rate,
    format_seconds,
    format_units,
    marked,
)
from esen_lab.ui.pictures.rows import Front, SearchHistory
from esen_lab.ui.views.blocks import Block, Table, View, facts, given_s, one_line
from esen_lab.ui.views.planned import plan

_TAKE = "lab.studies.take(front.choices[1])"
_TAKEN = "What was asked for is in force below: from now on only its members run. Another limit takes another point."
_TAKE_OF_BEST = "lab.studies.take(lab.studies.last_front.choices[1])"


def allocation(record: Any) -> View:
    """An `Allocation`."""
    lanes = Table(
        columns=("lane", "units", "sub-models, in order"),
        rows=tuple((str(i), str(units), " → ".join(names)) for i, (units, names) in enumerate(record.lanes, 1)),
        numbers=("units",),
    )
    known = facts(
        ("JCT", marked(format_seconds(record.jct_s), record.plan.unmeasured)),
        ("proven bound", format_seconds(record.bound_s)),
        ("bound for any schedule", format_seconds(record.schedule_bound_s)),
        ("gap to the bound", format_percent(record.gap)),
        ("proven optimal", "yes" if record.proven else "no"),
        (
            "found by",
            f"{record.plan.searcher}, {format_count(record.evaluations, 'plan')} in {format_seconds(record.elapsed_s)}",
        ),
    )
    return View(title="Allocation", blocks=(lanes, known, *history(record)), notes=record.plan.notes)


def rate_plan(record: Any) -> View:
    """A `RatePlan`: its candidates, and the plan that was taken."""
    table = Table(
        columns=("plan", "lanes", "largest batch", "predicted p99", "busy", "holds up to"),
        rows=tuple(
            (
                row.name,
                row.plan.describe(),
                str(row.at.most_rows),
                format_seconds(row.at.p99_s),
                format_percent(row.at.busy),
                f"{format_rate(row.most.rate_per_s)}/s",
            )
            for row in record.rows
        ),
        numbers=("largest batch", "predicted p99", "busy", "holds up to"),
    )
    return View(title=f"Plan {record.describe()}", blocks=(table,), notes=record.plan.notes[1:])


def history(record: Any) -> tuple[Block, ...]:
    """The picture of an `Allocation`'s search; none where there is nothing to see."""
    if len(record.trace) < 2:
        return ()
    exact_s = record.bound_s if record.proven else None
    if record.trace[0][2] == record.trace[-1][2]:  # all its plans come from one examination
        steps = tuple((1e3 * elapsed_s, jct_s) for elapsed_s, jct_s, _ in record.trace)
        return (SearchHistory(traces=((record.plan.searcher, steps),), exact_s=exact_s, x_label="time (ms)"),)
    found = tuple((float(evaluations), jct_s) for _, jct_s, evaluations in record.trace)
    steps = (*found, (float(record.evaluations), found[-1][1]))
    return (SearchHistory(traces=((record.plan.searcher, steps),), exact_s=exact_s),)


def front_picture(record: Any) -> Front:
    """The picture of a `ParetoFront`: its choices by their number."""
    found = tuple((str(i), c.jct_s, c.accuracy) for i, c in enumerate(record.choices, 1))
    told = tuple(
        f"{i}: {c.label}, {format_percent(c.accuracy)} in {format_seconds(c.jct_s)}"
        for i, c in enumerate(record.choices, 1)
    )
    return Front(points=found, on_front=(True,) * len(found), told=told)


def searching(progress: Any, job: Any) -> View:
    """A `SearchJob`, and its snapshot: the best plan so far, and how far the proof is."""
    best = job.best
    reached = None if best is None or not progress.bound_s else max(0.0, best.jct_s / progress.bound_s - 1)
    known = facts(
        ("doing", "" if job.done else progress.message),
        ("proven bound so far", given_s(progress.bound_s or None)),
        ("the best is above it by", "" if reached is None else format_percent(reached)),
        ("examined", f"{progress.evaluations:,} in {format_seconds(progress.elapsed_s)}"),
    )
    if job.error is not None:
        return View(title=f"{job.title}: failed", notes=(one_line(job.error),))
    if job.done:
        shown = plan(best)
        return View(title=shown.title, blocks=shown.blocks, notes=shown.notes)
    if best is None:
        return View(title=f"{job.title}: no plan yet", blocks=(known,))
    shown = plan(best)
    stop = step("lab.search_job.cancel()", "%esen cancel")
    told = f"In force now; the search goes on in the background and may improve it. `{stop}` stops it."
    return View(title=shown.title, blocks=(*shown.blocks[:1], known), notes=(*shown.notes, told))


def refined(record: Any) -> View:
    """A `Refined`: every round, and the plan that is kept."""
    columns = ("round", "plan", "predicted", "measured", "spread", "then")
    rows = tuple(
        (
            f"{number + 1}{' (best)' if number == record.best else ''}",
            one.plan.describe(),
            one.plan.predicted_text(),
            format_seconds(one.measured_s),
            format_seconds(one.spread_s),
            one.decision,
        )
        for number, one in enumerate(record.rounds)
    )
    shown = plan(record.plan)
    title = f"Refined: {format_percent(record.gain)} faster" if record.best else "Refined: the plan stays"
    rounds = Table(columns=columns, rows=rows, numbers=("predicted", "measured", "spread"))
    return View(title=title, blocks=(rounds, *shown.blocks), notes=(*shown.notes, f"It ended: {record.reason}."))


def front(record: Any, *, taken: bool = False) -> View:
    """A `ParetoFront`: which members are worth having; `taken` where one of them was just put in force."""
    rows = tuple(
        (
            str(number),
            format_percent(choice.accuracy),
            marked(format_seconds(choice.jct_s), choice.allocation.plan.unmeasured),
            ", ".join(choice.names) if choice.cascade is None and choice.weights is None else choice.label,
            _lanes_of(choice),
        )
        for number, choice in enumerate(record.choices, 1)
    )
    columns = ("point", "accuracy", "JCT", "members", "lanes")
    more = any(choice.cascade is not None or choice.judged for choice in record.choices)
    how = "Every subset was taken into account" if record.exact else "The best front found by NSGA-II"
    how = "Every subset, and what it may be made of" if more else how
    judged = tuple(dict.fromkeys(f"Accuracy {c.judged}." for c in record.choices if c.judged))
    return View(
        title=f"Members: {format_units(len(record.choices), 'point')} worth having",
        blocks=(front_picture(record), Table(columns=columns, rows=rows, numbers=("point", "accuracy", "JCT"))),
        notes=(
            f"{how}; {format_count(record.evaluations, 'subset')} evaluated on the validation data.",
            *judged,
            *(() if len(record.choices) < 2 or taken else _taking(more)),
            *((_TAKEN,) if taken else ()),
        ),
    )


def _taking(more: bool) -> tuple[str]:
    how = _TAKE_OF_BEST if more else step(_TAKE, "%esen members x y --take 2")
    return (f"`{how}` puts point 2 in force: from then on only its members run.",)


def _lanes_of(choice: Any) -> str:
    stages = (choice,) if choice.cascade is None else choice.cascade.stages
    return ", then ".join(
        " | ".join(f"{units}: {' + '.join(names)}" for units, names in stage.allocation.lanes) for stage in stages
    )


def placement(record: Any) -> View:
    """A `DevicePlacement`."""
    rows = tuple(
        (
            name,
            str(units),
            marked(format_seconds(own.jct_s), own.plan.unmeasured),
            f"{share}: {' + '.join(names)}",
        )
        if k == 0
        else ("", "", "", f"{share}: {' + '.join(names)}")
        for (name, own), units in zip(record.devices, record.units, strict=True)
        if own is not None
        for k, (share, names) in enumerate(own.lanes)
    )
    idle = tuple(
        (name, str(units), "idle", "")
        for (name, own), units in zip(record.devices, record.units, strict=True)
        if own is None
    )
    travel_s = max(record.transfers_s, default=0.0)
    known = facts(
        ("predicted JCT", marked(format_seconds(record.jct_s), _unmeasured(own for _, own in record.devices))),
        ("proven bound", format_seconds(record.bound_s)),
        ("gap to the bound", format_percent(record.gap)),
        ("proven optimal", "yes" if record.proven else "no"),
        ("found by", f"{format_count(record.evaluations, 'placement')} in {format_seconds(record.elapsed_s)}"),
        ("inputs and outputs on the way", format_seconds(travel_s) if travel_s else ""),
    )
    keep = step("lab.studies.plan_of(placement).save('plan.json')", "--save plan.json")
    reach = step("lab.cluster.connect()", "%esen cluster auto")
    table = Table(columns=("device", "units", "JCT", "lanes"), rows=(*rows, *idle), numbers=("units", "JCT"))
    return View(
        title=f"Placement over {format_units(len(record.devices), 'device')}",
        blocks=(table, known),
        notes=(
            *record.notes,
            f"Planned, not run: nodes of a cluster run it, once `{reach}` has reached them. `{keep}` keeps it.",
        ),
    )


def replication(record: Any) -> View:
    """A `Replication`: equal replicas together."""
    columns = ("replicas", "nodes", "JCT", "answers at most")
    table = Table(columns=columns, rows=record.rows(), numbers=("replicas", "JCT", "answers at most"))
    idle = (f"{format_units(len(record.idle), 'node')} without a replica",) if record.idle else ()
    return View(title="Replicas", blocks=(table,), notes=(record.describe(), *idle))


def _unmeasured(allocations: Iterable[Any]) -> dict[str, str]:
    return {name: word for own in allocations if own is not None for name, word in own.plan.unmeasured.items()}


def stages(record: Any) -> View:
    """A `Cascade`."""
    rows = tuple(
        (
            str(number),
            format_percent(stage.reach),
            marked(format_seconds(stage.allocation.jct_s), stage.allocation.plan.unmeasured),
            " | ".join(f"{units}: {' + '.join(names)}" for units, names in stage.allocation.lanes),
        )
        for number, stage in enumerate(record.stages, 1)
    )
    known = facts(
        (
            "expected JCT",
            marked(format_seconds(record.expected_s), _unmeasured(stage.allocation for stage in record.stages)),
        ),
        ("worst case, nobody leaves", format_seconds(record.worst_s)),
        ("all at once", format_seconds(record.at_once_s)),
        ("gain", format_percent(record.gain, signed=True)),
        ("rows of a batch", str(record.rows) if record.rows > 1 else ""),
        ("accuracy, all members", "" if record.whole_accuracy is None else format_percent(record.whole_accuracy)),
        ("accuracy, early exit", "" if record.accuracy is None else format_percent(record.accuracy)),
        ("later than the deadline", "" if record.late is None else format_percent(record.late)),
    )
    table = Table(columns=("stage", "inputs that get there", "JCT", "lanes"), rows=rows, numbers=("stage", "JCT"))
    notes = record.notes
    if len(record.stages) > 1:
        take = step("lab.studies.take(cascade)", "%esen cascade x y --take")
        move = step("lab.studies.thresholds()", "%esen tune")
        notes = (*notes, f"`{take}` puts it in force, `{move}` then moves its thresholds.")
    return View(title=f"Cascade of {format_units(len(record.stages), 'stage')}", blocks=(table, known), notes=notes)


def thresholds(record: Any) -> View:
    """A `ThresholdState`: the thresholds of a cascade, and what is expected with them."""
    rows = tuple(
        (
            str(number),
            " + ".join(stage.names),
            format_confidence(record.thresholds[number - 1]) if number <= len(record.thresholds) else "-",
            format_percent(stage.reach),
            format_percent(
                stage.reach - (record.cascade.stages[number].reach if number <= len(record.thresholds) else 0)
            ),
        )
        for number, stage in enumerate(record.cascade.stages, 1)
    )
    columns = ("stage", "asked", "done at", "inputs that get there", "leave")
    return View(
        title="Thresholds of a cascade",
        blocks=(Table(columns=columns, rows=rows, numbers=("stage", "done at", "inputs that get there", "leave")),),
        notes=(" · ".join(record.figures), *([record.message] if record.message else [])),
    )
