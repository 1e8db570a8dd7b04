"""What a run's report derives from its spans."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields, replace
from typing import Any

import pytest

from esen_lab.run import LaneReport, RunReport, Span
from esen_lab.run.stage_report import StageReport


def report(*spans: tuple[int, float, float], jct_s: float = 10.0) -> RunReport:
    lanes = sorted({lane for lane, _, _ in spans})
    return RunReport(
        jct_s=jct_s,
        spans=tuple(Span(name=f"m{i}", lane=lane, start_s=a, end_s=b) for i, (lane, a, b) in enumerate(spans)),
        lanes=tuple(
            LaneReport(
                units=1,
                in_force="",
                members=(),
                start_s=min(a for own, a, _ in spans if own == lane),
                end_s=max(b for own, _, b in spans if own == lane),
            )
            for lane in lanes
        ),
        copy_s=0.0,
        combine_s=0.0,
    )


def test_overlap_is_the_part_of_busy_time_with_two_or_more_at_once() -> None:
    assert report((0, 0, 4), (1, 2, 6)).overlap == pytest.approx(2 / 6)
    assert report((0, 0, 4), (1, 4, 6)).overlap == 0.0
    assert report((0, 1, 3), (1, 1, 3), (2, 1, 3)).overlap == 1.0


def test_concurrency_is_the_mean_number_running_while_any_runs() -> None:
    assert report((0, 0, 2), (1, 0, 2)).concurrency == 2.0
    assert report((0, 0, 2), (1, 4, 6)).concurrency == 1.0


def test_overhead_is_what_the_run_cost_beyond_its_slowest_lane() -> None:
    assert report((0, 1, 4), (1, 1, 9), jct_s=10.0).overhead_s == 2.0


def test_a_report_is_plain_data() -> None:
    data = report((0, 0, 4), (1, 2, 6)).to_dict()
    assert json.loads(json.dumps(data)) == data


def test_a_late_report_makes_its_spans_and_lanes_once_and_is_then_like_any_other() -> None:
    early = report((0, 1.0, 3.0), (1, 2.0, 4.0))
    made = []

    def make() -> tuple[tuple[Span, ...], tuple[LaneReport, ...]]:
        made.append(1)
        return early.spans, early.lanes

    known = {field.name: getattr(early, field.name) for field in fields(early)}
    late = RunReport.late(make, **{key: known[key] for key in known if key not in ("spans", "lanes", "_make")})
    assert late.jct_s == early.jct_s
    assert not made, "nobody has looked"
    assert late.slowest_lane_s == early.slowest_lane_s
    assert late.to_dict() == early.to_dict()
    assert late == early
    assert replace(late, notes=("one",)).spans == early.spans
    assert pickle.loads(pickle.dumps(late)) == early
    assert made == [1]
    with pytest.raises(AttributeError, match="no 'lane'"):
        late.lane  # type: ignore[attr-defined]  # noqa: B018


def test_what_a_late_report_says_of_its_prediction_is_made_once_when_somebody_looks() -> None:
    early = report((0, 1.0, 3.0))
    asked = []

    def remark(seen: RunReport) -> tuple[str, ...]:
        asked.append(seen.overhead_s)
        return ("far off",)

    late = RunReport.late(
        lambda: (early.spans, early.lanes), jct_s=10.0, copy_s=0.0, combine_s=0.0, notes=("one",), remark=remark
    )
    assert late.with_notes_before(("zero",)) is late
    assert asked == [], "nobody has looked"
    assert late.far == ("far off",)
    assert late.notes == ("zero", "one", "far off")
    assert late.to_dict()["far"] == ["far off"]
    assert pickle.loads(pickle.dumps(late)) == late
    assert asked == [8.0]
    assert early.with_notes_before(("zero",)).notes == ("zero",)


def test_a_lane_is_late_beyond_what_is_usual_after_the_copy() -> None:
    assert report((0, 0.2, 4), (1, 0.4, 6)).late_s == (0.0, 0.0), "within 5 % of the JCT of 10 s"
    late = report((0, 0.2, 4), (1, 3.7, 6))
    assert late.late_s == (0.0, pytest.approx(3.7 - late.copy_s))
    assert "Began late: lane 2 by" in str(late)
    soon = report((0, 0.0002, 0.0005), jct_s=0.001)
    assert soon.late_text == "", "a fifth of a millisecond is nobody's fault"


def test_a_lane_of_a_later_stage_is_late_after_the_first_lane_of_that_stage() -> None:
    early = report((0, 0.2, 3), (1, 4.0, 6), (2, 7.0, 9))
    lanes = [replace(lane, members=(name,)) for lane, name in zip(early.lanes, "abc", strict=True)]
    stage: dict[str, Any] = {"of": 4, "ran": 4, "decide_s": 0.0, "predicted_reach": 1.0}
    stages = (
        StageReport(names=("a",), rows=4, left=2, start_s=0.0, end_s=3.1, **stage),
        StageReport(names=("b", "c"), rows=2, left=2, start_s=3.1, end_s=9.1, **stage),
    )
    assert replace(early, lanes=tuple(lanes), stages=stages).late_s == (0.0, 0.0, pytest.approx(3.0))
