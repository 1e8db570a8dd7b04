"""The contract of every searcher, and the door they share."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from esen_lab.cost_model import fit_points
from esen_lab.errors import UsageError
from esen_lab.planner import SEARCHERS, allocate, search, searcher_options

Latencies = dict[str, list[float]]
FEW = {"optuna": {"n_trials": 25}}


@pytest.fixture(params=sorted(SEARCHERS))
def searcher(request: pytest.FixtureRequest) -> str:
    if request.param == "optuna":
        pytest.importorskip("optuna")
    return str(request.param)


@pytest.mark.parametrize(("n", "units"), [(1, 1), (1, 4), (3, 2), (5, 16), (6, 4)])
def test_every_searcher_returns_a_valid_plan_with_its_bound_and_trace(
    searcher: str, n: int, units: int, latencies: Callable[..., Latencies]
) -> None:
    tables = latencies(n, units, 5, noise=0.1)
    found = allocate(tables, units, searcher, **FEW.get(searcher, {}))
    assert sorted(name for _, names in found.lanes for name in names) == sorted(tables)
    assert sum(share for share, _ in found.lanes) <= units
    assert all(share >= 1 for share, _ in found.lanes)
    assert [share for share, _ in found.lanes] == sorted((share for share, _ in found.lanes), reverse=True)
    predicted = max(sum(min(tables[name][:share]) for name in names) for share, names in found.lanes)
    assert found.jct_s == pytest.approx(predicted, rel=1e-12)
    for lane in found.plan.lanes:
        assert [tables[n][a - 1] for n, a in zip(lane.members, lane.active_units, strict=True)] == [
            min(tables[n][: lane.units]) for n in lane.members
        ]
        assert all(found.plan.predicted_s[n] == min(tables[n][: lane.units]) for n in lane.members)
    assert 0 < found.schedule_bound_s <= found.bound_s <= found.jct_s
    assert found.gap == pytest.approx(found.jct_s / found.bound_s - 1)
    assert found.trace[-1][1] == found.jct_s or searcher == "exact"
    assert found.evaluations >= (0 if searcher == "exact" else 1)
    assert found.plan.searcher == searcher
    assert json.loads(json.dumps(found.to_dict()))["jct_s"] == found.jct_s


def test_exact_is_never_worse_than_any_other(searcher: str, latencies: Callable[..., Latencies]) -> None:
    for seed in range(3):
        tables = latencies(7, 12, seed, noise=0.05)
        exact = allocate(tables, 12, sequential_within=0.0)
        other = allocate(tables, 12, searcher, **FEW.get(searcher, {}))
        assert exact.jct_s <= other.jct_s * (1 + 1e-9)
        assert exact.bound_s <= other.jct_s * (1 + 1e-9)


def test_every_searcher_is_a_function_of_its_input_and_seed(searcher: str, latencies: Callable[..., Latencies]) -> None:
    tables = latencies(6, 8, 9)
    one, two = (allocate(tables, 8, searcher, **FEW.get(searcher, {})) for _ in range(2))
    assert (one.lanes, one.jct_s, one.evaluations) == (two.lanes, two.jct_s, two.evaluations)


def test_every_searcher_stops_when_asked_and_keeps_its_best(searcher: str, latencies: Callable[..., Latencies]) -> None:
    stop = threading.Event()
    found = allocate(
        latencies(6, 8, 9),
        8,
        searcher,
        stop=stop,
        on_progress=lambda progress: stop.set() if progress.jct_s is not None else None,
    )
    assert found.jct_s > 0
    assert found.evaluations <= 100
    assert "stopped on request: this is the best plan found until then" in found.plan.notes or found.proven


def test_an_unknown_searcher_or_option_names_the_known_ones(searcher: str) -> None:
    with pytest.raises(UsageError, match=r"one of exact, optuna, equal, sequential.*Given: 'genetic'"):
        allocate({"a": [1.0]}, 1, "genetic")
    for gone in ("brute", "random", "knee", "proportional"):
        with pytest.raises(UsageError, match=f"one of exact, optuna, equal, sequential.*Given: '{gone}'"):
            allocate({"a": [1.0]}, 1, gone)
    with pytest.raises(UsageError, match="option wrong"):
        allocate({"a": [1.0]}, 1, searcher, wrong=1)
    for option in searcher_options(searcher):
        with pytest.raises(UsageError, match=option):
            allocate({"a": [1.0]}, 1, searcher, wrong=1)


@pytest.mark.parametrize(
    ("latencies", "units", "message"),
    [
        ({}, 4, "at least one sub-model"),
        ({"a": [1.0]}, 0, "at least 1 unit"),
        ({"a": [1.0]}, 1.5, "at least 1 unit"),
        ({"a": [1.0]}, True, "at least 1 unit"),
        ({"a": [1.0, 2.0]}, 3, "2 of 3 for 'a'"),
        ({"a": [1.0, 2.0, 3.0, 4.0]}, 3, "4 of 3 for 'a'"),
        ({"a": [[1.0], [2.0]]}, 2, "shape"),
        ({"a": 1.0}, 1, "shape"),
        ({"a": [1.0, float("nan")]}, 2, "nan at 2 units for 'a'"),
        ({"a": [float("inf"), 1.0]}, 2, "inf at 1 units for 'a'"),
        ({"a": [1.0, 0.0]}, 2, "0.0 at 2 units"),
        ({"a": [1.0, -2.0]}, 2, "-2.0 at 2 units"),
        ({"a": ["fast"]}, 1, "numbers"),
        ({"a b": [1.0]}, 1, "A name starts with"),
        ({"../a": [1.0]}, 1, "A name starts with"),
        ({"a\n": [1.0]}, 1, "A name starts with"),
        ({3: [1.0]}, 1, "A name starts with"),
        ([("a", [1.0])], 1, "mapping"),
    ],
)
def test_bad_input_is_refused_with_what_was_given(latencies: Any, units: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        allocate(latencies, units)


def test_search_reads_cost_models_and_uses_measured_shares() -> None:
    models = {
        "a": fit_points("a", {2: 1.0, 8: 1.0}, 8),
        "b": fit_points("b", {1: 8.0, 2: 4.0, 4: 2.0, 5: 1.7, 8: 1.2}, 8),
    }
    found = search(models, 8)
    uses = {}
    for lane in found.plan.lanes:
        uses.update(zip(lane.members, lane.active_units, strict=True))
    assert uses["a"] in (1, 2, 8)  # 1 where its lane is that narrow, else a measured share
    assert any(note.startswith("a: below 2 units") for note in found.plan.notes)


def test_search_refuses_models_of_a_smaller_device() -> None:
    with pytest.raises(UsageError, match=r"predict up to 4 units.*Given: 2 for 'a'.*units=4"):
        search({"a": fit_points("a", {1: 1.0, 2: 1.0}, 2)}, 4)


def test_importing_it_loads_no_heavy_package() -> None:
    code = (
        "import sys, esen_lab.planner, esen_lab.cost_model; esen_lab.planner.allocate({'a': [1.0]}, 1);"
        "print(*[m for m in ('torch', 'optuna', 'bokeh', 'IPython', 'scipy', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == []
