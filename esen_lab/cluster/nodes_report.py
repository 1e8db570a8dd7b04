"""The report of a call over nodes: of what each has told, laid into the time of the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from esen_lab.cluster.nodes_run import NodeTold
from esen_lab.cluster.requests import CallRequest
from esen_lab.planner.plan import Plan
from esen_lab.run import RunReport
from esen_lab.run.answered import Answered
from esen_lab.run.report import LaneReport, NodeReport, Span
from esen_lab.run.stage_report import StageReport


def reported(
    asked: CallRequest,
    looks: str,
    told: Sequence[NodeTold],
    idle: Mapping[int, LaneReport],
    *,
    jct_s: float,
    copy_s: float,
    combine_s: float,
    answered: Answered | None,
    notes: Sequence[str] = (),
    stages: Sequence[StageReport] = (),
) -> RunReport:
    """The report: what the input looked like, what nodes told, stage by stage, and the lanes that were asked.

    The lanes are there for nodes that told nothing; the notes come besides those of the nodes. The rest: `RunReport`.
    """
    plan = asked.plan
    as_planned = not plan.example or plan.example == looks
    spans: list[Span] = []
    lanes = dict(idle)
    for one in told:
        began_s = one.began_s - asked.begin_s
        spans += _spans(one, began_s, plan if as_planned else None)
        lanes.update(_lanes(one, began_s))
    of_nodes = [note for one in told for note in one.notes]
    return RunReport(
        jct_s=jct_s,
        spans=tuple(spans),
        lanes=tuple(lanes[number] for number in sorted(lanes)),
        copy_s=copy_s,
        combine_s=combine_s,
        predicted_s=plan.jct_s if as_planned else None,
        batch=looks,
        nan=tuple(name for one in told for name in one.answer.nan),
        notes=tuple(dict.fromkeys((*of_nodes, *notes))),
        unmeasured=plan.unmeasured if as_planned else {},
        stages=tuple(stages),
        worst_s=plan.worst_s if as_planned else None,
        answered=answered,
        nodes=_nodes(told),
    )


def idle_lanes(
    plan: Plan, stage: int, late: Sequence[str], until_s: float, since_s: float = 0.0
) -> dict[int, LaneReport]:
    """The lanes of a stage as those of nodes that did not answer: busy until nobody waited, or not at all.

    Args:
        plan: The plan.
        stage: Which stage; 0 for a plan without.
        late: Nodes that nobody waited for any more, or of which no member was done.
        until_s: When that was, in seconds since the call.
        since_s: When they were asked, likewise.
    """
    return {
        number: LaneReport(
            units=plan.lanes[number].units,
            in_force="",
            members=plan.lanes[number].members,
            start_s=since_s,
            end_s=until_s if plan.lanes[number].device in late else since_s,
            device=plan.lanes[number].device,
        )
        for number in plan.stages[stage]
    }


def _spans(told: NodeTold, began_s: float, plan: Plan | None) -> list[Span]:
    """What ran on a node that began then, with what the plan predicts; None: it predicts nothing for this batch."""
    return [
        replace(
            span,
            lane=told.lanes[span.lane],
            start_s=span.start_s + began_s,
            end_s=span.end_s + began_s,
            predicted_s=None if plan is None else plan.predicted_s.get(span.name),
            unmeasured="" if plan is None else plan.unmeasured.get(span.name, ""),
        )
        for span in told.answer.spans
    ]


def _lanes(told: NodeTold, began_s: float) -> dict[int, LaneReport]:
    """The lanes of a node that began then; none where no member was done in time."""
    return {
        number: replace(lane, start_s=lane.start_s + began_s, end_s=lane.end_s + began_s, device=told.node.name)
        for number, lane in zip(told.lanes, told.answer.lanes, strict=bool(told.answer.lanes))
    }


def _nodes(told: Sequence[NodeTold]) -> tuple[NodeReport, ...]:
    """What each node did, all stages together, in the order of their names."""
    found: dict[str, NodeReport] = {}
    for one in told:
        name, part = one.node.name, one.node.part
        before = found.get(name, NodeReport(name=name, members=part.members, took_s=0.0, network_s=0.0))
        found[name] = replace(
            before,
            took_s=before.took_s + one.answer.took_s,
            network_s=before.network_s + one.network_s,
            sent_bytes=before.sent_bytes + one.sent_bytes,
            received_bytes=before.received_bytes + one.received_bytes,
        )
    return tuple(found[name] for name in sorted(found))
