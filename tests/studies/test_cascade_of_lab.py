"""A cascade from the lab: planned on validation data, put in force, run, compared, saved, exported, moved by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from choosing_lab import with_points
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.devices import open_device
from esen_lab.ensemble.confidence import sure_rows
from esen_lab.errors import UsageError
from esen_lab.export import Running, open_bundle
from esen_lab.lanes import ForkServer
from esen_lab.run import Executor
from esen_lab.studies.best import best_within, fastest_within
from esen_lab.studies.thresholds import ThresholdState

CLASSES, ROWS = 4, 16
RANDOM = torch.Generator().manual_seed(0)
TRUTH = torch.randn(8, CLASSES, generator=RANDOM)
X = torch.randn(240, 8, generator=RANDOM)
Y = (X @ TRUTH + 0.3 * torch.randn(240, CLASSES, generator=RANDOM)).argmax(-1)
X_VAL, Y_VAL, X_TEST, Y_TEST = X[:160], Y[:160], X[160:176], Y[160:176]
THREE = ("quick", "fair", "good")


class Near(nn.Module):
    """The right classes, as far as noise in its weights lets it; `noise` is how far."""

    def __init__(self, noise: float, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.weights = nn.Parameter(2 * (TRUTH + noise * torch.randn(TRUTH.shape, generator=random)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weights


NETS = {"quick": Near(0.5, 1), "fair": Near(0.3, 2), "good": Near(0.05, 3)}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], Lab]]:
    made: list[Lab] = []

    def make() -> Lab:
        lab = Lab(device="cpu", store=tmp_path / "profiles.sqlite", combine="softmax-mean")
        made.append(lab)
        for name in THREE:
            lab.register(name, NETS[name], example=X[:ROWS])
        units = lab.device.units
        return with_points(lab, {"quick": [1e-3] * units, "fair": [1e-2] * units, "good": [1e-1] * units})

    yield make
    for lab in made:
        lab.close()


def by_definition(plan: Plan, x: torch.Tensor) -> torch.Tensor:
    stages = [[name for number in stage for name in plan.lanes[number].members] for stage in plan.stages]
    asked: list[str] = []
    answer, still = torch.zeros(len(x), CLASSES), torch.ones(len(x), dtype=torch.bool)
    with torch.no_grad():
        for number, names in enumerate(stages):
            asked += names
            scores = torch.stack([NETS[name](x).softmax(-1) for name in THREE if name in asked]).mean(0)
            answer[still] = scores[still]
            if number < len(plan.thresholds):
                still &= ~sure_rows(scores, plan.thresholds[number])
    return answer


@pytest.mark.slow  # lanes of six plans are started, one of them in a process of an export's own
def test_a_cascade_is_planned_run_compared_saved_exported_and_moved(make: Callable[[], Lab], tmp_path: Path) -> None:
    lab = make()
    found = lab.studies.cascade(X_VAL, Y_VAL, threshold=0.8, order=THREE, deadline_s=0.02)
    assert found.rows == ROWS
    assert found.accuracy is not None
    assert found.late is not None
    assert 0 < found.late <= 1
    assert found.expected_s < found.worst_s
    assert any("measured" in note for note in found.notes)
    plan = lab.studies.take(found)
    assert lab.plan is plan
    assert plan.staged
    assert plan.worst_s == found.worst_s
    # 1. Run: the answer by definition, and rows counted.
    answer = lab.run(X_TEST)
    torch.testing.assert_close(answer, by_definition(plan, X_TEST))
    assert lab.report is not None
    assert sum(stage.left for stage in lab.report.stages) == ROWS
    assert lab.report.worst_s == plan.worst_s
    torch.testing.assert_close(lab.run(X_TEST, deadline_s=60.0), answer)
    assert lab.report.answered is not None
    assert not lab.report.answered.missing
    # 2. Compared: with its members all at once, by classes; accuracies are those of the answers.
    table = lab.compare(X_TEST, y=Y_TEST, rounds=1, strategies=["sequential"])
    row, full = table.row("plan"), table.row("full plan")
    whole = torch.stack([net(X_TEST).softmax(-1) for net in NETS.values()]).mean(0).argmax(-1)
    assert row.same_class == pytest.approx(float((answer.argmax(-1) == whole).float().mean()))
    assert row.accuracy == pytest.approx(float((answer.argmax(-1) == Y_TEST).float().mean()))
    assert full.accuracy == pytest.approx(float((whole == Y_TEST).float().mean()))
    assert row.agrees
    assert "bit-equal" not in row.outputs
    assert "top-1" in row.outputs
    assert lab.check_numerics(X_TEST, runs=1).passed
    # 3. Moved by hand: expected at once, put in force without new lanes.
    before = lab.studies.thresholds()
    assert lab.studies.thresholds() is before
    told: list[ThresholdState] = []
    stop = before.listen(told.append)
    moved = before.set(0.5)
    stop()
    assert told == [moved]
    assert moved.cascade.expected_s < found.expected_s
    assert not moved.in_force
    pids = lab.state.executor.pids if lab.state.executor else ()
    assert before.apply().in_force
    assert lab.plan.thresholds == moved.thresholds
    torch.testing.assert_close(lab.run(X_TEST), by_definition(lab.plan, X_TEST))
    assert lab.state.executor is not None
    assert lab.state.executor.pids == pids
    with pytest.raises(UsageError, match="stages 1 to"):
        before.set(0.5, 9)
    with pytest.raises(UsageError, match="without stages"):
        lab.tune()
    with pytest.raises(UsageError, match="without stages"):
        lab.studies.refine()
    # 4. Saved and exported: the same stages, the same answer.
    lab.save(tmp_path / "plan.json")
    assert lab.load(tmp_path / "plan.json").thresholds == moved.thresholds
    wanted = lab.run(X_TEST)
    exported = lab.export(tmp_path / "plan.py")
    bundle = open_bundle(exported.folder, trust=True)
    with Running.start(
        bundle.plan, bundle.ensemble, open_device("cpu"), fork_server=ForkServer(), start=Executor.start
    ) as running:
        assert torch.equal(running(X_TEST), wanted)
        assert running.report.stages[0].rows == ROWS


def test_the_best_within_a_time_and_the_fastest_within_a_loss(make: Callable[[], Lab]) -> None:
    lab = make()
    plan = lab.best_within(0.02, X_VAL, Y_VAL)
    assert lab.plan is plan
    assert plan.jct_s is not None
    assert plan.jct_s <= 0.02
    assert "good" in plan.left_out
    front = lab.studies.last_front
    assert front is not None
    assert front.whole_accuracy is not None
    accuracies = [choice.accuracy for choice in front.choices]
    assert accuracies == sorted(accuracies)
    in_time = [choice for choice in front.choices if choice.jct_s <= 0.02]
    assert best_within(front, 0.02).accuracy == max(choice.accuracy for choice in in_time)
    assert fastest_within(front, 0.0).accuracy >= front.whole_accuracy
    assert fastest_within(front, 0.99) is front.choices[0]
    with pytest.raises(UsageError, match=r"within 100 µs.*quick"):
        lab.best_within(1e-4, X_VAL, Y_VAL)
    for odd in (0.0, float("nan"), True, "soon"):
        with pytest.raises(UsageError, match="above 0"):
            best_within(front, odd)  # type: ignore[arg-type]
    for odd in (-0.1, 1.0, True):
        with pytest.raises(UsageError, match="from 0 to below 1"):
            fastest_within(front, odd)
    assert lab.plan is plan  # what was refused changed nothing
    # With cascades the front is at least as good everywhere; one of them runs as any plan.
    wider = lab.studies.front(X_VAL, Y_VAL, cascade=True)
    for choice in front.choices:
        assert any(one.jct_s <= choice.jct_s + 1e-12 and one.accuracy >= choice.accuracy for one in wider.choices)
    staged = next(choice for choice in wider.choices if choice.cascade is not None)
    taken = lab.studies.take(staged)
    torch.testing.assert_close(lab.run(X_TEST), by_definition(taken, X_TEST))


def test_learned_weights_become_the_rule_and_are_judged_on_the_other_half(make: Callable[[], Lab]) -> None:
    lab = make()
    front = lab.studies.front(X_VAL, Y_VAL, weights="greedy")
    assert all("weights were selected on the other 80" in choice.judged for choice in front.choices)
    weighted = [choice for choice in front.choices if choice.weights is not None]
    assert weighted
    plan = lab.studies.take(weighted[-1])
    assert lab.ensemble.combine.name == "weighted"
    assert any("greedy selection" in note for note in plan.notes)
    weights = weighted[-1].weights
    assert weights is not None
    assert np.isclose(sum(weights.values()), 1.0)
    with torch.no_grad():
        wanted = sum((weight * NETS[name](X_TEST) for name, weight in weights.items()), torch.zeros(ROWS, CLASSES))
    torch.testing.assert_close(lab.run(X_TEST), wanted)
    with pytest.raises(UsageError, match="'greedy', learned"):
        lab.studies.front(X_VAL, Y_VAL, weights="magic")


def test_thresholds_are_moved_for_a_cascade_that_was_planned_here(make: Callable[[], Lab]) -> None:
    lab = make()
    with pytest.raises(UsageError, match="no cascade was planned"):
        lab.studies.thresholds()
    found = lab.studies.cascade(X_VAL, Y_VAL, threshold=0.8, order=THREE)
    editor = lab.studies.thresholds()
    with pytest.raises(UsageError, match="no plan of these stages"):
        editor.apply()
    assert "no plan of these stages" in editor.state.message
    other = lab.studies.cascade(X_VAL, Y_VAL, threshold=0.8, order=("fair", "quick", "good"))
    lab.plan = lab.studies.plan_of(found)
    assert [stage.names for stage in other.stages] != [stage.names for stage in found.stages]
    with pytest.raises(UsageError, match=r"of other stages|one stage"):
        lab.studies.thresholds()


def test_neither_a_board_nor_thresholds_are_called_in_force_when_another_plan_is(make: Callable[[], Lab]) -> None:
    lab = make()
    lab.search()
    board = lab.tune()
    assert board.state.in_force
    lab.studies.take(lab.studies.cascade(X_VAL, Y_VAL, threshold=0.8, order=THREE))
    assert not board.state.in_force
    thresholds = lab.studies.thresholds()
    assert thresholds.state.in_force
    told: list[bool] = []
    thresholds.listen(lambda state: told.append(state.in_force))
    lab.search()
    assert told == [False]
    assert board.state.in_force


def test_thresholds_of_a_member_that_is_gone_are_not_called_in_force(make: Callable[[], Lab]) -> None:
    lab = make()
    lab.studies.take(lab.studies.cascade(X_VAL, Y_VAL, threshold=0.8, order=THREE))
    thresholds = lab.studies.thresholds()
    told: list[bool] = []
    thresholds.listen(lambda state: told.append(state.in_force))
    lab.unregister(THREE[0])
    assert told == [False]
    with pytest.raises(UsageError, match=f"'{THREE[0]}' is in the plan only"):
        lab.studies.thresholds()


def test_a_plan_is_not_called_in_force_while_one_of_its_members_is_gone(make: Callable[[], Lab]) -> None:
    lab = make()
    lab.search()
    board = lab.tune()
    cascade = lab.studies.cascade(X_VAL, Y_VAL, threshold=0.8, order=THREE)
    lab.unregister("fair")
    assert not board.state.in_force
    lab.register("fair", NETS["fair"], example=X[:ROWS])
    assert board.state.in_force
    lab.studies.take(cascade)
    thresholds = lab.studies.thresholds()
    lab.unregister("fair")
    assert not thresholds.state.in_force
    with pytest.raises(UsageError, match="no plan of these stages"):
        thresholds.apply()
    lab.register("fair", NETS["fair"], example=X[:ROWS])
    assert thresholds.state.in_force
