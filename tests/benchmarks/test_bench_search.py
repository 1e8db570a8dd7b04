"""The comparison of searchers: a quick run from end to end, cut short and gone on with, and what its figures mean."""

from __future__ import annotations

import importlib.util
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "bench_search.py"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("bench_search", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    import sys

    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def record(ensemble: str, searcher: str, jct_s: float, **known: Any) -> dict[str, Any]:
    return {
        "ensemble": ensemble,
        "n": 4,
        "units": 16,
        "searcher": searcher,
        "jct_s": jct_s,
        "bound_s": 0.9,
        "proven": False,
        "elapsed_s": 1.0,
        "reached_s": 0.5,
        "evaluations": 7,
        "commit": "abc",
        **known,
    }


def test_a_quick_run_writes_figures_page_and_plots_and_goes_on_where_it_ended(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    json_path, page = tmp_path / "results" / "search.json", tmp_path / "search.md"
    page.write_text(f"# By hand\n\n{bench.MARKS.begin}\nold figures\n{bench.MARKS.end}\n\n## Tried\n", encoding="utf-8")
    words = ["--quick", "--json", str(json_path), "--page", str(page)]
    whole = bench.tasks(True)
    monkeypatch.setattr(bench, "tasks", lambda quick: whole[: len(whole) // 2])
    bench.main(words)
    first = json.loads(json_path.read_text())
    assert first["done"] == len(whole) // 2
    monkeypatch.undo()
    capsys.readouterr()
    bench.main(words)
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == len(whole) - len(whole) // 2
    report = json.loads(json_path.read_text())
    assert report["done"] == report["asked"] == len(whole)
    assert report["records"][: first["done"]] == first["records"]
    assert {record["searcher"] for record in report["records"]} >= {"exact", "equal", "sequential", "optuna tpe 100"}
    text = page.read_text()
    assert text.startswith("# By hand\n")
    assert text.endswith("\n\n## Tried\n")
    assert "old figures" not in text
    assert "| exact | 0.00 % |" in text
    for picture in ("quality", "time", "size"):
        root = ET.parse(tmp_path / f"search_{picture}.svg").getroot()
        assert root.tag.endswith("svg")
        assert f"search_{picture}.svg" in text
    assert report["versions"]["Python"]
    assert report["commits"]
    assert report["summary"]["exact_beaten_by"] == []


def test_all_searchers_and_sizes_of_the_full_run_are_asked_for(bench: ModuleType) -> None:
    wanted = bench.tasks(False)
    sizes = {(len(task.tables), task.units) for task in wanted}
    assert min(n for n, _ in sizes) == 3
    assert max(n for n, _ in sizes) == 64
    assert {units for _, units in sizes} == {16, 100, 132}
    labels = {task.label for task in wanted}
    assert {f"optuna tpe {trials}" for trials in (100, 500, 2000)} <= labels
    assert {"exact", "equal", "sequential"} <= labels
    assert {"optuna nsga2 500", "optuna cmaes 500", "optuna gp 100"} <= labels
    for size in sizes:
        assert any((len(t.tables), t.units) == size and t.label == "optuna tpe 2000" for t in wanted)


def test_the_figures_are_relative_to_the_best_and_to_the_largest_bound(bench: ModuleType) -> None:
    rows = bench.compared(
        [
            record("a", "exact", 1.0, trace=[[0.001, 1.5], [0.002, 1.0]], bound_s=0.8),
            record("a", "optuna tpe 100", 1.5, reached_s=0.4),
            record("b", "exact", 2.0, trace=[[0.001, 2.0]], bound_s=2.0, proven=True),
            record("b", "optuna tpe 100", 1.9, bound_s=1.0),
        ]
    )
    assert [row["over_best"] for row in rows] == [0.0, 0.5, pytest.approx(2 / 1.9 - 1), 0.0]
    assert rows[0]["over_bound"] == pytest.approx(1 / 0.9 - 1)
    assert bench.times_sooner(rows, "optuna tpe 100") == [pytest.approx(400.0)]
    found = bench.summary(rows)
    assert found["exact_beaten_by"] == [["b", "optuna tpe 100"]]
    assert found["exact_proven_up_to_12"] == "1 of 2"
    assert found["searchers"]["optuna tpe 100"]["worst_over_best"] == 0.5


def test_a_page_without_marks_and_a_bad_number_of_minutes_are_refused(bench: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "search.md"
    page.write_text("# All by hand\n")
    with pytest.raises(SystemExit, match="no marks"):
        bench.main(["--quick", "--json", str(tmp_path / "search.json"), "--page", str(page)])
    assert page.read_text() == "# All by hand\n"
    with pytest.raises(SystemExit):
        bench.main(["--minutes", "0"])


def test_ensembles_are_functions_of_their_seeds(bench: ModuleType) -> None:
    assert bench.made_up(4, 16, 1) == bench.made_up(4, 16, 1)
    assert bench.made_up(4, 16, 1) != bench.made_up(4, 16, 2)
    assert bench.recorded(4, 1) == bench.recorded(4, 1)
