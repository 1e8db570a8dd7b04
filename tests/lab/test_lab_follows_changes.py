"""Whatever looks at the sub-models looks at the networks as they are now, also where no run came in between."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from choosing_lab import with_points
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.errors import EsenError, ModelError, UsageError
from esen_lab.planner.plan import Lane

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
RULES = ("mean", "softmax-mean", "stack")


@pytest.fixture
def lab(lab: Lab) -> Iterator[Lab]:
    yield lab
    lab.combine("stack")


def two(lab: Lab) -> tuple[nn.Sequential, nn.Module]:
    a, b = nn.Sequential(nn.Linear(16, 4)), nn.Linear(16, 4)
    lab.register("a", a, example=X)
    lab.register("b", b)
    return a, b


class Converts(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return x.double()


class InADict(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return {"y": x}


# --- what did not fit together -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "broken", [lambda: nn.Linear(16, 5), InADict, lambda: nn.Unflatten(1, (2, 8))], ids=["width", "dict", "dimensions"]
)
@pytest.mark.parametrize("awaited", [False, True], ids=["run", "arun"])
def test_members_that_did_not_fit_together_and_were_mended_run_again(
    lab: Lab, rule: str, broken: Callable[[], nn.Module], awaited: bool
) -> None:
    a, _ = two(lab)
    lab.combine(rule)
    run: Callable[[], torch.Tensor] = (lambda: asyncio.run(lab.arun(X))) if awaited else (lambda: lab.run(X))
    good, wanted = a[0], run()
    a[0] = broken()
    for _ in range(2):
        with pytest.raises(UsageError, match="combined"):
            run()
    a[0] = good
    assert torch.equal(run(), wanted)
    a[0] = nn.Linear(17, 4)
    with pytest.raises(ModelError, match="cannot be multiplied"):
        run()
    a[0] = good
    assert torch.equal(run(), wanted)


# --- exports -----------------------------------------------------------------------------------------------------

LOADS = """
import sys, torch
from plan import load
if __name__ == "__main__":
    with load() as ensemble:
        torch.save(torch.as_tensor(ensemble(torch.load("x.pt"))), "y.pt")
"""


def test_an_export_holds_the_networks_as_they_are_now_without_a_run_in_between(lab: Lab, tmp_path: Path) -> None:
    a, b = two(lab)
    lab.apply(Plan(lanes=(Lane(units=1, members=("a", "b")),), units=1))
    lab.run(X)
    with torch.no_grad():
        a[0].weight.mul_(3)
    lab.export(tmp_path / "plan.py")
    torch.save(X, tmp_path / "x.pt")
    (tmp_path / "go.py").write_text(LOADS)
    subprocess.run([sys.executable, "go.py"], cwd=tmp_path, check=True, capture_output=True)
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), torch.stack([a(X), b(X)]).detach())


@pytest.mark.parametrize("form", ["script", "ray-serve", "triton"])
def test_a_network_that_is_broken_now_is_not_exported_as_it_was(lab: Lab, tmp_path: Path, form: str) -> None:
    a, _ = two(lab)
    lab.combine("mean")
    lab.apply(Plan(lanes=(Lane(units=1, members=("a", "b")),), units=1))
    a[0] = nn.Linear(17, 4)
    where = tmp_path / ("plan.py" if form == "script" else "folder")
    with pytest.raises(EsenError, match="cannot be multiplied"):
        lab.export(where, form=form)
    assert not where.exists()


# --- studies -----------------------------------------------------------------------------------------------------


class Always(nn.Module):
    """Says one class, whatever it is asked."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.register_buffer("answer", 5 * torch.eye(3)[number])

    def says(self, number: int) -> None:
        self.answer.copy_(5 * torch.eye(3)[number])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * 0 + self.answer


Y = torch.zeros(8, dtype=torch.long)
STUDIES: dict[str, Callable[[Lab], bool]] = {
    "members": lambda lab: {c.names for c in lab.studies.members(X, Y).choices if c.accuracy == 1} == {("b",)},
    "best within": lambda lab: lab.best_within(1.0, X, Y).names == ("b",),
    "front": lambda lab: ("b",) in {p.names for p in lab.studies.front(X, Y).choices if p.accuracy == 1},
    "cascade": lambda lab: lab.studies.cascade(X, Y, order=["b", "a"], threshold=0.9).accuracy == 1,
}


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_judges_the_networks_as_they_are_now(lab: Lab, study: str) -> None:
    a, b = Always(0), Always(1)
    lab.register("a", a, example=X)
    lab.register("b", b)
    lab.combine("softmax-mean")
    with_points(lab, {"a": [0.002] * lab.device.units, "b": [0.001] * lab.device.units})
    a.says(1)
    b.says(0)
    with_points(lab, {"a": [0.002] * lab.device.units, "b": [0.001] * lab.device.units})
    assert STUDIES[study](lab)


def test_a_search_does_not_plan_for_code_that_is_no_longer_there(lab: Lab) -> None:
    a, _ = two(lab)
    with_points(lab, {"a": [0.002] * lab.device.units, "b": [0.001] * lab.device.units})
    lab.search()
    a.append(nn.Linear(4, 4))
    with pytest.raises(UsageError, match="no finished measurement of a"):
        lab.search()


# --- checks ------------------------------------------------------------------------------------------------------


class ScaledFromOutside(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :4] * getattr(math, "esen_test_scale", 1.0)


def test_checks_ask_the_notebook_now_also_on_the_example_itself(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can see what is asked of an installed module by a text, so no run tells; who asks for a check is told."""
    lab.register("a", ScaledFromOutside(), example=X)
    lab.run(X)
    monkeypatch.setattr(math, "esen_test_scale", 5.0, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not lab.check_numerics(X, runs=1).passed
        assert not lab.check_numerics(X.clone(), runs=1).passed
        rows = lab.compare(X, rounds=1, strategies=["sequential"]).rows
    assert all("OTHER THAN THE NOTEBOOK" in row.outputs for row in rows)


# --- choices -----------------------------------------------------------------------------------------------------


CHOICES: dict[str, Callable[[Lab], object]] = {
    "backends": lambda lab: lab.lanes.choose_backends(backends=["eager"], budget_s=0.02),
    "a precision": lambda lab: lab.lanes.choose_precision("bf16", on=X, backends=["eager"]),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_is_of_the_networks_as_they_are_now(lab: Lab, choice: str) -> None:
    a, _ = two(lab)
    lab.apply(Plan(lanes=(Lane(units=1, members=("a", "b")),), units=1))
    good = a[0]
    a[0] = nn.Linear(17, 4)
    with pytest.raises(ModelError, match="cannot be multiplied"):
        CHOICES[choice](lab)
    a[0] = nn.Linear(16, 5)
    with pytest.raises(UsageError, match="combined"):
        lab.run(X)
    a[0] = good
    CHOICES[choice](lab)


# --- what is no network of its own --------------------------------------------------------------------------------


@pytest.mark.parametrize("counted", [True, False], ids=["counted by torch", "through .data"])
def test_an_exported_program_is_followed_when_its_weights_change(lab: Lab, *, counted: bool) -> None:
    program = torch.export.export(nn.Sequential(nn.Linear(16, 4)).eval(), (X,))
    lab.combine(lambda outputs: outputs["a"])
    lab.register("a", program, example=X)
    torch.testing.assert_close(lab.run(X), program.module()(X).detach())
    weight = program.state_dict["0.weight"]
    with torch.no_grad():
        (weight if counted else weight.data).mul_(3)
    torch.testing.assert_close(lab.run(X), program.module()(X).detach())


class Scales(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def test_a_network_that_nobody_holds_runs_as_it_was_and_its_report_says_that_its_code_has_changed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.combine(lambda outputs: outputs["a"])
    lab.register("a", Scales(), example=X)
    before = lab.run(X)
    monkeypatch.setattr(Scales, "forward", lambda _, x: x * 5)
    assert torch.equal(lab.run(X), before)
    (note,) = [note for note in lab.report.notes if "held by nobody" in note]
    assert "Scales.forward" in note
    lab.run(X)
    assert not any("held by nobody" in note for note in lab.report.notes), "once"
    assert sum("held by nobody" in note for note in lab.ensemble.get("a").notes) == 1, "and it stays with it"


def test_what_a_study_was_first_to_see_of_such_a_network_stays_with_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.combine(lambda outputs: outputs["a"])
    lab.register("a", Scales(), example=X)
    monkeypatch.setattr(Scales, "forward", lambda _, x: x * 5)
    lab.profile(budget_s=0.02).result(timeout=60)
    assert any("held by nobody" in note for note in lab.ensemble.get("a").notes)
