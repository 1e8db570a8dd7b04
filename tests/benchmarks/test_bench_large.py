"""The search on the largest CPU servers: in time, with a gap that is small and true."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import pytest

from esen_lab.planner import allocate
from esen_lab.planner.allocation import Allocation

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "bench_large.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_large", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checked(tables: dict[str, list[float]], units: int, found: Allocation) -> None:
    """Whether a plan is one, and its JCT what its lanes take."""
    assert sorted(name for _, members in found.lanes for name in members) == sorted(tables)
    assert sum(share for share, _ in found.lanes) <= units
    lanes_s = [sum(min(tables[name][:share]) for name in members) for share, members in found.lanes]
    assert max(lanes_s) == pytest.approx(found.jct_s)
    assert found.bound_s <= found.jct_s * (1 + 1e-9)
    assert found.gap == pytest.approx(found.jct_s / found.bound_s - 1)


@pytest.mark.timing
@pytest.mark.parametrize("seed", range(3))
def test_192_cores_24_sub_models_and_5_backends_take_less_than_2_s(bench: ModuleType, seed: int) -> None:
    took_s = []
    for _ in range(3):  # the best of some: other work on the machine is not what is asked about
        begun_s = time.perf_counter()
        tables = bench.on_a_server(24, 192, seed)
        found = allocate(tables, 192)
        took_s.append(time.perf_counter() - begun_s)
    assert min(took_s) < 2.0, "fitting 120 curves and the search together"
    checked(tables, 192, found)
    assert found.gap < 0.02


def test_a_plan_for_a_large_server_is_one_and_says_its_gap(bench: ModuleType) -> None:
    tables = bench.on_a_server(24, 192, 1)
    found = allocate(tables, 192)
    checked(tables, 192, found)
    assert not found.proven
    assert any("not proven to be the best" in note for note in found.plan.notes)
    again = allocate(tables, 192)
    assert (again.lanes, again.jct_s) == (found.lanes, found.jct_s)
