"""What is counted of runs: each once, and each lane's time as that lane's."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

from esen_lab.planner.plan import Lane, Plan
from esen_lab.run.report import RunReport, spans_and_lanes
from esen_lab.serving.metrics import BatchRun, Counted, Metrics

CASCADE = Plan(
    lanes=(
        Lane(units=1, members=("first",)),
        Lane(units=1, members=("slow",), stage=1),
        Lane(units=1, members=("fast",), stage=1),
    ),
    units=2,
    reach=(1.0, 0.5),
    threshold=0.9,
)


def report_of(at_s: dict[str, tuple[float, float]], until_s: float | None = None) -> RunReport:
    spans, lanes = spans_and_lanes(CASCADE, ("", "", ""), at_s, same_shape=False, until_s=until_s)
    return RunReport(jct_s=1.0, spans=spans, lanes=lanes, copy_s=0.0, combine_s=0.0)


def busy_s(*reports: RunReport | None) -> dict[int, float]:
    metrics = Metrics()
    metrics.ran([BatchRun(rows=1, requests=1, took_s=1.0, report=report, done=True) for report in reports])
    text = metrics.text().decode()
    told = {number: seconds for number, seconds in metrics.totals.lane_busy_s.items() if seconds}
    for number, seconds in told.items():
        assert f'esen_lane_busy_seconds_total{{lane="{number}"}} {seconds}' in text
    return told


def test_the_time_of_a_lane_is_its_own_where_others_of_its_stage_are_not_in_the_report() -> None:
    assert busy_s(report_of({"first": (0.0, 0.5), "fast": (0.5, 0.75)}, until_s=0.9)) == {0: 0.5, 2: 0.25}


def test_runs_that_ended_early_or_failed_leave_the_other_lanes_alone() -> None:
    everybody = report_of({"first": (0.0, 0.5), "slow": (0.5, 1.0), "fast": (0.5, 0.75)})
    assert busy_s(report_of({"first": (0.0, 0.5)}), None, everybody) == {0: 1.0, 1: 0.5, 2: 0.25}
    assert busy_s(report_of({}, until_s=0.5)) == {0: 0.5}, "late, and busy until nobody waited any more"


def test_what_is_counted_by_size_reads_as_a_histogram_of_prometheus() -> None:
    bounds, numbers = (0.0005, 1, 2.5, 1024), (0.0, 0.0005, 0.00051, 1.0, 2.0, 2.5, 1024.0, 1025.0, 1e9)
    counted = Counted("esen_it", "What it is", bounds)
    registry = CollectorRegistry()
    own = Histogram("esen_it", "What it is", buckets=bounds, registry=registry)
    for number in numbers:
        counted.add(number)
        own.observe(number)
    told = CollectorRegistry()
    told.register(_Told(counted))
    lines = [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
    assert generate_latest(told).decode().splitlines() == lines


class _Told:
    def __init__(self, counted: Counted) -> None:
        self._counted = counted

    def collect(self) -> list[Metric]:
        return [self._counted.told]
