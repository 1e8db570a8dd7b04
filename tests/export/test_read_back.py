"""Whatever is exported can be read again, and combines as it does here; else it is refused before it is written."""

from __future__ import annotations

import linecache
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.errors import UsageError
from esen_lab.export import export_plan, load_bundle

X = torch.ones(2, 8)


class Flagged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, flag: bool, scale: float, limit: float, mode: str, n: int) -> torch.Tensor:
        y = self.net(x) * (scale if flag and mode == "b" else n)
        return y.clamp(max=limit)


class Tells(nn.Module):
    """Constants of every kind, and keys of every kind, beside an answer."""

    def forward(self, x: torch.Tensor) -> dict[Any, Any]:
        return {
            "y": x,
            3: x + 1,
            ("a", 1): x + 2,
            "const": ("const", True, 0.5, 2, None, "text"),
            "loss": math.nan,
            "most": -math.inf,
        }


def test_constants_and_keys_of_every_kind_are_read_again(tmp_path: Path, planned: Any) -> None:
    example = (X, True, 0.5, math.inf, "b", 2)
    ensemble = Ensemble(submodels=(make_submodel("a", Flagged(), example),))
    exported = export_plan(planned(ensemble), ensemble, tmp_path / "plan.py")
    assert load_bundle(exported.folder)[1].example[1:] == example[1:]

    ensemble = Ensemble(submodels=(make_submodel("a", Tells(), X),))
    exported = export_plan(planned(ensemble), ensemble, tmp_path / "plan.py")
    again = load_bundle(exported.folder)[1]
    assert repr(again.get("a").output_spec) == repr(ensemble.get("a").output_spec), "NaN is not equal to itself"
    assert again.get("a").answer["const"] == ("const", True, 0.5, 2, None, "text")


def test_what_cannot_be_read_again_is_not_written(
    tmp_path: Path, simple: Ensemble, planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esen_lab.export.bundle.MOST_JSON_BYTES", 1000)
    with pytest.raises(UsageError, match=r"exported can be read again.*at most 1,000 bytes"):
        export_plan(planned(simple), simple, tmp_path / "plan.py")
    assert not list(tmp_path.iterdir())


def test_a_rule_whose_saved_text_answers_otherwise_is_not_written(
    tmp_path: Path, simple: Ensemble, planned: Any, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "def rule(outputs):\n    return outputs['a'] * rule.weight\n"
    monkeypatch.setitem(linecache.cache, "<cell-of-a-rule>", (len(text), None, text.splitlines(keepends=True), ""))
    exec(compile(text, "<cell-of-a-rule>", "exec"), names)
    rule = names["rule"]
    rule.weight = 2.0  # no text says so
    ensemble = simple.with_combine(make_combine(rule))
    with pytest.raises(UsageError, match=r"saved of a combine rule.*rule\(\) of the notebook.*AttributeError"):
        export_plan(planned(ensemble), ensemble, tmp_path / "plan.py")
    assert not list(tmp_path.iterdir())
