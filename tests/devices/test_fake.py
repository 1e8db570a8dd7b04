"""The simulated device: replayed latencies, real answers, and a label on everything."""

from __future__ import annotations

import itertools
import json
import pickle
import time
from pathlib import Path

import pytest
import torch
from models import mlp

from esen_lab import FakeDevice, Lab
from esen_lab.devices import FakePlacement, open_device
from esen_lab.errors import StoreError, UsageError

CURVES = {"a": {25: 0.04, 50: 0.02, 100: 0.012}, "b": {25: 0.02, 100: 0.01}}


def test_recorded_shares_are_replayed_as_they_were() -> None:
    device = FakeDevice(CURVES)
    assert [device.latency_s["a"][share - 1] for share in (25, 50, 100)] == [0.04, 0.02, 0.012]


def test_between_recorded_shares_latency_is_linear_in_one_over_the_share() -> None:
    b = FakeDevice(CURVES).latency_s["b"]
    assert b[40 - 1] == pytest.approx(0.01 + (0.02 - 0.01) * (1 / 40 - 1 / 100) / (1 / 25 - 1 / 100))
    assert b[5 - 1] == pytest.approx(0.02 * 25 / 5), "below the smallest it grows as 1/share"
    assert all(slow >= fast for slow, fast in itertools.pairwise(b))


def test_a_slower_larger_share_counts_as_the_smaller_one() -> None:
    curve = FakeDevice({"a": {50: 0.02, 60: 0.03, 100: 0.01}}).latency_s["a"]
    assert curve[59] == curve[49] == 0.02


@pytest.mark.parametrize(
    ("latencies", "options", "rule"),
    [
        ({}, {}, "at least one sub-model"),
        ({"a": {}}, {}, "at least one recorded latency"),
        ({"a": {50: 0.0}}, {}, "above 0"),
        ({"a": {50: float("nan")}}, {}, "above 0"),
        ({"a": {101: 0.1}}, {}, "101"),
        ({"a": {0: 0.1}}, {}, "0"),
        ({"a": {1: 0.1}}, {"slowdown": 0.5}, "at least 1"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    latencies: dict[str, dict[int, float]], options: dict[str, float], rule: str
) -> None:
    with pytest.raises(UsageError, match=rule):
        FakeDevice(latencies, **options)  # type: ignore[arg-type]


def test_it_says_that_it_is_simulated_wherever_it_is_named() -> None:
    device = FakeDevice(CURVES, name="NVIDIA A100", slowdown=3)
    assert device.identity.simulated
    assert device.identity.name == "NVIDIA A100 (simulated)"
    assert "nothing here is measured" in device.notes[0]
    assert "3 times as long" in device.notes[1]
    assert device.place([30])[0].waits_s["a"][24] == pytest.approx(0.12)


def test_lanes_beyond_the_device_all_slow_down() -> None:
    device = FakeDevice(CURVES)
    assert device.place([50, 50])[0].waits_s["a"][49] == pytest.approx(0.02)
    assert device.place([100, 100])[0].waits_s["a"][99] == pytest.approx(0.024)


@pytest.mark.timing
def test_a_place_travels_to_a_worker_and_paces_there() -> None:
    place = pickle.loads(pickle.dumps(FakeDevice(CURVES).place([50])[0]))
    assert isinstance(place, FakePlacement)
    took = []
    for _ in range(5):
        began = time.perf_counter_ns()
        place.pace("a", 50, began)
        took.append((time.perf_counter_ns() - began) / 1e9)
    assert 0.02 <= min(took) < 0.05


def test_curves_survive_a_file(tmp_path: Path) -> None:
    path = FakeDevice(CURVES, name="NVIDIA A100").save(tmp_path / "a100.json")
    again = open_device(f"fake:{path}")
    assert isinstance(again, FakeDevice)
    assert again.identity.name == "NVIDIA A100 (simulated)"
    assert again.latency_s["b"] == pytest.approx(FakeDevice(CURVES).latency_s["b"])


@pytest.mark.parametrize("text", ["", "[]", '{"name": "x"}', '{"name": "x", "units": 2, "latency_s": {"a": {"9": 1}}}'])
def test_a_damaged_file_shows_what_one_looks_like(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(StoreError, match="latency_s"):
        FakeDevice.load(tmp_path / "bad.json")
    with pytest.raises(StoreError, match="may be read"):
        FakeDevice.load(tmp_path / "none.json")


def _jct_s(lab: Lab, x: torch.Tensor) -> float:
    lab.run(x)
    assert lab.report is not None
    return lab.report.jct_s


@pytest.mark.timing
def test_the_whole_tour_works_on_a_simulated_gpu_and_every_record_is_labelled(tmp_path: Path) -> None:
    x = torch.randn(4, 8)
    a, b = mlp(seed=1), mlp(seed=2)
    with Lab(device=FakeDevice(CURVES, name="NVIDIA A100"), store=tmp_path / "points.sqlite") as lab:
        lab.register("a", a, example=x)
        lab.register("b", b)
        lab.profile(shares=[25, 50, 75, 100], budget_s=0.2).result(timeout=60)
        measured = {(p.name, p.units): p.median_s for p in lab.measurements.points}  # type: ignore[union-attr]
        assert measured["a", 50] == pytest.approx(0.02, rel=0.1)
        plan = lab.search()
        assert plan.device["simulated"]
        y = lab.run(x)
        with torch.inference_mode():
            torch.testing.assert_close(y, (a(x) + b(x)) / 2)
        report = lab.report
        assert report is not None
        assert any("Simulated" in note for note in report.notes)
        # Its lanes are paced by the curves; what else this machine does can only make a run longer.
        assert min(_jct_s(lab, x) for _ in range(8)) == pytest.approx(plan.jct_s, rel=0.3)
        table = lab.compare(x, rounds=3)
        assert any("Simulated" in note for note in table.notes)
        assert json.dumps(table.to_dict())
        assert json.loads(lab.save(tmp_path / "plan.json").read_text())["device"]["simulated"]


def test_a_sub_model_without_recorded_latencies_is_refused_by_name(tmp_path: Path) -> None:
    with Lab(device=FakeDevice(CURVES), store=tmp_path / "points.sqlite") as lab:
        lab.register("other", mlp(), example=torch.randn(4, 8))
        with pytest.raises(UsageError, match=r"recorded latencies of a, b.*other"):
            lab.run(torch.randn(4, 8))
