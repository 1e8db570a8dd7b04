"""Whatever is named out of a known set: a name that is nearly right is asked about, wherever it is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from past import a_profile, a_small_plan
from test_messages import PACKAGE, SITES

from esen_lab.cli import main
from esen_lab.common.units import check_backend
from esen_lab.common.words import unknown
from esen_lab.cost_model import fit, fit_points
from esen_lab.devices.catalogue import Catalogue
from esen_lab.ensemble.combine import make_combine
from esen_lab.ensemble.combine_rules import weights_for
from esen_lab.ensemble.ensemble import Ensemble
from esen_lab.ensemble.kinds.adapted import check_options
from esen_lab.ensemble.kinds.engine_model import chosen
from esen_lab.ensemble.kinds.estimator import method_of
from esen_lab.ensemble.recipes import find_factory
from esen_lab.errors import StoreError, UsageError
from esen_lab.files import read_bytes
from esen_lab.lab.cluster import LabCluster
from esen_lab.lab.history import LabHistory
from esen_lab.lab.search_binding import bind_search
from esen_lab.lab.stages.checks import _peers
from esen_lab.lab.stages.load import _plans
from esen_lab.lab.stages.plans import export_as
from esen_lab.lab.stages.precision import _check
from esen_lab.lab.stages.serve import checked
from esen_lab.planner import make_searcher
from esen_lab.planner.editor import PlanEditor
from esen_lab.planner.limits import Limits
from esen_lab.planner.plan import Lane
from esen_lab.profiler.job import _chosen
from esen_lab.run.entries import check_asked
from esen_lab.run.options import RunOptions
from esen_lab.studies.best import front_of_choices
from esen_lab.studies.cascade import cascade
from esen_lab.ui.magics.verbs.edit import _switch
from esen_lab.ui.magics.verbs.run import _sure

NOTHING: Any = SimpleNamespace()
MEMBERS: Any = Ensemble(submodels=(SimpleNamespace(name="wide"), SimpleNamespace(name="deep")))  # type: ignore[arg-type]


def editor() -> PlanEditor:
    return PlanEditor({name: fit_points(name, {1: 0.02, 4: 0.01}, units=4) for name in ("wide", "deep")}, 4)


def on_nodes() -> LabCluster:
    state = SimpleNamespace(need_plan=lambda _: SimpleNamespace(devices=("left", "right")))
    return LabCluster(SimpleNamespace(state=state))  # type: ignore[arg-type]


BLANK: Any = SimpleNamespace(ensemble=None, device=None)
PLAIN: Any = SimpleNamespace(front=SimpleNamespace(expand=str))  # a session whose texts stand for themselves


REFUSALS: tuple[tuple[Callable[[], object], str], ...] = (
    (lambda: make_combine("meen"), "mean"),
    (lambda: weights_for((("wid", 1.0), ("deep", 1.0)), ["wide", "deep"]), "wide"),
    (lambda: MEMBERS.get("wid"), "wide"),
    (lambda: _chosen(MEMBERS, ["deeep"]), "deep"),
    (lambda: Limits(pinned={"wid": 1}).check(["wide", "deep"], 4), "wide"),
    (lambda: Limits.of({"min_unit": {}}), "min_units"),
    (lambda: a_small_plan().lane_of("aa"), "a"),
    (lambda: editor().share({"wid": 2}), "wide"),
    (lambda: editor().move("dep", 1), "deep"),
    (lambda: Lane(units=1, members=("a",), mode="thread"), "threads"),  # type: ignore[arg-type]
    (lambda: check_backend("openvin"), "openvino"),
    (lambda: check_backend("openvino@bf6"), "openvino@bf16"),
    (lambda: _check("bf61", None, None, None), "bf16"),
    (lambda: fit(a_profile(), quantile="medain"), "median"),  # type: ignore[arg-type]
    (lambda: make_searcher("exakt"), "exact"),
    (lambda: make_searcher("optuna", n_trails=3), "n_trials"),
    (lambda: make_searcher("optuna", sampler="tpee"), "tpe"),
    (lambda: front_of_choices({}, 4, NOTHING, NOTHING, weights="gredy"), "greedy"),
    (lambda: check_asked(5, ["sequentail"], (), {}, {}), "sequential"),
    (lambda: _peers("openvino-asinc", None, NOTHING), "openvino-async"),
    (lambda: _plans(["unlimted"], NOTHING, NOTHING), "unlimited"),
    (lambda: checked(max_row=3), "max_rows"),
    (lambda: export_as(NOTHING, "p", None, "tritn"), "triton"),
    (lambda: LabHistory(NOTHING).past(kinds=["plna"]), "plan"),
    (lambda: RunOptions(otherwise="frist", deadline_s=1.0), "first"),  # type: ignore[arg-type]
    (lambda: RunOptions(on_failure="leave_out"), "leave-out"),  # type: ignore[arg-type]
    (lambda: RunOptions(stop_early="decide"), "decided"),  # type: ignore[arg-type]
    (lambda: Catalogue().open("cpu:fats"), "cpu:fast"),
    (lambda: method_of(SimpleNamespace(predict=print), "predcit"), "predict"),
    (lambda: check_options({"outptus": 1}, ["outputs"], "An ONNX model"), "outputs"),
    (lambda: find_factory("torch.nn:Linaer"), "Linear"),
    (lambda: cascade({"wide": [1.0], "deep": [1.0]}, 1, ["wid", "deep"], [1.0, 1.0]), "wide"),
    (lambda: chosen(["logits", "scores"], "logit", {}, "ONNX model"), "logits"),
    (lambda: on_nodes().replan_without("lefd"), "left"),
    (lambda: bind_search(NOTHING, BLANK, SimpleNamespace(options={}, objective="measurd"), {}), "measured"),  # type: ignore[arg-type]
    (lambda: _switch(NOTHING, ["of"]), "off"),
    (lambda: _sure(PLAIN, "decide"), "decided"),
)


@pytest.mark.parametrize(("refused", "meant"), REFUSALS, ids=[meant for _, meant in REFUSALS])
def test_a_name_that_is_nearly_right_is_asked_about(refused: Callable[[], object], meant: str) -> None:
    with pytest.raises(UsageError) as problem:
        refused()
    assert re.search(rf"Did you mean [^?]*(?<![\w-]){re.escape(meant)}\b", problem.value.hint)


def test_a_file_that_is_not_there_is_asked_about_by_those_beside_it(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(StoreError) as problem:
        read_bytes(tmp_path / "plan.jso")
    assert problem.value.hint == "Did you mean plan.json?"
    with pytest.raises(StoreError) as problem:
        read_bytes(tmp_path / "nowhere" / "plan.jso")
    assert problem.value.hint == ""


def test_what_stands_for_peers_on_its_own_is_not_taken_for_a_misspelling() -> None:
    with pytest.raises(UsageError) as problem:
        _peers(["none", "all"], None, NOTHING)
    assert str(problem.value) == "The word all stands for peers on its own. Given: none, all."


def test_a_command_of_the_command_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serv", "x"])
    assert "Did you mean serve?" in capsys.readouterr().err


def test_a_name_like_none_of_them_is_refused_without_a_question() -> None:
    assert str(unknown("A rule is mean", "xyz", ["mean"], given="xyz", hint="Try.")) == (
        "A rule is mean. Given: xyz. Try."
    )


def test_every_such_refusal_is_made_at_one_place() -> None:
    kept_elsewhere = {  # what is refused there is no name that somebody typed
        "An estimator has one of {}",
        "A search by measured JCT takes one of the searchers {}",
    }
    listing = r".*(\b(is|are|takes|has|in) (some of|one of):? ?\{)"
    found = [site for site in SITES if site.rule and re.match(listing, site.rule) and site.kind != "unknown"]
    assert [site for site in found if site.rule not in kept_elsewhere] == []
    users = [path for path in PACKAGE.rglob("*.py") if "did_you_mean(" in path.read_text(encoding="utf-8")]
    assert {path.relative_to(PACKAGE) for path in users} == {
        Path("common/words.py"),
        Path("files/reading.py"),
        Path("common/command_line.py"),
    }
