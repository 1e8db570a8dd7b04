"""Who leaves where: by definition, for thresholds of each stage; and learned weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import mlp

from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.ensemble.confidence import probabilities_of, scores_of, sure_rows
from esen_lab.errors import UsageError
from esen_lab.studies.best import Halves, greedy_weights
from esen_lab.studies.exits import Exits
from esen_lab.studies.validation import Answers

EXITS = Exits(
    sure=(np.array([0.9, 0.5, 0.4, np.nan]), np.array([0.2, 0.8, 0.3, 0.9]), np.array([0.5] * 4)),
    classes=(np.array([0, 0, 0, 0]), np.array([1, 1, 1, 1]), np.array([2, 1, 2, 2])),
    labels=np.array([0, 1, 2, 0]),
)


def test_a_sample_leaves_at_the_first_stage_that_is_sure_of_it() -> None:
    assert EXITS.stage_of((0.85, 0.7)).tolist() == [0, 1, 2, 1]  # what is no number is not sure
    assert EXITS.reach((0.85, 0.7)) == (1.0, 0.75, 0.25)
    assert EXITS.answered((0.85, 0.7)).tolist() == [0, 1, 2, 1]
    assert EXITS.accuracy((0.85, 0.7)) == 0.75
    assert EXITS.agreement((0.85, 0.7)) == 0.5
    assert EXITS.whole_accuracy == 0.5
    assert EXITS.reach((0.3, 0.99)) == (1.0, 0.25, 0.25)


def test_planning_and_running_decide_by_one_function() -> None:
    example = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    submodels = tuple(make_submodel(n, mlp(inputs=8, seed=s), example) for s, n in enumerate("ab"))
    ensemble = Ensemble(submodels=submodels, combine=make_combine("mean"))
    random = np.random.default_rng(0)
    outputs = {name: random.normal(size=(50, 4)).astype(np.float32) for name in "ab"}
    answers = Answers(ensemble=ensemble, outputs=outputs)
    exits = Exits.of((("a",), ("b",)), answers)
    for stage, names in enumerate(("a", "ab")):
        scores = torch.stack([torch.from_numpy(outputs[n]) for n in names]).mean(0)
        for threshold in (0.3, 0.5, 0.7):
            assert sure_rows(scores, threshold).tolist() == (exits.sure[stage] >= threshold).tolist()


def test_a_row_is_judged_alone() -> None:
    scores = torch.tensor([[0.25, 0.75], [2.0, -1.0], [float("nan"), 1.0]])
    found = probabilities_of(scores)
    torch.testing.assert_close(found[0], scores[0])
    torch.testing.assert_close(found[1], scores[1].softmax(-1))
    for row in range(3):
        torch.testing.assert_close(found[row], probabilities_of(scores[row : row + 1])[0], equal_nan=True)
    assert sure_rows(scores, 0.7).tolist() == [True, True, False]
    assert sure_rows(torch.zeros(2, 0), 0.5).tolist() == [False, False]
    with pytest.raises(UsageError, match="gives scores"):
        scores_of(torch.zeros(3), 3, "majority")
    with pytest.raises(UsageError, match="for 4 samples"):
        scores_of(torch.zeros(3, 2), 4, "mean")


def test_greedy_weights_are_how_often_a_member_was_taken() -> None:
    labels = np.array([0, 0, 1, 1])
    right = np.eye(2)[labels]
    found = greedy_weights({"right": right, "wrong": 1 - right}, labels)
    assert found == {"right": 1.0, "wrong": 0.0}
    # Each alone is right on three of four; together, on all: both are taken.
    a, b = right * 2.0, right * 2.0
    a[0], b[3] = [0.0, 1.0], [1.0, 0.0]
    both = greedy_weights({"a": a, "b": b, "wrong": 1 - right}, labels)
    assert both["a"] == both["b"] == 0.5
    assert both["wrong"] == 0.0


def test_the_halves_share_no_sample() -> None:
    halves = Halves.of(11, seed=3)
    assert sorted([*halves.selection, *halves.report]) == list(range(11))
    assert len(halves.selection) == 5
    assert Halves.of(11, seed=4).selection.tolist() != halves.selection.tolist()
    with pytest.raises(UsageError, match="at least 4 samples"):
        Halves.of(3)
