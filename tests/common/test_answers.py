"""When two answers are the same up to rounding."""

from __future__ import annotations

import pytest
import torch

from esen_lab.common.answers import OTHER_ORDER, OTHER_SHAPE, WHERE_NAN, difference, nan_told


def test_equal_answers_agree_without_an_error() -> None:
    tree = {"a": torch.ones(3), "b": [torch.arange(3)]}
    found = difference(tree, tree)
    assert (found.error, found.agrees) == (0.0, True)
    assert str(found) == "equal"


@pytest.mark.parametrize(
    ("dtype", "error", "agrees"),
    [
        (torch.float64, 1e-10, True),
        (torch.float64, 1e-6, False),
        (torch.float32, 1e-3, True),
        (torch.float32, 2e-2, False),
        (torch.float16, 1e-2, True),
        (torch.float16, 5e-2, False),
        (torch.bfloat16, 3e-2, True),
        (torch.bfloat16, 2e-1, False),
    ],
)
def test_the_tolerance_depends_on_the_dtype(dtype: torch.dtype, error: float, agrees: bool) -> None:
    reference = torch.tensor([4.0, -8.0, 0.0], dtype=torch.float64)
    answer = reference + torch.tensor([0.0, 8.0 * error, 0.0])
    assert difference(answer.to(dtype), reference.to(dtype)).agrees is agrees


def test_whole_numbers_must_be_the_same() -> None:
    found = difference(torch.tensor([1, 2]), torch.tensor([1, 3]))
    assert (found.agrees, found.amount, found.limit) == (False, "3.3e-01", "0")
    assert not difference(torch.tensor([2**60]), torch.tensor([2**60 + 1])).agrees, "one number as 64-bit floats"


def test_nan_in_other_places_and_other_shapes_never_agree() -> None:
    nan = torch.tensor([1.0, float("nan")])
    assert difference(nan, nan.clone()).agrees
    assert difference(torch.ones(2), nan).why == WHERE_NAN
    assert difference(torch.ones(2), torch.ones(3)).why == OTHER_SHAPE
    assert difference([torch.ones(2)], torch.ones(2)).why == OTHER_SHAPE
    assert difference(torch.ones(2), torch.ones(2, dtype=torch.float64)).why == OTHER_SHAPE


def test_the_worst_output_counts() -> None:
    found = difference((torch.ones(2), torch.tensor([1.0, 1.5])), (torch.ones(2), torch.ones(2)))
    assert found.error == pytest.approx(0.5)
    assert "float32" in str(found)
    assert found.to_dict()["agrees"] is False


def test_an_infinity_is_neither_the_other_one_nor_nan() -> None:
    up, down, nan = (torch.tensor([1.0, end]) for end in (float("inf"), float("-inf"), float("nan")))
    assert difference(up, up.clone()).agrees
    assert difference(up, down).why == WHERE_NAN
    assert difference(up, nan).why == WHERE_NAN


def test_the_largest_absolute_difference_is_that_of_any_output() -> None:
    answer = (torch.tensor([1.0, 100.25]), torch.tensor([1.125]))
    found = difference(answer, (torch.tensor([1.0, 100.0]), torch.tensor([1.0])))
    assert found.error == pytest.approx(0.125), "the second is worst for its size"
    assert found.apart == pytest.approx(0.25), "the first is further apart"


def test_values_that_are_nan_in_both_are_counted_and_told_of() -> None:
    nan = torch.tensor([1.0, float("nan"), 2.0, float("nan")])
    some, every = difference(nan, nan.clone()), difference((nan[1:2],), (nan[1:2].clone(),))
    assert (some.agrees, some.nan, some.values, some.unjudged) == (True, 2, 4, "2 of 4 values")
    assert (every.agrees, every.unjudged) == (True, "all values")
    told = nan_told({"a": some, "b": every, "c": difference(torch.ones(2), torch.ones(2))})
    assert told == (
        "NaN in the answers of a (2 of 4 values), b (all values), and in their reference: "
        "nothing else is judged of these.",
    )


def test_of_answers_without_values_nothing_is_judged() -> None:
    assert nan_told({"a": difference(torch.ones(0), torch.ones(0))}) == (
        "No values in the answers of a: nothing is judged of them.",
    )
    infinite = torch.tensor([float("inf")])
    assert nan_told({"a": difference(infinite, infinite)}) == ()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_numbers_may_round_as_their_parts_do(dtype: torch.dtype) -> None:
    right = torch.tensor([1 + 1j, 2 - 1j], dtype=dtype)
    rounded = right * (1 + torch.finfo(dtype).eps)
    assert difference(rounded, right, OTHER_ORDER).agrees
    assert not difference(right.conj(), right, OTHER_ORDER).agrees
    assert "0e+00" not in str(difference(rounded, right, OTHER_ORDER))
