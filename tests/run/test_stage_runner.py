"""Plans in stages on warm lanes: rows leave, the batch shrinks, the order stays, and what cannot be is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from backend_nets import lacking
from models import CountsCalls
from runtime_cases import ensemble_of
from torch import nn

from esen_lab.ensemble import Ensemble, make_combine
from esen_lab.ensemble.confidence import sure_rows
from esen_lab.errors import ModelError, UsageError
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run import Executor
from esen_lab.run.stage_runner import StageRunner

Start = Callable[[Plan, Ensemble], Executor]
ROWS = 16
X = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(3))


def net(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


NETS = {name: net(seed) for seed, name in enumerate("abc")}


def staged(*stages: tuple[str, ...], threshold: float | tuple[float, ...] = 0.45, lanes: int = 1) -> Plan:
    """Each stage one lane of all its members, or with `lanes` > 1 a lane for each member."""
    made = []
    for number, names in enumerate(stages):
        groups = [names] if lanes == 1 else [(name,) for name in names]
        made += [Lane(units=1, members=group, stage=number) for group in groups]
    reach = tuple(1.0 if not n else 0.5 for n in range(len(stages)))
    return Plan(lanes=tuple(made), units=2, reach=reach, threshold=threshold)


def expected(stages: tuple[tuple[str, ...], ...], thresholds: tuple[float, ...], x: torch.Tensor) -> torch.Tensor:
    """By definition: every row alone, asked stage by stage."""
    rows = []
    with torch.no_grad():
        for row in x:
            asked: list[str] = []
            for number, names in enumerate(stages):
                asked += names
                scores = torch.stack([NETS[n](row[None]).softmax(-1) for n in sorted(asked)]).mean(0)
                if number == len(stages) - 1 or bool(sure_rows(scores, thresholds[number])[0]):
                    break
            rows.append(scores[0])
    return torch.stack(rows)


@pytest.mark.parametrize("rows", [1, 2, 5, ROWS, 3 * ROWS])
def test_every_row_is_answered_by_the_stage_that_it_leaves_in_and_in_its_place(start: Start, rows: int) -> None:
    stages = (("b",), ("a", "c"))
    executor = start(staged(*stages), ensemble_of("softmax-mean", X, **NETS))
    x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(rows))
    run = executor.run(x)
    torch.testing.assert_close(run.output, expected(stages, (0.45,), x))
    first, second = run.report.stages
    assert (first.rows, first.of) == (rows, rows)
    assert second.rows == rows - first.left
    assert second.left == second.rows


def test_three_stages_with_thresholds_of_their_own(start: Start) -> None:
    stages, thresholds = (("c",), ("a",), ("b",)), (0.5, 0.42)
    executor = start(staged(*stages, threshold=thresholds), ensemble_of("softmax-mean", X, **NETS))
    run = executor.run(X)
    torch.testing.assert_close(run.output, expected(stages, thresholds, X))
    assert [stage.threshold for stage in run.report.stages] == [0.5, 0.42, None]
    assert sum(stage.left for stage in run.report.stages) == ROWS


def test_lanes_of_a_stage_run_side_by_side_and_another_threshold_starts_nothing_anew(start: Start) -> None:
    plan = staged(("a",), ("b", "c"), lanes=2)
    ensemble = ensemble_of("softmax-mean", X, **NETS)
    executor = start(plan, ensemble)
    assert len(executor.pids) == 3
    pids = executor.pids
    for threshold in (0.4, 0.6):
        executor.keep_to(replace(plan, threshold=threshold), ensemble)
        torch.testing.assert_close(executor.run(X).output, expected((("a",), ("b", "c")), (threshold,), X))
    assert executor.pids == pids


def test_when_nobody_is_left_later_stages_are_not_woken(start: Start) -> None:
    executor = start(staged(("a",), ("b",), ("c",), threshold=0.01), ensemble_of("softmax-mean", X, **NETS))
    report = executor.run(X).report
    assert [stage.left for stage in report.stages] == [ROWS, 0, 0]
    assert [span.name for span in report.spans] == ["a"]
    assert [lane.members for lane in report.lanes] == [("a",)]
    assert "stage 1 answered 16 of 16 rows (100.0 %, planned 50.0 %)" in str(report)
    assert "stage 3 not woken" in str(report)
    assert report.overhead_s > 0
    assert executor.run(X[:0]).output.shape == (0, 3)


def test_members_are_asked_for_everything_where_they_are_compared(start: Start) -> None:
    executor = start(staged(("a",), ("b", "c"), threshold=0.01), ensemble_of("softmax-mean", X, **NETS))
    run = executor.run_members(X)
    assert list(run.members) == ["a", "b", "c"]
    for name, answer in run.members.items():
        torch.testing.assert_close(answer, NETS[name](X).detach())
    torch.testing.assert_close(run.output, torch.stack([NETS[n](X).softmax(-1) for n in "abc"]).mean(0).detach())


def test_scores_that_are_no_probabilities_are_decided_by_their_softmax(start: Start) -> None:
    executor = start(staged(("a",), ("b", "c"), threshold=0.5), ensemble_of("mean", X, **NETS))
    with torch.no_grad():
        first = NETS["a"](X)
        whole = torch.stack([net(X) for net in NETS.values()]).mean(0)
    sure = first.softmax(-1).amax(-1) >= 0.5
    assert 0 < int(sure.sum()) < ROWS
    torch.testing.assert_close(executor.run(X).output, torch.where(sure[:, None], first, whole))


def test_weights_are_those_of_the_members_asked_so_far(start: Start) -> None:
    ensemble = ensemble_of("softmax-mean", X, **NETS)
    ensemble = replace(ensemble, combine=make_combine("weighted", weights={"a": 1.0, "b": 1.0, "c": 2.0}))
    executor = start(staged(("a", "b"), ("c",), threshold=0.5), ensemble)
    with torch.no_grad():
        first = (NETS["a"](X) + NETS["b"](X)) / 2
        whole = (NETS["a"](X) + NETS["b"](X) + 2 * NETS["c"](X)) / 4
    sure = first.softmax(-1).amax(-1) >= 0.5
    torch.testing.assert_close(executor.run(X).output, torch.where(sure[:, None], first, whole))


class OfItsBatch(nn.Module):
    """What it answers to a row depends on the mean of the batch, as batch normalisation in training does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(dim=0))[:, :3]


def test_a_member_whose_answer_depends_on_other_rows_is_refused_at_the_start(start: Start) -> None:
    ensemble = ensemble_of("softmax-mean", X, a=NETS["a"], odd=OfItsBatch())
    with pytest.raises(UsageError, match=r"does not depend on the other rows.*'odd'"):
        start(staged(("a",), ("odd",)), ensemble)
    start(staged(("odd",), ("a",)), ensemble)  # the first stage has the whole batch
    alike = torch.ones(ROWS, 8)  # an example of equal rows hides it from half a batch
    with pytest.raises(UsageError, match=r"'odd'"):
        start(staged(("a",), ("odd",)), ensemble_of("softmax-mean", alike, a=NETS["a"], odd=OfItsBatch()))


class LargestOfBatch(nn.Module):
    """Divides by the largest number of its batch, as a network does that normalises pixels by what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x / x.max().clamp(min=1))[:, :3]


class LooksUp(nn.Module):
    """Answers row by row, and takes none but some whole numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if set(x.flatten().tolist()) - {0, 7, 255}:
            raise ValueError("an unknown token")
        return x[:, :3].float()


def test_whole_numbers_of_which_each_row_has_the_largest_hide_no_member_that_looks_for_it(start: Start) -> None:
    pixels = torch.randint(0, 200, (ROWS, 8), generator=torch.Generator().manual_seed(0)).index_fill(
        1, torch.tensor([0]), 255
    )
    with pytest.raises(UsageError, match=r"does not depend on the other rows.*'odd'"):
        start(staged(("a",), ("odd",)), ensemble_of("softmax-mean", pixels, a=Halves(), odd=LargestOfBatch()))


def test_a_member_that_takes_none_but_some_whole_numbers_may_be_in_a_later_stage(start: Start) -> None:
    tokens = torch.tensor([0, 7, 255]).repeat(ROWS, 3)[:, :8]
    executor = start(staged(("a",), ("odd",)), ensemble_of("softmax-mean", tokens, a=Halves(), odd=LooksUp()))
    assert executor.run(tokens).output.shape == (ROWS, 3)


class Halves(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] / 2


def test_it_is_found_at_the_first_batch_where_the_example_is_one_row(start: Start) -> None:
    executor = start(staged(("a",), ("odd",)), ensemble_of("softmax-mean", X[:1], a=NETS["a"], odd=OfItsBatch()))
    executor.run(X[:1])
    with pytest.raises(UsageError, match=r"does not depend on the other rows"):
        executor.run(X)
    assert not executor.broken


def test_batch_statistics_and_members_that_keep_state_are_refused_in_later_stages(start: Start) -> None:
    of_the_batch = nn.Sequential(nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3))
    with pytest.raises(UsageError, match="'odd' answers otherwise"):
        start(staged(("a",), ("odd",)), ensemble_of("softmax-mean", X, a=NETS["a"], odd=of_the_batch))
    counting = ensemble_of("softmax-mean", X, a=NETS["a"], odd=nn.Sequential(CountsCalls(), nn.Linear(8, 3)))
    with pytest.raises(UsageError, match="keeps nothing between calls"):
        start(staged(("a",), ("odd",)), counting)


class Fixed(nn.Module):
    """Takes sixteen rows, and no other number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(ROWS, 8)[:, :3]


class Counts(CountsCalls):
    """As many columns as the others answer with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x[:, :3])


def test_what_is_found_out_at_the_first_batch_leaves_the_state_of_the_first_stage_alone(start: Start) -> None:
    executor = start(staged(("a",), ("b",), threshold=0.1), ensemble_of("mean", X[:1], a=Counts(), b=NETS["b"]))
    assert [executor.run(x).output[0, 0].item() for x in (X[:1], X, X)] == [1, 2, 3]


def test_a_member_that_takes_one_size_only_is_refused(start: Start) -> None:
    with pytest.raises(UsageError, match="takes any number of rows"):
        start(staged(("a",), ("odd",)), ensemble_of("softmax-mean", X, a=NETS["a"], odd=Fixed()))


class Pair(nn.Module):
    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * scale


def test_an_input_without_a_batch_axis_is_refused(start: Start) -> None:
    example = (X, torch.tensor(2.0))
    with pytest.raises(UsageError, match="rows along dimension 0 of every tensor"):
        start(staged(("a",), ("b",)), ensemble_of("softmax-mean", example, a=Pair(), b=Pair()))


def test_a_rule_that_gives_no_scores_is_refused(start: Start) -> None:
    with pytest.raises(UsageError, match=r"majority gives \(16,\)"):
        start(staged(("a",), ("b", "c")), ensemble_of("majority", X, **NETS))


class Fussy(nn.Module):
    """Raises at a row of nothing but sevens."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x == 7).all(dim=-1).any()):
            raise ValueError("sevens")
        return x[:, :3] * 0.01


def test_a_member_of_a_later_stage_that_raises_leaves_the_lanes_warm(start: Start) -> None:
    executor = start(
        staged(("a",), ("odd",), threshold=0.999), ensemble_of("softmax-mean", X, a=NETS["a"], odd=Fussy())
    )
    wanted = executor.run(X).output
    spoilt = X.clone()
    spoilt[5] = 7.0
    with pytest.raises(ModelError, match="sevens"):
        executor.run(spoilt)
    assert not executor.broken
    torch.testing.assert_close(executor.run(X).output, wanted)


def test_inputs_of_several_tensors_shrink_together(start: Start) -> None:
    scale = torch.linspace(0.1, 20, ROWS)[:, None]
    executor = start(staged(("a",), ("b",), threshold=0.9), ensemble_of("softmax-mean", (X, scale), a=Pair(), b=Pair()))
    run = executor.run((X, scale))
    torch.testing.assert_close(run.output, (X[:, :3] * scale).softmax(-1))  # both answer alike: nothing may be mixed up
    assert 0 < run.report.stages[0].left < ROWS


@pytest.mark.slow  # engines prepare a network for four sizes of a batch each
@pytest.mark.parametrize("backend", [pytest.param(name, marks=lacking(name)) for name in ("openvino", "onnxruntime")])
def test_engines_of_fixed_shapes_are_right_at_every_number_of_rows(start: Start, backend: str) -> None:
    plan = staged(("a",), ("b", "c"))
    lanes = (plan.lanes[0], replace(plan.lanes[1], backends=(backend, "eager")))
    executor = start(replace(plan, lanes=lanes), ensemble_of("softmax-mean", X, **NETS))
    assert not executor.history.fallen_back
    ran = set()
    for threshold in (0.35, 0.38, 0.4, 0.43, 0.45, 0.5, 0.6, 1.0):
        executor.keep_to(replace(executor.plan, threshold=threshold), executor.ensemble)
        run = executor.run(X)
        torch.testing.assert_close(run.output, expected((("a",), ("b", "c")), (threshold,), X), atol=1e-4, rtol=1e-4)
        ran.add(run.report.stages[1].ran)
    assert len(ran - {0}) > 1
    assert ran <= {0, 4, 8, 12, 16}
    for rows in (1, 3, 11, 33):
        x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(rows))
        torch.testing.assert_close(
            executor.run(x).output, expected((("a",), ("b", "c")), (1.0,), x), atol=1e-4, rtol=1e-4
        )


def test_an_interrupt_in_a_later_stage_leaves_right_answers_or_lanes_that_are_ended(start: Start) -> None:
    executor = start(staged(("a",), ("b", "c"), threshold=1.0), ensemble_of("softmax-mean", X, **NETS))
    wanted = executor.run(X).output
    assert isinstance(executor.lanes, StageRunner)
    group = executor.lanes.stages[1].group
    wake = group.wake

    def interrupted(seed: int | None) -> None:
        wake(seed)
        group.wake = wake  # type: ignore[method-assign]
        raise KeyboardInterrupt

    group.wake = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        executor.run(X * 2)
    if not executor.broken:
        torch.testing.assert_close(executor.run(X).output, wanted)
