"""The dependency rule, as a test: who may import whom, and who may import what from outside."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "esen_lab"

LEAVES = {"errors", "units", "trees", "frames", "showing"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "units": {"errors"},
    "trees": {"errors", "units"},
    # Records of several parts become tables of pandas, where it is installed.
    "frames": {"errors"},
    # Records show themselves; what draws them is found by name.
    "showing": set(),
    "devices": LEAVES,
    "workers": LEAVES | {"devices"},
    "ensemble": LEAVES,
    "profiling": LEAVES | {"devices", "workers", "ensemble"},
    "fitting": LEAVES | {"profiling"},
    "search": LEAVES | {"fitting"},
    "planning": LEAVES | {"ensemble", "search"},
    "runtime": LEAVES | {"devices", "workers", "ensemble", "planning"},
    # Searches that need the ensemble, its measurements or its warm lanes; `search` itself stays free of all that.
    "choosing": LEAVES | {"devices", "ensemble", "profiling", "fitting", "search", "planning", "runtime"},
    "export": LEAVES | {"ensemble", "planning"},
    # A tuned draft is predicted from cost models, completed by the search, and becomes a plan.
    "tuning": LEAVES | {"fitting", "search", "planning"},
    "lab": LEAVES
    | {"devices", "ensemble", "profiling", "fitting", "search", "planning", "runtime", "export", "choosing", "tuning"},
    # `run FOLDER` runs an exported plan, as its script does; `doctor` looks at devices and the profile store.
    "cli": LEAVES | {"devices", "profiling", "planning", "runtime", "export", "lab"},
    # The panel of sliders names the types of the tuning that `lab.tune()` gives it.
    "notebook": LEAVES | {"lab", "tuning"},
}
# Each heavy dependency lives in the few files that are named for it; name the files as they come.
ONLY_IN: dict[str, set[str]] = {
    "pynvml": {"devices/nvml.py"},
    "cuda": {"devices/green_driver.py"},
    "optuna": {"search/optuna_search.py"},
    "bokeh": {"notebook/charts.py"},
    "ipywidgets": {"notebook/panels.py", "notebook/live.py", "notebook/commands.py"},
    "anywidget": {"notebook/live.py", "notebook/commands.py"},
    "psutil": {"devices/cpu_meter.py"},
    "IPython": {"notebook/magics.py"},
    "pandas": {"frames.py"},
}
HEAVY = sorted({*ONLY_IN, "torch"})
# Also without torch: planning works from stored profiles on any machine.
LIGHT = [
    "esen_lab",
    "esen_lab.tuning",
    "esen_lab.search",
    "esen_lab.planning",
    "esen_lab.fitting",
    "esen_lab.profiling.records",
]
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(source: Path) -> Iterator[tuple[str, bool]]:
    """Yield (module, for_types_only) for each import, at any depth: a lazy import is still an edge."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    type_only = {id(node) for guard in guards for stmt in guard.body for node in ast.walk(stmt)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in type_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: use absolute imports"
            yield from ((f"{node.module}.{alias.name}", id(node) in type_only) for alias in node.names)


def test_the_rule_itself_has_no_cycle() -> None:
    graphlib.TopologicalSorter(MAY_IMPORT).prepare()


def test_every_part_is_in_the_rule() -> None:
    parts = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert parts - {"__init__", "__main__"} == set(MAY_IMPORT)


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_rule(source: Path) -> None:
    here = source.relative_to(PACKAGE)
    part = here.parts[0].removesuffix(".py")
    for name, for_types_only in imported_modules(source):
        root, _, rest = name.partition(".")
        if root == "esen_lab":
            target = rest.split(".")[0]
            if part not in {"__init__", "__main__", target} and rest not in {"", "__version__"}:
                assert target in MAY_IMPORT[part], f"{here} may not import {name}"
        elif not for_types_only:
            assert str(here) in ONLY_IN.get(root, {str(here)}), f"{here} may not import {root}"


@pytest.mark.parametrize("module", LIGHT)
def test_core_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert out.stdout.split() == []


def test_no_part_shares_its_name_with_a_public_function() -> None:
    import esen_lab

    assert not set(esen_lab.__all__) & set(MAY_IMPORT)
