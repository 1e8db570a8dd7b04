"""Classes of answers of any dtype."""

from __future__ import annotations

import pytest
import torch

from esen_lab.errors import UsageError
from esen_lab.run.classified import check_labels, classes_among, classes_of, right_class, same_class

SCORES = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.float8_e5m2,
        torch.float8_e4m3fn,
    ],
)
def test_scores_of_any_floating_dtype_have_a_likeliest_class(dtype: torch.dtype) -> None:
    assert right_class(SCORES.to(dtype), [1, 0, 0]) == pytest.approx(2 / 3)
    assert same_class(SCORES.to(dtype), SCORES) == 1.0


@pytest.mark.parametrize(
    "output",
    [
        SCORES.to(torch.complex64),
        SCORES[:, 0].to(torch.complex64),
        SCORES.to_sparse(),
        SCORES.to(torch.int64),
        SCORES.to(torch.bool),
        SCORES[:, :0],
        SCORES[:, :1],
        SCORES[:, 0],
        SCORES[None],
        [SCORES],
        {"scores": SCORES},
    ],
)
def test_what_has_no_classes_has_no_accuracy(output: object) -> None:
    assert classes_of(output) is None  # type: ignore[arg-type]
    assert right_class(output, [1, 0, 0]) is None  # type: ignore[arg-type]


def test_whole_numbers_of_rows_are_classes() -> None:
    assert right_class(torch.tensor([1, 0, 0]), [1, 0, 0]) == 1.0
    assert right_class(torch.tensor([1, 0, 0]), [1, 0]) is None
    assert right_class(torch.tensor([1, 0, 0]), None) is None


@pytest.mark.parametrize("label", [-1, 2, 99])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    with pytest.raises(UsageError, match=f"one of the 2 classes that the members tell apart, 0 to 1. Given: {label}"):
        check_labels([0, 1, label], classes_among(SCORES))


def test_labels_of_answers_without_scores_are_not_judged() -> None:
    check_labels([7, 99], classes_among(torch.tensor([7, 99])))
    check_labels([7], classes_among(SCORES[:, :1]))
    check_labels([0, 1], classes_among(SCORES))
