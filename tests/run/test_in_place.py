"""Lanes in this very process, as a server that is not ours runs them: the answers of the sub-models themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from models import CountsCalls
from torch import nn

from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.errors import ModelError
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run import CombineInPlace, LaneInPlace
from esen_lab.run.in_place import answer_spec

X = torch.randn(5, 8)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def ensemble() -> Ensemble:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()

    members = tuple(make_submodel(name, net(), X) for name in ("a", "b", "heavy"))
    return Ensemble(submodels=members, combine=make_combine("stack"))


def answer_of(plan: Plan, ensemble: Ensemble, x: torch.Tensor) -> torch.Tensor:
    lanes = [LaneInPlace(plan, ensemble, number) for number in range(len(plan.lanes))]
    try:
        answers = [answer.clone() for lane in lanes for answer in map(_alone, lane.run(x))]
        return torch.as_tensor(CombineInPlace(plan, ensemble).run(_put_together(plan, answers)))
    finally:
        for lane in lanes:
            lane.close()


def _alone(answer: object) -> torch.Tensor:
    return torch.stack(list(answer)) if isinstance(answer, tuple) else torch.as_tensor(answer)


def _put_together(plan: Plan, answers: list[torch.Tensor]) -> list[object]:
    return [tuple(one) if "+" in step else one for step, one in zip(plan.steps, answers, strict=True)]


def expected(ensemble: Ensemble, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.stack([model.build()(x) for model in ensemble.submodels])


def test_whole_sub_models_answer_to_the_bit(ensemble: Ensemble) -> None:
    plan = Plan(lanes=(Lane(units=1, members=("a", "heavy")), Lane(units=1, members=("b",))), units=2)
    torch.set_num_threads(1)
    assert torch.equal(answer_of(plan, ensemble, X), expected(ensemble, X))


def test_groups_and_parts_are_put_together_again(ensemble: Ensemble) -> None:
    plan = Plan(lanes=(Lane(units=1, members=("a+b", "heavy 1/2")), Lane(units=1, members=("heavy 2/2",))), units=2)
    for rows in (5, 2):
        assert torch.allclose(answer_of(plan, ensemble, X[:rows]), expected(ensemble, X[:rows]), atol=1e-6)


def test_a_lane_says_who_runs_where_and_takes_its_share_of_threads(ensemble: Ensemble) -> None:
    lane = LaneInPlace(Plan(lanes=(Lane(units=1, members=("a", "b", "heavy")),), units=2), ensemble, 0)
    try:
        assert str(lane).startswith("lane 1: a, b, heavy on CPUs ")
        assert str(lane).endswith(", 1 thread")
        assert torch.get_num_threads() == 1
        assert lane.notes == ()
    finally:
        lane.close()


def test_what_a_sub_model_raises_is_said_with_its_name_and_the_lane_goes_on(ensemble: Ensemble) -> None:
    lane = LaneInPlace(Plan(lanes=(Lane(units=1, members=("a", "b", "heavy")),), units=2), ensemble, 0)
    try:
        with pytest.raises(ModelError, match="'a'"):
            lane.run(torch.randn(5, 9))
        assert len(lane.run(X)) == 3
    finally:
        lane.close()


def test_the_answer_to_the_example_is_known_without_running_anything(ensemble: Ensemble) -> None:
    assert str(answer_spec(ensemble)) == "float32[3, 5, 3]"


def test_a_member_that_answers_otherwise_than_where_it_was_exported_is_named(ensemble: Ensemble) -> None:
    with torch.no_grad():
        answers = {model.name: model.build()(X) for model in ensemble.submodels}
    answers["b"], answers["heavy"] = answers["b"] + 1, answers["heavy"] + 1
    exported = replace(
        ensemble, submodels=tuple(replace(model, answer=answers[model.name]) for model in ensemble.submodels)
    )
    for members, told in ((("a", "b"), ["b"]), (("a+b", "heavy 1/2"), ["b"]), (("a",), [])):
        lanes = (Lane(units=1, members=members), Lane(units=1, members=_others(members)))
        lane = LaneInPlace(Plan(lanes=lanes, units=2), exported, 0)
        try:
            assert [note.partition(" answers otherwise")[0] for note in lane.notes] == [
                f"OTHER THAN WHERE IT WAS EXPORTED: {name}" for name in told
            ]
        finally:
            lane.close()


def _others(members: tuple[str, ...]) -> tuple[str, ...]:
    if "heavy 1/2" in members:
        return ("heavy 2/2",)
    return tuple(name for name in ("a", "b", "heavy") if name not in members)


def test_comparing_leaves_no_trace_in_a_member_that_keeps_state() -> None:
    steady = make_submodel("a", nn.Linear(8, 8), X)
    counting = make_submodel("counts", CountsCalls(), X)
    assert steady.answer is not None
    pair = Ensemble(submodels=(steady, counting), combine=make_combine("stack"))
    lane = LaneInPlace(Plan(lanes=(Lane(units=1, members=("a", "counts")),), units=1), pair, 0)
    try:
        assert [float(lane.run(X)[1][0, 0]) for _ in range(2)] == [1.0, 2.0]
    finally:
        lane.close()
