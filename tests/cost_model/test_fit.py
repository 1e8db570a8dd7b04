"""From a profile to cost models."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from latencies import recorded_curves

from esen_lab.cost_model import fit, fit_points
from esen_lab.errors import UsageError
from esen_lab.profiler.records import Failure, Point, Profile


def point(name: str, units: int, median_s: float) -> Point:
    return Point(
        name=name,
        units=units,
        median_s=median_s,
        spread_s=0.0,
        quantile_90_s=2 * median_s,
        repeats=10,
        warmups=3,
        settled=True,
        peak_memory_bytes=None,
        measured_at="2026-01-01T00:00:00+00:00",
    )


def profile(*points: Point, units: int, failures: tuple[Failure, ...] = ()) -> Profile:
    return Profile(device={}, units=units, points=points, failures=failures)


def test_a_table_holds_the_measurements_and_uses_fewer_units_where_fewer_are_faster() -> None:
    model = fit_points("a", {1: 4.0, 2: 3.0, 3: 3.5, 4: 2.0}, 4)
    assert model.method == "table"
    assert model.latency_s == (4.0, 3.0, 3.0, 2.0)
    assert model.active_units == (1, 2, 2, 4)
    assert model.error is None
    assert model.notes == ()


def test_a_share_with_wrong_answers_is_kept_off_and_no_wider_lane_runs_as_it_does() -> None:
    model = fit_points("a", {1: 4.0, 2: 1.0, 3: 3.0, 4: 2.0}, 4, avoid=[2, 9])
    assert model.avoid == (2,)
    assert model.table(4) == (4.0, None, 3.0, 2.0)
    assert model.active_units == (1, 1, 3, 4)
    assert model.notes == ("kept off 2 units, where its answers were wrong",)
    assert model.to_dict()["avoid"] == [2]
    assert fit_points("a", {1: 4.0, 2: 1.0}, 2, avoid=[1]).table(2) == (None, 1.0)
    first = fit_points("a", {1: 1.0, 2: 3.0, 3: 2.0}, 3, avoid=[1])
    assert (first.table(3), first.active_units) == ((None, 3.0, 2.0), (1, 2, 3)), "nor is it predicted to"


def test_of_equal_shares_a_measured_one_is_used_and_of_those_the_widest() -> None:
    model = fit_points("a", {2: 3.0, 4: 3.0}, 6)
    assert model.latency_s == pytest.approx((3.0,) * 6)
    assert model.active_units == (1, 2, 2, 4, 4, 4)


def test_many_points_are_interpolated_and_hit_exactly() -> None:
    points = {1: 9.0, 4: 3.5, 8: 2.0, 16: 1.5, 20: 1.4}
    model = fit_points("a", points, 20)
    assert model.method == "interpolated"
    assert {share: model.latency_s[share - 1] for share in points} == points
    assert model.error is not None
    assert 0 < model.error < 0.5


@pytest.mark.parametrize("shares", [(4, 16), (2, 7, 16)])
def test_two_or_three_shares_of_many_are_fitted_by_a_plus_b_over_s(shares: tuple[int, ...]) -> None:
    model = fit_points("a", {s: 1.0 + 8.0 / s for s in shares}, 16)
    assert model.method == "parametric"
    assert model.latency_s == pytest.approx([1.0 + 8.0 / s for s in range(1, 17)])
    assert model.error == (None if len(shares) == 2 else pytest.approx(0.0, abs=1e-9))
    assert model.notes == (f"below {shares[0]} units: extrapolated",)


def test_two_of_three_shares_are_many_so_they_are_interpolated() -> None:
    assert fit_points("a", {1: 3.0, 3: 1.0}, 3).method == "interpolated"


def test_one_point_is_a_constant_that_says_what_it_does_not_know() -> None:
    model = fit_points("a", {8: 0.002}, 16)
    assert model.method == "constant"
    assert model.latency_s == (0.002,) * 16
    assert model.active_units == (*range(1, 8), *(8,) * 9)
    assert model.error is None
    assert model.notes == (
        "measured at 8 of 16 units only (2.00 ms): how its latency depends on the share is not known, and it is "
        "taken as the same at every share",
    )


def test_a_device_of_one_unit_needs_one_point() -> None:
    assert fit_points("a", {1: 0.5}, 1).method == "table"


def test_leave_one_out_says_how_well_inner_points_follow_from_the_others() -> None:
    model = fit_points("a", {1: 4.0, 2: 3.0, 4: 1.0, 5: 1.0}, 6)
    without_2 = 4.0 + (1.0 - 4.0) * (1 - 1 / 2) / (1 - 1 / 4)
    without_4 = 3.0 + (1.0 - 3.0) * (1 / 2 - 1 / 4) / (1 / 2 - 1 / 5)
    errors = [abs(without_2 / 3.0 - 1), abs(without_4 / 1.0 - 1)]
    assert model.error == pytest.approx(np.mean(errors))


def test_fit_takes_every_sub_model_in_order_and_the_quantile_asked_for() -> None:
    measured = profile(point("b", 1, 2.0), point("b", 2, 1.0), point("a", 1, 4.0), point("a", 2, 3.0), units=2)
    assert list(fit(measured)) == ["b", "a"]
    assert fit(measured)["a"].latency_s == (4.0, 3.0)
    assert fit(measured, quantile="q90")["a"].latency_s == (8.0, 6.0)
    assert fit(measured, units=1)["a"].latency_s == (4.0,)


def test_a_sub_model_without_a_point_is_named_with_its_failure() -> None:
    measured = profile(point("a", 1, 1.0), units=2, failures=(Failure(name="b", units=2, message="ran out of memory"),))
    with pytest.raises(UsageError, match=r"none of 'b'; 2 units failed: ran out of memory"):
        fit(measured)


@pytest.mark.parametrize("latency_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_latency_that_is_none_is_refused(latency_s: float) -> None:
    with pytest.raises(UsageError, match="positive latency"):
        fit_points("a", {1: latency_s}, 2)


def test_bad_requests_are_refused() -> None:
    measured = profile(point("a", 1, 1.0), units=2)
    with pytest.raises(UsageError, match="median, q90"):
        fit(measured, quantile="mean")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="between 1 and 2"):
        fit(measured, units=3)
    with pytest.raises(UsageError, match="at least one sub-model"):
        fit(profile(units=2))
    with pytest.raises(UsageError, match="at least one measured point"):
        fit_points("a", {}, 2)


def test_at_every_share_the_fastest_backend_counts() -> None:
    model = fit_points("a", {1: 4.0, 2: 2.0}, 2, others={"openvino": {1: 1.0, 2: 1.9}, "onnxruntime": {2: 1.5}})
    assert model.latency_s == (1.0, 1.0)
    assert model.backends == ("openvino", "openvino"), "with 2 units it uses 1"
    assert model.active_units == (1, 1)
    assert model.points == ((1, 1.0), (2, 1.5))
    assert model.notes == ("by openvino",)


def test_each_share_may_have_a_backend_of_its_own() -> None:
    others = {"openvino": {1: 1.0}, "onnxruntime": {2: 0.5}}
    model = fit_points("a", {1: 4.0, 2: 3.0, 3: 0.2}, 3, others=others)
    assert [model.backend(units) for units in (1, 2, 3)] == ["openvino", "onnxruntime", "eager"]
    assert model.latency_s == (1.0, 0.5, 0.2)
    assert model.notes == ("by openvino with 1 unit; by onnxruntime with 2 units",)


def test_a_backend_that_gains_next_to_nothing_is_not_taken() -> None:
    model = fit_points("a", {1: 4.0, 2: 2.0}, 2, others={"openvino": {1: 3.9, 2: 1.96}})
    assert model.backends == ()
    assert model.latency_s == (4.0, 2.0)


def test_between_its_shares_a_backend_takes_its_part_of_the_eager_time_and_outside_of_them_none() -> None:
    eager = {1: 8.0, 2: 4.0, 4: 2.0, 8: 1.5}
    model = fit_points("a", eager, 8, others={"openvino": {2: 2.0, 4: 1.0}})
    assert [model.backend(units) for units in (1, 2, 3, 4)] == ["eager", "openvino", "openvino", "openvino"]
    assert model.latency_s[2] == pytest.approx(fit_points("a", eager, 8).latency_s[2] / 2)
    assert model.backend(8) == "openvino", "with 8 units it uses 4, since eager with 8 is no faster"
    assert model.latency_s[7] == 1.0


def test_a_backend_is_not_used_at_a_share_where_its_answers_were_wrong() -> None:
    measured = profile(point("a", 1, 4.0), point("a", 2, 2.0), units=2)
    by_openvino = tuple(replace(point("a", units, 1.0 / units), backend="openvino") for units in (1, 2))
    measured = replace(measured, backend_points=by_openvino)
    model = fit(measured, wrong={"a": {("openvino", 2)}})["a"]
    assert [model.backend(units) for units in (1, 2)] == ["openvino", "openvino"]
    assert model.latency_s == (1.0, 1.0)
    assert model.avoid == ()
    assert fit(measured, wrong={"a": {("eager", 1)}})["a"].avoid == (1,)


def test_only_backends_that_are_allowed_count() -> None:
    measured = profile(point("a", 1, 4.0), units=1)
    measured = replace(measured, backend_points=(replace(point("a", 1, 1.0), backend="openvino@bf16"),))
    assert fit(measured, backends={"a": ()})["a"].latency_s == (4.0,)
    assert fit(measured, backends={"a": ("openvino@bf16",)})["a"].latency_s == (1.0,)


@given(
    eager=st.dictionaries(st.integers(1, 12), st.floats(1e-3, 1e3), min_size=1, max_size=6),
    others=st.dictionaries(
        st.sampled_from(["openvino", "onnxruntime", "inductor"]),
        st.dictionaries(st.integers(1, 12), st.floats(1e-3, 1e3), max_size=6),
        max_size=3,
    ),
)
def test_more_backends_never_make_a_lane_slower(eager: dict[int, float], others: dict[str, dict[int, float]]) -> None:
    alone, joint = fit_points("a", eager, 12), fit_points("a", eager, 12, others=others)
    assert all(ours <= theirs for ours, theirs in zip(joint.latency_s, alone.latency_s, strict=True))
    assert all(later <= earlier for earlier, later in zip(joint.latency_s, joint.latency_s[1:], strict=False))
    for units in range(1, 13):
        backend, active = joint.backend(units), joint.active_units[units - 1]
        if backend != "eager" and active in others[backend]:
            assert joint.latency_s[units - 1] == pytest.approx(others[backend][active])


@given(
    points=st.dictionaries(st.integers(1, 24), st.floats(1e-6, 1e3), min_size=1, max_size=8),
    units=st.integers(1, 24),
)
def test_any_points_give_a_table_that_never_rises(points: dict[int, float], units: int) -> None:
    model = fit_points("a", points, units)
    assert len(model.latency_s) == len(model.active_units) == units
    assert all(later <= earlier for earlier, later in zip(model.latency_s, model.latency_s[1:], strict=False))
    assert all(1 <= active <= share for share, active in enumerate(model.active_units, start=1))
    assert all(latency > 0 for latency in model.latency_s)
    assert all(
        model.latency_s[active - 1] == pytest.approx(latency)
        for latency, active in zip(model.latency_s, model.active_units, strict=True)
    )


@pytest.mark.parametrize(
    ("phase", "half", "most"),
    # Of the other half is the figure that is reported: nothing was chosen by it. See docs/search.md.
    [("prefill", 0, 0.0275), ("prefill", 1, 0.028), ("decoding", 0, 0.038), ("decoding", 1, 0.034)],
)
def test_three_shares_of_a_recorded_curve_predict_the_others(phase: str, half: int, most: float) -> None:
    errors = []
    for key, curve in recorded_curves().items():
        if key[0] == phase and zlib.crc32(repr(key).encode()) % 2 == half:
            model = fit_points("a", {s: curve[s] for s in (30, 60, 100)}, 100)
            errors += [abs(model.latency_s[s - 1] / curve[s] - 1) for s in curve if s not in (30, 60, 100)]
    assert len(errors) > 500
    assert np.mean(errors) < most


# --- what rests on no measurement nearby ------------------------------------------------------------------------------


def words(points: dict[int, float], units: int) -> str:
    """A letter per share: e extrapolated, f between far-apart shares, . known."""
    model = fit_points("a", points, units)
    letters = {"": ".", "extrapolated": "e", "interpolated far": "f"}
    return "".join(letters[model.unmeasured(k)] for k in range(1, units + 1))


@pytest.mark.parametrize(
    ("points", "units", "expected"),
    [
        ({1: 9.0, 2: 5.0, 3: 3.0, 4: 2.0}, 4, "...."),
        ({2: 5.0, 4: 2.0}, 4, "e..."),
        ({3: 5.0, 6: 2.0}, 8, "ee....ee"),
        ({1: 9.0, 8: 2.0}, 8, ".ffffff."),
        ({1: 9.0, 4: 3.0, 8: 2.0}, 8, "........"),
        ({4: 2.0}, 8, "eee.eeee"),
        ({1: 2.0}, 1, "."),
    ],
)
def test_shares_that_no_measurement_is_near_are_told_apart(points: dict[int, float], units: int, expected: str) -> None:
    assert words(points, units) == expected


def test_a_share_at_which_fewer_units_are_used_is_as_well_known_as_those() -> None:
    assert words({1: 2.0, 16: 3.0}, 16) == "................", "one unit is the fastest, and measured"


def test_the_marks_are_part_of_a_models_plain_data() -> None:
    model = fit_points("a", {2: 5.0, 4: 2.0}, 4)
    assert model.to_dict()["unmeasured"] == ["extrapolated", "", "", ""]
