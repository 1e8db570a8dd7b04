"""How far members are apart, against the formulas written out."""

from __future__ import annotations

import math

import pytest
import torch

from esen_lab.ensemble import make_combine
from esen_lab.errors import UsageError
from esen_lab.run.uncertainty import uncertain

SCORES = {name: torch.randn(5, 4, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("abc")}


def entropy(p: torch.Tensor) -> torch.Tensor:
    return -(p * p.log()).sum(-1)


def test_scores_under_a_softmax_give_entropy_and_what_of_it_is_disagreement() -> None:
    rule = make_combine("softmax-mean")
    answer = rule(SCORES)
    found = uncertain(answer, SCORES, rule, "abc")
    p = torch.stack([scores.double().softmax(-1) for scores in SCORES.values()])
    assert found.answer is answer
    assert found.probabilities
    torch.testing.assert_close(found.mean.double(), p.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.variance.double(), p.var(0, unbiased=False), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.entropy.double(), entropy(p.mean(0)), atol=1e-5, rtol=0)
    expected = entropy(p.mean(0)) - entropy(p).mean(0)
    torch.testing.assert_close(found.mutual_information.double(), expected, atol=1e-5, rtol=0)


def test_scores_under_a_mean_have_a_variance_alone() -> None:
    rule = make_combine("mean")
    found = uncertain(rule(SCORES), SCORES, rule, "abc")
    stacked = torch.stack(list(SCORES.values()))
    torch.testing.assert_close(found.variance, stacked.var(0, unbiased=False))
    assert (found.entropy, found.mutual_information, found.probabilities) == (None, None, False)


def test_probabilities_are_known_as_such_and_weights_count() -> None:
    rule = make_combine("weighted", weights=[1, 3, 0])
    rows = {name: scores.softmax(-1) for name, scores in SCORES.items()}
    found = uncertain(rule(rows), rows, rule, "abc")
    torch.testing.assert_close(found.mean, (rows["a"] + 3 * rows["b"]) / 4)
    torch.testing.assert_close(found.mean, found.answer)
    torch.testing.assert_close(found.entropy, entropy(found.mean))
    some = {name: rows[name] for name in "ab"}
    torch.testing.assert_close(uncertain(rule(rows), some, rule, "abc").variance, found.variance)


def test_members_that_agree_are_not_apart_and_opposed_ones_are_by_ln_2() -> None:
    rule = make_combine("softmax-mean")
    same = {"a": SCORES["a"], "b": SCORES["a"]}
    found = uncertain(rule(same), same, rule, "ab")
    assert float(found.variance.abs().max()) < 1e-12
    assert float(found.mutual_information.max()) < 1e-6
    assert float(found.mutual_information.min()) >= 0.0
    sure = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 1.0]])}
    opposed = uncertain(rule(sure), sure, make_combine("mean"), "ab")
    assert float(opposed.mutual_information) == pytest.approx(math.log(2))


def test_outputs_of_any_structure_keep_it() -> None:
    rule = make_combine("mean")
    trees = {name: {"logits": scores, "hidden": (scores * 2,)} for name, scores in SCORES.items()}
    found = uncertain(rule(trees), trees, rule, "abc")
    torch.testing.assert_close(found.variance["hidden"][0], 4 * found.variance["logits"])


def test_half_precision_is_added_up_in_single() -> None:
    rule = make_combine("mean")
    half = {name: torch.full((2,), 1000.0 + i, dtype=torch.float16) for i, name in enumerate("abc")}
    found = uncertain(rule(half), half, rule, "abc")
    assert found.variance.dtype == torch.float32
    torch.testing.assert_close(found.variance, torch.full((2,), 2 / 3))


def test_outputs_that_cannot_be_compared_are_refused() -> None:
    rule = make_combine("mean")
    for other in (torch.randn(5, 3), torch.ones(5, 4, dtype=torch.int64), {"logits": SCORES["a"]}):
        with pytest.raises(UsageError, match="one structure and shape"):
            uncertain(None, {"a": SCORES["a"], "b": other}, rule, "ab")


@pytest.mark.parametrize("rule", ["mean", "softmax-mean", "majority"])
def test_numbers_of_8_bits_are_compared_too_whatever_the_default_device_is(rule: str) -> None:
    scores = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in SCORES.items()}
    wide = {name: tensor.float() for name, tensor in scores.items()}
    rule_of = make_combine(rule)
    with torch.device("meta"):
        found = uncertain(None, scores, rule_of, "abc")
    wanted = uncertain(None, wide, rule_of, "abc")
    assert torch.equal(found.mean, wanted.mean)
    assert torch.equal(found.variance, wanted.variance)
