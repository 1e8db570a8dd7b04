"""Members, devices and stages from the lab: real answers on validation data, plans in the plan's own schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from choosing_lab import with_points
from models import mlp
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.errors import EsenError, UsageError
from esen_lab.lab import Action, study
from esen_lab.planner import allocate
from esen_lab.planner.nodes import NodeLink
from esen_lab.run import Executor
from esen_lab.studies import validation
from esen_lab.studies.batch_times import RowTimes
from esen_lab.studies.cascade import Cascade
from esen_lab.studies.front import ParetoFront
from esen_lab.studies.placement import DevicePlacement
from esen_lab.studies.validation import measure_rows

CLASSES, SAMPLES = 3, 150
Y = torch.arange(SAMPLES) % CLASSES
X = torch.nn.functional.one_hot(Y, CLASSES).float()
EXAMPLE = X[:10]


class Guesser(nn.Module):
    """Right on a fixed part of the samples, by a table of what to answer; `sure` is the size of its scores."""

    def __init__(self, right: float, seed: int, sure: float = 5.0) -> None:
        super().__init__()
        self.right, self.seed, self.sure = right, seed, sure

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # What it gets wrong depends on the sample's own bits only, so that batches do not matter.
        classes = x.argmax(dim=-1)
        random = torch.Generator().manual_seed(self.seed)
        luck = torch.rand(SAMPLES, generator=random)
        place = (x.sum(dim=-1) - 1).mul(1000).round().long()
        wrong = luck[place % SAMPLES] > self.right
        answered = torch.where(wrong, (classes + 1) % CLASSES, classes)
        return self.sure * torch.nn.functional.one_hot(answered, CLASSES).float()


def numbered() -> torch.Tensor:
    """The validation data, each sample with its number hidden in the scale of its one hot row."""
    return X * (1 + torch.arange(SAMPLES)[:, None] / 1000)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    made: list[Lab] = []

    def make(modules: Mapping[str, nn.Module], tables: Mapping[str, Sequence[float]] | None = None) -> Lab:
        lab = Lab(device="cpu", store=tmp_path / "profiles.sqlite", combine="softmax-mean")
        made.append(lab)
        for name, module in modules.items():
            lab.register(name, module, example=EXAMPLE)
        units = lab.device.units
        default = {name: [1e-3 * (k + 1)] * units for k, name in enumerate(modules)}
        return with_points(lab, tables or default)

    yield make
    for lab in made:
        lab.close()


def three(make: Callable[..., Lab]) -> Lab:
    return make({"good": Guesser(0.9, 1), "fair": Guesser(0.8, 2), "poor": Guesser(0.4, 3)})


def alone(module: nn.Module) -> float:
    return float((module(numbered()).argmax(dim=-1) == Y).float().mean())


# --- members ------------------------------------------------------------------------------------------------------


def test_the_front_holds_what_members_really_answer(make: Callable[..., Lab]) -> None:
    lab = three(make)
    front = lab.studies.members(numbered(), Y)
    assert isinstance(front, ParetoFront)
    assert front.exact
    assert front.evaluations == 7
    first = front.choices[0]
    assert first.names == ("good",)
    assert first.accuracy == pytest.approx(alone(Guesser(0.9, 1)))
    jcts = [choice.allocation.jct_s for choice in front.choices]
    assert jcts == sorted(jcts)
    assert front.to_dict()["choices"][0]["names"] == ["good"]
    again = lab.studies.members(numbered().numpy(), Y.tolist(), batch=7)
    assert [(c.names, c.accuracy) for c in again.choices] == [(c.names, c.accuracy) for c in front.choices]


def test_taking_a_point_runs_its_members_only_and_it_can_be_saved_compared_and_exported(
    make: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = make({"good": mlp(inputs=3, seed=1), "poor": mlp(inputs=3, seed=2)})
    lab.combine("mean")
    classes = lab.run(EXAMPLE).shape[-1]
    front = lab.studies.members(X, torch.zeros(SAMPLES, dtype=torch.int64) % classes)
    choice = next(choice for choice in front.choices if len(choice.names) == 1)
    plan = lab.studies.take(choice)
    assert lab.plan is plan
    assert set(plan.left_out) == {"good", "poor"} - set(choice.names)
    only = mlp(inputs=3, seed=1 if choice.names == ("good",) else 2)
    with torch.inference_mode():
        torch.testing.assert_close(lab.run(EXAMPLE), only(EXAMPLE))
    assert lab.report is not None
    assert [span.name for span in lab.report.spans] == list(choice.names)
    lab.save(tmp_path / "plan.json")
    assert lab.load(tmp_path / "plan.json").left_out == plan.left_out
    table = lab.compare(EXAMPLE, rounds=1, strategies=["sequential"])
    assert table.row("plan").agrees
    assert lab.status().next_step.action is Action.EXPORT
    exported = lab.export(tmp_path / "plan.py")
    assert "good" in exported.script.read_text() or exported.files


def test_weights_are_those_of_the_members_that_stay(make: Callable[..., Lab]) -> None:
    lab = make({"a": mlp(inputs=3, seed=1), "b": mlp(inputs=3, seed=2), "c": mlp(inputs=3, seed=3)})
    lab.combine("weighted", {"a": 0.5, "b": 0.25, "c": 0.25})
    pair = lab.ensemble.only(["c", "a"])
    assert pair.names == ("a", "c")
    assert pair.combine.describe() == "weighted (a 0.67, c 0.33)"
    lab.combine("weighted", [0.5, 0.25, 0.25])
    assert lab.ensemble.only(["b", "c"]).combine.describe() == "weighted (b 0.50, c 0.50)"
    lab.combine("weighted", [1.0, 0.0, 0.0])
    with pytest.raises(UsageError, match="sum to more than 0"):
        lab.ensemble.only(["b", "c"])
    with pytest.raises(UsageError, match="at least one sub-model"):
        lab.ensemble.only([])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y[:-1], "one whole number"),
        (X, Y.float(), "one whole number"),
        (X, Y[:, None], "one whole number"),
        (X, Y + 77, "one of the 3 classes that the members tell apart, 0 to 2. Given: 77"),
        (X, Y - 1, "one of the 3 classes that the members tell apart, 0 to 2. Given: -1"),
        (X[:0], Y[:0], "along the first dimension"),
        (torch.tensor(1.0), Y, "along the first dimension"),
        ("no tensor", Y, "tensor"),
    ],
)
def test_data_and_labels_that_do_not_fit_are_refused(make: Callable[..., Lab], x: Any, y: Any, message: str) -> None:
    lab = three(make)
    with pytest.raises(UsageError, match=message):
        lab.studies.members(x, y)
    assert lab.plan is None


def test_a_batch_of_none_is_refused(make: Callable[..., Lab]) -> None:
    with pytest.raises(UsageError, match="at least one sample"):
        three(make).studies.members(X, Y, batch=0)


@pytest.mark.parametrize("study", ["members", "front"])
def test_a_seed_that_is_none_is_refused(make: Callable[..., Lab], study: str) -> None:
    lab = three(make)
    with pytest.raises(UsageError, match="A seed is a whole number"):
        getattr(lab.studies, study)(X, Y, seed=-1)


def test_rules_that_are_none_of_a_classifier_are_refused(make: Callable[..., Lab]) -> None:
    lab = three(make)
    lab.combine("stack")
    with pytest.raises(UsageError, match="gives scores"):
        lab.studies.members(numbered(), Y)
    lab.combine("majority")
    assert lab.studies.members(numbered(), Y).choices
    with pytest.raises(UsageError, match="how sure"):
        lab.studies.cascade(numbered())
    with pytest.raises(UsageError, match="at least one sample"):
        lab.studies.members(numbered(), Y, batch=-1)


def test_validation_data_that_members_do_not_take_is_the_members_error(make: Callable[..., Lab]) -> None:
    lab = make({"good": mlp(inputs=3), "poor": mlp(inputs=3, seed=2)})
    with pytest.raises(EsenError, match=r"good|poor|shape"):
        lab.studies.members(torch.ones(9, 4), torch.zeros(9, dtype=torch.int64))


def test_members_are_chosen_after_they_are_profiled(make: Callable[..., Lab]) -> None:
    lab = three(make)
    lab.register("new", mlp(inputs=3))
    for ask in (lambda: lab.studies.members(X, Y), lambda: lab.studies.place(2), lambda: lab.studies.cascade(X)):
        with pytest.raises(UsageError, match=r"lab\.profile\(\)"):
            ask()


# --- devices ------------------------------------------------------------------------------------------------------


def test_two_devices_like_this_one(make: Callable[..., Lab], tmp_path: Path) -> None:
    lab = three(make)
    found = lab.studies.place(2)
    assert isinstance(found, DevicePlacement)
    assert found.proven
    assert found.jct_s < allocate({"a": [3e-3], "b": [2e-3], "c": [1e-3]}, 1).jct_s
    plan = lab.studies.plan_of(found)
    assert plan.devices == {"device1": lab.device.units, "device2": lab.device.units}
    assert {lane.device for lane in plan.lanes} == {"device1", "device2"}
    assert not plan.oversubscribed
    assert Plan.load(plan.save(tmp_path / "placed.json")) == plan
    assert lab.plan is None


def test_different_devices_by_profile_and_by_tables(make: Callable[..., Lab]) -> None:
    lab = three(make)
    fast = {name: [1e-4, 1e-4, 1e-4] for name in lab.ensemble.names}
    found = lab.studies.place({"here": lab.measurements, "fast": fast})
    assert found.units == (lab.device.units, 3)
    assert found.jct_s == pytest.approx(1e-4)
    plan = lab.studies.plan_of(found)
    assert plan.describe().startswith("fast ")
    assert "idle: here" in plan.notes


def test_a_node_is_used_where_the_way_there_is_worth_it(make: Callable[..., Lab]) -> None:
    lab = three(make)
    nodes = {"here": lab.measurements, "fast": {name: [1e-4, 1e-4, 1e-4] for name in lab.ensemble.names}}
    near = lab.studies.place(nodes, links={"fast": NodeLink(input_s=1e-4, byte_s=1e-6)})
    output_bytes = 10 * CLASSES * 4
    assert near.transfers_s[1] == pytest.approx(1e-4 + 3 * output_bytes * 1e-6)
    assert near.jct_s == pytest.approx(near.transfers_s[1] + 1e-4)
    far = lab.studies.place(nodes, links={"fast": NodeLink(input_s=1.0)})
    assert far.devices[1] == ("fast", None)
    notes = lab.studies.plan_of(far).notes
    assert "idle: fast" in notes
    assert any(note.startswith("idle because of transfer: fast") for note in notes)
    with pytest.raises(UsageError, match="A link is that of a device"):
        lab.studies.place(nodes, links={"fats": NodeLink()})
    with pytest.raises(UsageError, match="A link is a NodeLink"):
        lab.studies.place(nodes, links={"fast": 0.1})  # type: ignore[dict-item]


def test_replicas_have_plans_of_their_own(make: Callable[..., Lab]) -> None:
    lab = three(make)
    found = lab.studies.replicate(3)
    assert sorted(name for one in found.replicas for name in one.nodes) == ["device1", "device2", "device3"]
    for one in found.replicas:
        plan = lab.studies.plan_of(one.placement)
        assert set(plan.devices) == set(one.nodes)
        assert sorted(plan.names) == sorted(lab.ensemble.names)
        assert plan.jct_s is not None
        assert one.calls_per_s == pytest.approx(1 / plan.jct_s)
    one_per_s = found.calls_per_s / 3
    held = lab.studies.replicate(3, rate_per_s=0.5 * one_per_s, busy=0.9)
    assert (held.nodes, held.least_nodes, held.proven) == (1, 1, True)
    assert len(held.idle) == 2


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (0, "over 1 to 4,096 devices"),
        (10**20, "over 1 to 4,096 devices"),
        ({}, "a number of devices"),
        ("two", "a number of devices"),
        (True, "a number of devices"),
        ({"big": 3}, "a Profile, or by latencies"),
        ({"big": {"good": [1.0]}}, "knows no fair, poor"),
        ({"big": {"good": [1.0], "fair": [1.0, 2.0], "poor": [1.0]}}, "one latency for each share"),
        ({"big": {"good": [-1.0], "fair": [1.0], "poor": [1.0]}}, "positive finite"),
        ({"b g": {"good": [1.0], "fair": [1.0], "poor": [1.0]}}, "A name starts"),
    ],
)
def test_devices_that_cannot_be_placed_on_are_refused(make: Callable[..., Lab], devices: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        three(make).studies.place(devices)


# --- stages -------------------------------------------------------------------------------------------------------


def test_a_sure_first_member_spares_the_others(make: Callable[..., Lab], tmp_path: Path) -> None:
    units = Lab(device="cpu", store=tmp_path / "other.sqlite").device.units
    modules = {"quick": Guesser(0.95, 1, sure=9.0), "slow": Guesser(0.95, 2)}
    lab = make(modules, {"quick": [1e-3] * units, "slow": [2e-2] * units})
    found = lab.studies.cascade(numbered(), Y, threshold=0.9, stage_overhead_s=0.0)
    assert isinstance(found, Cascade)
    assert [stage.names for stage in found.stages] == [("quick",), ("slow",)]
    assert found.stages[1].reach == 0.0
    assert found.expected_s == pytest.approx(1e-3)
    assert found.gain > 0.9
    assert any(note.startswith("accuracy") and "with early exit" in note for note in found.notes)
    plan = lab.studies.plan_of(found)
    assert plan.reach == (1.0, 0.0)
    assert plan.threshold == 0.9
    assert [lane.stage for lane in plan.lanes] == [0, 1]
    assert not plan.oversubscribed
    assert ", then " in plan.describe()
    assert Plan.load(plan.save(tmp_path / "staged.json")) == plan


def test_what_fewer_rows_take_is_measured_once_for_the_same_code(
    make: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, ...]] = []

    def counted(executor: Executor, x: Any) -> RowTimes:
        measured.append(executor.plan.names)
        return measure_rows(executor, x)

    monkeypatch.setattr(validation, "measure_rows", counted)
    lab = three(make)
    first = lab.studies.cascade(numbered(), Y)
    assert lab.studies.cascade(numbered(), Y, threshold=0.8).rows == first.rows == len(EXAMPLE)
    assert len(measured) == 1
    lab.register("good", mlp(inputs=3, outputs=CLASSES), example=EXAMPLE)
    with_points(lab, {name: [1e-3] * lab.device.units for name in lab.ensemble.names})
    lab.studies.cascade(numbered(), Y)
    assert len(measured) == 2, "another network takes another time"


def test_when_nobody_is_sure_there_is_one_stage_and_it_can_be_run(make: Callable[..., Lab]) -> None:
    lab = make({"a": Guesser(0.9, 1, sure=0.1), "b": Guesser(0.9, 2, sure=0.1)})
    found = lab.studies.cascade(numbered(), threshold=0.99)
    assert len(found.stages) == 1
    assert found.gain == pytest.approx(0.0)
    lab.plan = lab.studies.plan_of(found)
    assert lab.run(EXAMPLE).shape == (10, CLASSES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "confidence threshold"),
        ({"threshold": 1.5}, "confidence threshold"),
        ({"order": ["good"]}, "every member once"),
        ({"order": ["good", "fair", "ghost"]}, "every member once"),
        ({"y": Y[:3]}, "one whole number"),
    ],
)
def test_a_cascade_that_cannot_be_is_refused(make: Callable[..., Lab], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        three(make).studies.cascade(numbered(), **options)


def test_plans_over_devices_and_stages_are_kept_out_of_running(make: Callable[..., Lab], tmp_path: Path) -> None:
    lab = three(make)
    before = lab.search()
    plan = lab.studies.plan_of(lab.studies.place(2))
    for attempt in (
        lambda: setattr(lab, "plan", plan),
        lambda: lab.load(plan.save(tmp_path / "placed.json")),
        lambda: lab.studies.plan_of("nothing"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match=r"is for one device|is made of"):
            attempt()
    assert lab.plan is before
    assert np.isfinite(before.jct_s or np.nan)


def test_latencies_of_a_device_may_be_arrays(make: Callable[..., Lab]) -> None:
    lab = three(make)
    rows = {name: [0.02, 0.01] for name in ("good", "fair", "poor")}
    arrays = {name: np.array(row) for name, row in rows.items()}
    assert lab.studies.place({"there": arrays}).jct_s == lab.studies.place({"there": rows}).jct_s


# --- members without weight, and arguments that cannot be ---------------------------------------------------------


def test_members_without_weight_are_in_no_choice_and_last_in_a_cascade(make: Callable[..., Lab]) -> None:
    lab = make(
        {"none": Guesser(0.5, 4), "good": Guesser(0.9, 1), "fair": Guesser(0.8, 2)},
    )
    lab.combine("weighted", {"none": 0, "good": 2, "fair": 1})
    front = lab.studies.members(numbered(), Y)
    assert front.exact
    assert all("none" not in choice.names for choice in front.choices)
    cascade = lab.studies.cascade(numbered(), Y)
    assert "none" in cascade.stages[-1].names
    assert cascade.stages[0].names[0] != "none"
    plan = lab.search(deadline_s=10.0)
    assert "right" in plan.notes[0]
    with pytest.raises(UsageError, match=r"begins with a member that has weight.*none, which has none"):
        lab.studies.cascade(numbered(), Y, order=["none", "good", "fair"])
    staged = lab.studies.cascade(numbered(), Y, stages=[["none", "good"], ["fair"]])
    assert set(staged.stages[0].names) == {"none", "good"}


def test_a_choice_with_learned_weights_that_is_in_force_is_no_hindrance_to_the_next_study(
    make: Callable[..., Lab],
) -> None:
    lab = three(make)
    front = lab.studies.front(numbered(), Y, weights="greedy")
    lab.studies.take(front.choices[0])
    lab.combine("weighted", {name: float(name in front.choices[0].names) for name in lab.ensemble.names})
    assert lab.studies.members(numbered(), Y).choices[0].names == front.choices[0].names


@pytest.mark.parametrize(
    "asked",
    [
        lambda studies: studies.cascade(numbered(), Y, threshold=2.0),
        lambda studies: studies.cascade(numbered(), Y, threshold="0.9"),
        lambda studies: studies.cascade(numbered(), Y, threshold=float("nan")),
        lambda studies: studies.cascade(numbered(), Y, order=["good"]),
        lambda studies: studies.cascade(numbered(), Y, order=5),
        lambda studies: studies.cascade(numbered(), Y, stages=[["good"], 5]),
        lambda studies: studies.cascade(numbered(), Y, stage_overhead_s=float("nan")),
        lambda studies: studies.cascade(numbered(), Y, stage_overhead_s=-1.0),
        lambda studies: studies.cascade(numbered(), Y, deadline_s="soon"),
        lambda studies: studies.cascade(numbered(), Y[:-1]),
        lambda studies: studies.members(numbered(), None),
        lambda studies: studies.front(numbered(), Y, weights="best"),
        lambda studies: studies.front(numbered(), Y[:-1]),
        lambda studies: studies.best_within(float("nan"), numbered(), Y),
        lambda studies: studies.best_within("1", numbered(), Y),
        lambda studies: studies.fastest_within(1.5, numbered(), Y),
    ],
)
def test_what_a_study_cannot_be_asked_is_said_before_any_member_runs(
    asked: Callable[[Any], object], make: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(*given: object, **named: object) -> None:
        raise AssertionError("members ran first")

    lab = three(make)
    monkeypatch.setattr(study, "answers", ran)
    with pytest.raises(UsageError):
        asked(lab.studies)
