"""Which backends a profile tries at a share, and which it measures in earnest."""

from __future__ import annotations

from dataclasses import replace

from points import POINT

from esen_lab.profiler.backend_trials import Trials, in_order


def trials(asked: tuple[str, ...] = ("openvino", "onnxruntime", "inductor"), **medians: float) -> Trials:
    """Of a sub-model whose eager step takes 10 ms with 2 units; `medians` are of backends, there."""
    made = Trials(asked=asked, eager={2: 0.01, 1: 0.02})
    for backend, seconds in medians.items():
        known(made, backend, 2, seconds)
    return made


def known(made: Trials, backend: str, units: int, seconds: float) -> None:
    made.points[backend, units] = replace(POINT, backend=backend, units=units, median_s=seconds)


def test_backends_that_are_ready_soonest_come_first() -> None:
    assert in_order(["inductor", "eager", "onnxruntime", "openvino", "openvino"]) == (
        "openvino",
        "onnxruntime",
        "inductor",
    )


def test_what_is_known_at_a_share_is_not_tried_there_again() -> None:
    made = trials(openvino=0.009)
    assert made.to_try(2) == ("onnxruntime", "inductor")
    assert made.to_try(1) == ("openvino", "onnxruntime", "inductor")


def test_what_is_clearly_behind_at_one_share_is_tried_at_no_other() -> None:
    made = trials(openvino=0.005, onnxruntime=0.0066)
    assert made.contenders() == ("openvino", "inductor")
    assert made.to_try(1) == ("openvino", "inductor")


def test_what_compiles_for_long_is_tried_at_other_shares_only_where_it_may_be_the_best() -> None:
    made = trials(openvino=0.008, onnxruntime=0.0096, inductor=0.0096)
    assert made.contenders() == ("openvino", "onnxruntime")
    assert trials(openvino=0.008, inductor=0.009).to_try(1) == ("openvino", "onnxruntime", "inductor")


def test_being_behind_eager_counts_too() -> None:
    assert trials(openvino=0.014).contenders() == ("onnxruntime", "inductor")


def test_what_does_not_execute_a_sub_model_is_not_tried_again() -> None:
    made = trials()
    made.refused["openvino"] = "it has no such operator"
    assert made.to_try(1) == ("onnxruntime", "inductor")


def test_the_fastest_is_measured_in_earnest_where_it_may_beat_eager() -> None:
    assert (leader := trials(openvino=0.009, onnxruntime=0.008).leader(2)) is not None
    assert leader.backend == "onnxruntime"
    assert trials(openvino=0.011).leader(2) is None
    assert trials(openvino=0.009).leader(1) is None


def test_a_compiler_that_takes_long_is_not_tried_where_another_backend_is_far_ahead() -> None:
    assert "openvino is far ahead" in trials(openvino=0.005).why_not("inductor", 2)
    assert trials(openvino=0.005).why_not("onnxruntime", 2) == ""
    assert trials(openvino=0.009).why_not("inductor", 2) == ""


def test_compiling_does_not_take_the_time_of_backends_that_are_ready_soon() -> None:
    made = trials()
    made.prepare_s[True] = 0.0
    assert "took all of its time" in made.why_not("inductor", 2)
    assert made.why_not("openvino", 2) == ""


def test_what_trials_cannot_tell_apart_from_the_fastest_is_as_good() -> None:
    made = trials(openvino=0.005, onnxruntime=0.0056, inductor=0.009)
    leader = made.leader(2)
    assert leader is not None
    assert {point.backend for point in made.near(leader)} == {"openvino", "onnxruntime"}
