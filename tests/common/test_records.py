"""Every record a user meets reads well in a terminal, is plain data, and becomes a table where pandas is."""

from __future__ import annotations

import builtins
import json
import math
from dataclasses import fields
from importlib import import_module
from typing import Any

import pytest
from IPython.core.formatters import DisplayFormatter
from IPython.lib.pretty import pretty
from points import POINT

from esen_lab.common.answers import Difference
from esen_lab.common.display import Shown
from esen_lab.common.records import to_dict, to_frame
from esen_lab.cost_model import fit_points
from esen_lab.errors import UsageError
from esen_lab.planner.editor import PlanEditor
from esen_lab.planner.plan import Lane, Plan
from esen_lab.profiler.backends import BackendPoint, BackendTable
from esen_lab.profiler.records import Failure, Profile
from esen_lab.run.comparison import Comparison, Row
from esen_lab.run.numerics import NumericsVerdict, judge
from esen_lab.run.report import LaneReport, RunReport, Span
from esen_lab.ui.html import text_of
from esen_lab.ui.views import RECORDS as VIEWS

PLAN = Plan(
    lanes=(Lane(units=3, members=("wide", "deep"), active_units=(3, 2)), Lane(units=1, members=("slim",))),
    units=4,
    jct_s=0.0045,
    bound_s=0.004,
    predicted_s={"wide": 0.002},
    notes=("a remark",),
)
PROFILE = Profile(device={}, units=4, points=(POINT,), failures=(Failure(name="deep", units=1, message="it raised"),))
REPORT = RunReport(
    jct_s=0.005,
    spans=(Span(name="wide", lane=0, start_s=0.0, end_s=0.004, predicted_s=0.0039),),
    lanes=(LaneReport(units=4, in_force="cores 0-3", members=("wide",), start_s=0.0, end_s=0.004),),
    copy_s=0.0,
    combine_s=0.0,
)
COMPARISON = Comparison(
    rows=(
        Row(strategy="sequential", lanes="4: wide", median_s=0.01, spread_s=0.001, agreement="bit-equal", agrees=True),
        Row(strategy="vmap", lanes="-", median_s=math.nan, spread_s=math.nan, failed="two kinds"),
    ),
    rounds=5,
    verdict="The plan wins.",
)
TUNING = PlanEditor({"wide": fit_points("wide", {1: 0.004, 2: 0.002}, 2)}, 2)
VERDICT = NumericsVerdict(
    rows=(
        judge("wide", 0, 2, "CPUs 0-1, 2 threads", [Difference(dtype="float32", error=1e-7)]),
        judge("deep", 1, 1, "CPU 2, 1 thread", [Difference(dtype="float32", error=0.5)]),
    ),
    units=4,
    unit="core",
    notes=("a remark",),
)
BACKENDS = BackendTable(
    points=(
        BackendPoint(name="wide", units=2, backend="eager", median_s=0.004, spread_s=0.0001, chosen=True),
        BackendPoint(name="wide", units=2, backend="inductor", median_s=0.006, spread_s=0.0001),
        BackendPoint(name="wide", units=2, backend="cuda-graph", why="there is no GPU"),
    ),
    units=4,
    unit="core",
)
RECORDS = {
    "plan": (PLAN, ("3 of 4", "wide → deep", "predicted JCT 4.50 ms, 12.5 % above", "a remark")),
    "profile": (PROFILE, ("median at", "4.00 ms", "deep at 1 failed: it raised")),
    "report": (REPORT, ("JCT 5.00 ms", "overlap")),
    "comparison": (COMPARISON, ("sequential", "10.0 ms", "bit-equal", "two kinds", "The plan wins.")),
    "tuning": (TUNING.state, ("wide", "predicted JCT 2.00 ms", "lane 1 limits")),
    "verdict": (VERDICT, ("CPU 2, 1 thread", "WRONG ANSWERS: deep with 1 core, 1 of 1 runs", "a remark")),
    "backends": (BACKENDS, ("4.00 ms", "inductor takes 1.50× as long", "No cuda-graph: there is no GPU.")),
}


@pytest.mark.parametrize(("record", "words"), RECORDS.values(), ids=RECORDS)
def test_a_record_reads_well_in_a_terminal_and_is_plain_data(record: Any, words: tuple[str, ...]) -> None:
    told = str(record)
    assert all(word in told for word in words)
    assert max(map(len, told.splitlines())) <= 120
    json.dumps(record.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("record", "rows", "column"),
    [(PLAN, 3, "active_units"), (PROFILE, 1, "median_s"), (REPORT, 1, "predicted_s"), (COMPARISON, 2, "median_s")],
    ids=["plan", "profile", "report", "comparison"],
)
def test_a_record_becomes_a_table_of_pandas(record: Any, rows: int, column: str) -> None:
    pytest.importorskip("pandas")
    table = record.to_frame()
    assert len(table) == rows
    assert column in table.columns


def test_plain_data_are_the_public_fields_with_figures_that_are_none_absent() -> None:
    data = to_dict(COMPARISON)
    assert list(data) == [field.name for field in fields(Comparison)]
    assert data["rows"][0]["strategy"] == "sequential"
    assert data["rows"][1]["median_s"] is None, "it was NaN"
    assert data["rows"][0]["times_s"] == []
    assert not any(key.startswith("_") for key in to_dict(REPORT))
    assert {**COMPARISON.to_dict(), "plans": {}} == data, "plans are saved by themselves"


def test_without_pandas_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match="pip install pandas, or use to_dict"):
        to_frame([])


def test_every_record_that_has_a_view_shows_itself_without_the_extension() -> None:
    for name in VIEWS:
        home, _, kind = name.rpartition(".")
        try:
            module = import_module(home)
        except ModuleNotFoundError as missing:
            if str(missing.name).startswith("esen_lab"):
                raise
            continue  # it is of an optional group that is not installed
        assert issubclass(getattr(module, kind), Shown), name


@pytest.mark.parametrize(
    "record",
    [PLAN, PROFILE, REPORT, COMPARISON, TUNING, TUNING.state, VERDICT, BACKENDS],
    ids=lambda r: type(r).__name__,
)
def test_plain_ipython_shows_a_record_as_a_table_and_as_readable_text(record: Any) -> None:
    formatter = DisplayFormatter()
    formatter.active_types = ["text/plain", "text/html"]
    shown, _ = formatter.format(record)
    assert "<table" in shown["text/html"]
    assert shown["text/plain"] == text_of(record)


def test_records_within_a_list_are_readable_too() -> None:
    assert text_of(PLAN) in pretty([PLAN])
