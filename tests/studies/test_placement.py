"""Several devices."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from brute import brute_jct_s

from esen_lab.errors import UsageError
from esen_lab.planner import allocate
from esen_lab.studies.placement import DeviceTables, place

Latencies = dict[str, list[float]]


def by_trying_all(devices: list[DeviceTables]) -> float:
    names = list(devices[0].latencies)
    best = float("inf")
    for where in itertools.product(range(len(devices)), repeat=len(names)):
        jcts = []
        for d, device in enumerate(devices):
            mine = {n: device.latencies[n] for n, w in zip(names, where, strict=True) if w == d}
            jcts.append(brute_jct_s(mine, device.units) if mine else 0.0)
        best = min(best, max(jcts))
    return best


def unlike(latencies: Callable[..., Latencies], n: int, seed: int) -> list[DeviceTables]:
    return [
        DeviceTables(name="big", units=8, latencies=latencies(n, 8, seed)),
        DeviceTables(name="small", units=4, latencies=latencies(n, 4, seed + 100)),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_it_is_as_good_as_trying_every_placement_and_proves_it(seed: int, latencies: Callable[..., Latencies]) -> None:
    devices = unlike(latencies, 5, seed)
    found = place(devices)
    assert found.jct_s == pytest.approx(by_trying_all(devices))
    assert found.proven
    placed = [n for _, plan in found.devices if plan is not None for _, names in plan.lanes for n in names]
    assert sorted(placed) == sorted(devices[0].latencies)
    assert found.jct_s == max(plan.jct_s for _, plan in found.devices if plan is not None)


def test_three_alike_devices_are_used(latencies: Callable[..., Latencies]) -> None:
    tables = latencies(9, 8, 3)
    one = place([DeviceTables(name="only", units=8, latencies=tables)])
    three = place([DeviceTables(name=f"gpu{i}", units=8, latencies=tables) for i in range(3)])
    assert one.jct_s == pytest.approx(allocate(tables, 8).jct_s, rel=0.01)
    assert three.proven
    assert one.bound_s / 3 * (1 - 1e-9) <= three.bound_s == pytest.approx(three.jct_s)
    assert three.jct_s < 0.5 * one.jct_s


def test_beyond_fourteen_sub_models_a_gap_is_reported(latencies: Callable[..., Latencies]) -> None:
    found = place(unlike(latencies, 15, 1))
    assert 0 < found.bound_s <= found.jct_s
    assert found.gap < 0.15
    assert found.to_dict()["devices"][0][0] == "big"


def test_a_device_may_stay_idle() -> None:
    slow = DeviceTables(name="slow", units=1, latencies={"a": [9.0], "b": [9.0]})
    fast = DeviceTables(name="fast", units=2, latencies={"a": [2.0, 1.0], "b": [2.0, 1.0]})
    found = place([slow, fast])
    assert found.devices[0] == ("slow", None)
    assert found.jct_s == 2.0


def test_what_makes_no_sense_is_refused() -> None:
    one = DeviceTables(name="one", units=1, latencies={"a": [1.0]})
    with pytest.raises(UsageError, match="at least one device"):
        place([])
    with pytest.raises(UsageError, match="different names"):
        place([one, one])
    with pytest.raises(UsageError, match="'two' knows b of a"):
        place([one, DeviceTables(name="two", units=1, latencies={"b": [1.0]})])
