"""Whether a run may stop early, against what all members would say."""

from __future__ import annotations

import itertools

import pytest
import torch

from esen_lab.ensemble import make_combine
from esen_lab.errors import UsageError
from esen_lab.run.early import confidence, decided


def votes(*classes: int, of: int = 3) -> dict[str, torch.Tensor]:
    """One row of scores for each member, with its choice on top."""
    return {f"m{i}": torch.eye(of)[[chosen]] for i, chosen in enumerate(classes)}


@pytest.mark.parametrize("members", [2, 3, 4, 5])
def test_a_vote_is_called_decided_only_where_every_way_to_go_on_gives_the_same_answer(members: int) -> None:
    rule = make_combine("majority")
    for asked in range(1, members):
        for classes in itertools.product(range(3), repeat=asked):
            given = votes(*classes)
            ends = set()
            for rest in itertools.product(range(3), repeat=members - asked):
                for strength in (0.1, 100.0):  # ties go to the larger probability
                    others = {f"o{i}": strength * torch.eye(3)[[chosen]] for i, chosen in enumerate(rest)}
                    ends.add(int(rule({**given, **others})))
            if decided(given, members - asked):
                assert ends == {int(rule(given))}
            elif len(set(classes)) == 1 and asked > members - asked:
                pytest.fail(f"{classes} of {members} is decided")


def test_every_row_must_be_decided() -> None:
    two = {name: torch.stack([torch.eye(3)[0], torch.eye(3)[i]]) for i, name in enumerate("ab")}
    assert decided({"a": two["a"]}, 0)
    assert not decided(two, 1)


def test_confidence_is_that_of_the_least_sure_row_and_certain_rows_cannot_change() -> None:
    outputs = {"a": torch.tensor([[0.9, 0.1], [0.6, 0.4]]), "b": torch.tensor([[1.0, 0.0], [0.6, 0.4]])}
    found = confidence(outputs, make_combine("mean"), ["a", "b", "c"], ["a", "b", "c"])
    assert found.least == pytest.approx(0.6)
    assert (found.certain_rows, found.rows) == (1, 2)
    for c in (torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])):
        assert int(make_combine("mean")({**outputs, "c": c})[0].argmax()) == 0, "the certain one"


def test_weights_count_and_a_member_that_failed_is_not_waited_for() -> None:
    rule = make_combine("weighted", weights=[8, 1, 1])
    sure = {"a": torch.tensor([[0.9, 0.1]])}
    assert confidence(sure, rule, ["a", "b", "c"], ["a", "b", "c"]).certain_rows == 1
    light = {"b": torch.tensor([[0.9, 0.1]])}
    assert confidence(light, rule, ["a", "b", "c"], ["a", "b", "c"]).certain_rows == 0
    assert confidence(light, rule, ["b"], ["a", "b", "c"]).certain_rows == 1


def test_softmax_makes_probabilities_of_scores_and_a_mean_does_not() -> None:
    scores = {"a": torch.tensor([[9.0, 0.0]])}
    assert confidence(scores, make_combine("softmax-mean"), ["a", "b"], ["a", "b"]).least > 0.999
    with pytest.raises(UsageError, match="each row at least 0, and of sum 1"):
        confidence(scores, make_combine("mean"), ["a", "b"], ["a", "b"])


@pytest.mark.parametrize(
    "output", [{"logits": torch.ones(2, 3)}, torch.ones(2, 3, dtype=torch.int64), torch.tensor(1.0)]
)
def test_other_outputs_than_scores_are_refused(output: object) -> None:
    with pytest.raises(UsageError, match="scores by class"):
        decided({"a": output}, 1)
