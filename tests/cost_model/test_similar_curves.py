"""Predictions corrected by complete curves of the same device."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from latencies import recorded_curves
from points import POINT

from esen_lab.cost_model import Experience, fit, fit_points
from esen_lab.cost_model.similar_curves import LEAST_CURVES
from esen_lab.profiler.records import Profile

MEASURED = (30, 60, 100)
Curves = dict[tuple[str, str], dict[int, float]]
Recorded = Mapping[tuple[str, ...], Mapping[int, float]]


def half(curves: Recorded, which: int) -> Recorded:
    return {key: curve for key, curve in curves.items() if zlib.crc32(repr(key).encode()) % 2 == which}


def of(key: tuple[str, ...]) -> tuple[str, str]:
    return "/".join(key[:3]), "/".join(key[3:])


def made_up(
    count: int, *, dip: float, networks: int = 3, noise: float = 0.002
) -> dict[tuple[str, str], dict[int, float]]:
    """Curves over 16 units of a device on which 11 units are faster than their neighbours by `dip`."""
    random = np.random.default_rng(5)
    curves = {}
    for index in range(count):
        a, b = random.uniform(1, 2), random.uniform(1, 20)
        curve = {s: (a + b / s) * (1 - dip * (s == 11)) * (1 + random.normal(0, noise)) for s in range(1, 17)}
        curves[f"network {index % networks}", f"batch {index}"] = curve
    return curves


@pytest.mark.parametrize(("phase", "most"), [("prefill", 0.026), ("decoding", 0.034)])
def test_one_half_of_the_recorded_curves_foretells_the_other_from_three_shares(phase: str, most: float) -> None:
    curves = recorded_curves()
    known = Experience({of(key): curve for key, curve in half(curves, 0).items()})
    errors, before = [], []
    for key, curve in half(curves, 1).items():
        if key[0] == phase:
            points = {share: curve[share] for share in MEASURED}
            others = [share for share in curve if share not in MEASURED]
            for found, model in (
                (errors, fit_points("a", points, 100, experience=known, of=of(key))),
                (before, fit_points("a", points, 100)),
            ):
                found += [abs(model.latency_s[share - 1] / curve[share] - 1) for share in others]
    assert len(errors) > 500
    assert np.mean(errors) < most
    assert np.mean(errors) < np.mean(before)


def test_curves_of_another_network_correct_nothing_where_they_do_not_even_foretell_each_other() -> None:
    curves = recorded_curves()
    seven = {of(key): curve for key, curve in curves.items() if key[1] == "llama-7b"}
    # What was measured of the other network is in the store too: that makes it no network that is known.
    few = {of(key): {s: curve[s] for s in MEASURED} for key, curve in curves.items() if key[1] != "llama-7b"}
    known = Experience({**seven, **few})
    for key, curve in list(curves.items())[::25]:
        points = {share: curve[share] for share in MEASURED}
        corrected = fit_points("a", points, 100, experience=known, of=of(key))
        plain = fit_points("a", points, 100)
        assert (corrected != plain) <= (key[1] == "llama-7b")


def test_a_share_that_suits_every_network_of_a_device_is_expected_of_a_new_one_too() -> None:
    known = Experience(made_up(30, dip=0.2))
    model = fit_points("new", {2: 6.0, 8: 3.0, 16: 2.5}, 16, experience=known, of=("new", "batch"))
    plain = fit_points("new", {2: 6.0, 8: 3.0, 16: 2.5}, 16)
    assert model.latency_s[10] == pytest.approx(0.8 * plain.latency_s[10], rel=0.02)
    assert model.active_units[11] == 11
    assert model.notes[0].startswith("corrected by 30 complete curves of this device")
    assert model.error is not None
    assert model.error < 0.01


@pytest.mark.parametrize(
    ("curves", "why"),
    [
        (made_up(LEAST_CURVES - 1, dip=0.2), "too few to tell a gain from chance"),
        (made_up(30, dip=0.0, noise=0.05), "only noise is left to learn"),
        (made_up(30, dip=0.2, networks=1), "all of one other network: nothing shows that a stranger gains"),
        ({key: {s: curve[s] for s in (2, 8, 16, 11)} for key, curve in made_up(30, dip=0.2).items()}, "not complete"),
        ({key: {s: t for s, t in c.items() if s != 8} for key, c in made_up(30, dip=0.2).items()}, "other shares"),
        ({}, "nothing is known"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_not_proven_itself_changes_nothing(curves: dict[tuple[str, str], dict[int, float]], why: str) -> None:
    points = {2: 6.0, 8: 3.0, 16: 2.5}
    assert fit_points("new", points, 16, experience=Experience(curves), of=("new", "x")) == fit_points(
        "new", points, 16
    ), why


def test_a_curve_is_not_corrected_by_itself() -> None:
    curves = made_up(30, dip=0.2)
    key, curve = next(iter(curves.items()))
    odd = {**curve, 5: 3 * curve[5]}
    known = Experience({**curves, key: odd})
    points = {share: curve[share] for share in (2, 8, 16)}
    without = Experience({other: curve for other, curve in curves.items() if other != key})
    corrected = fit_points("a", points, 16, experience=known, of=key).latency_s
    assert corrected == pytest.approx(fit_points("a", points, 16, experience=without, of=key).latency_s, rel=0.01)


def test_a_few_other_batches_of_a_network_do_not_make_it_a_known_one() -> None:
    curves = made_up(30, dip=0.2, networks=1)
    other = {("new", f"batch {batch}"): curve for batch, curve in enumerate(made_up(3, dip=0.2).values())}
    points = {2: 6.0, 8: 3.0, 16: 2.5}
    known = Experience({**curves, **other})
    assert fit_points("a", points, 16, experience=known, of=("new", "x")) == fit_points("a", points, 16)
    assert fit_points("a", points, 16, experience=known, of=("network 0", "x")).notes[0].startswith("corrected by 33")


def test_measured_tables_and_upper_quantiles_are_left_alone() -> None:
    known = Experience(made_up(30, dip=0.2))
    whole = {share: 1.0 + 8 / share for share in range(1, 17)}
    assert fit_points("a", whole, 16, experience=known).notes == ()
    assert fit_points("a", {8: 1.0}, 16, experience=known) == fit_points("a", {8: 1.0}, 16)
    curve = ((2, 6.0), (8, 3.0), (16, 2.5))
    points = tuple(replace(POINT, name="a", units=s, median_s=t, quantile_90_s=t) for s, t in curve)
    measured = Profile(device={}, units=16, points=points, fingerprints={"a": "f"}, examples={"a": "e"})
    assert fit(measured, experience=known)["a"].notes[0].startswith("corrected")
    assert fit(measured, experience=known, quantile="q90") == fit(measured, quantile="q90")
