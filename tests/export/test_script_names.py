"""What a script may be called, and what its own text says of that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from esen_lab.ensemble import Ensemble
from esen_lab.errors import EsenError, UsageError
from esen_lab.export import export_plan, load_bundle
from esen_lab.export.script import script_text


@pytest.mark.parametrize("name", ["torch", "json", "numpy", "esen_lab", "msgspec"])
def test_a_script_that_would_be_taken_for_a_module_it_imports_is_refused(
    name: str, tmp_path: Path, simple: Ensemble, planned: Any
) -> None:
    with pytest.raises(UsageError, match=rf"called like a module.*run_{name}\.py"):
        export_plan(planned(simple), simple, tmp_path / f"{name}.py")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "error"), [(None, UsageError), (b"plan.py", UsageError), ("x" * 250 + ".py", EsenError)]
)
def test_a_path_that_cannot_be_is_one_error_of_ours(
    path: Any, error: type[Exception], tmp_path: Path, simple: Ensemble, planned: Any
) -> None:
    with pytest.raises(error):
        export_plan(planned(simple), simple, tmp_path / path if isinstance(path, str) else path)


@pytest.mark.parametrize(
    ("stem", "told"),
    [
        ("plan", ["python plan.py --input", "`from plan import load`"]),
        ("plan-v2", ["python plan-v2.py --input", "runpy.run_path('plan-v2.py')['load']"]),
        ("class", ["python class.py --input", "runpy.run_path('class.py')['load']"]),
        ("a 'b", ["python THIS_SCRIPT.py --input", "runpy.run_path('THIS_SCRIPT.py')['load']"]),
    ],
)
def test_what_a_script_says_of_its_use_is_its_own_name(stem: str, told: list[str]) -> None:
    text = script_text(stem=stem, folder=f"{stem}_files", device="cpu")
    assert [words for words in told if words not in text] == []


def test_an_export_through_a_link_is_beside_what_the_link_points_to(
    tmp_path: Path, simple: Ensemble, planned: Any
) -> None:
    (tmp_path / "real").mkdir()
    old = export_plan(planned(simple), simple, tmp_path / "real" / "plan.py")
    (tmp_path / "link.py").symlink_to(old.script)
    one = simple.only(["a"])
    export_plan(planned(one), one, tmp_path / "link.py")
    assert load_bundle(old.folder)[1].names == ("a",), "where the script looks for it"
    assert sorted(os.listdir(tmp_path)) == ["link.py", "real"]
