"""The dependency rule, as a test: who may import whom, and who may import what from outside."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "esen_lab"

LEAVES = {"errors", "terminal", "common", "files"}
MAY_IMPORT: dict[str, set[str]] = {
    # Text from anywhere, made fit for a terminal: errors and tables say nothing else.
    "terminal": set(),
    "errors": {"terminal"},
    # Units, tensors and trees of them, the door for inputs, answers that are compared, locks, tables.
    "common": {"errors", "terminal"},
    # Whatever is read or written: bounded readers, schemas, one writer.
    "files": {"errors", "terminal", "common"},
    # What a project has measured and planned, from one session to the next: an entry holds a plan.
    "history": LEAVES | {"planner"},
    "devices": LEAVES,
    "ensemble": LEAVES,
    # A lane calls a network as its traits say, and looks whether its code is that of the session.
    "lanes": LEAVES | {"devices", "ensemble"},
    "profiler": LEAVES | {"devices", "lanes", "ensemble"},
    "cost_model": LEAVES | {"profiler"},
    # Plans come from cost models alone: the search needs neither a device nor torch.
    "planner": LEAVES | {"ensemble", "cost_model"},
    "run": LEAVES | {"devices", "lanes", "ensemble", "planner"},
    # Searches that need the ensemble, its measurements or its warm lanes; `planner` itself stays free of all that.
    "studies": LEAVES | {"devices", "ensemble", "profiler", "cost_model", "planner", "run"},
    "export": LEAVES | {"ensemble", "planner"},
    # Whoever is served is told to it as a protocol; the lanes of an exported folder it starts itself.
    "serving": LEAVES | {"devices", "ensemble", "planner", "run", "export"},
    # A node is sent its part of a plan as an export, and runs it as one machine does.
    "cluster": LEAVES | {"devices", "lanes", "ensemble", "planner", "profiler", "run", "export"},
    # Requests at random, for whoever answers: it knows neither plans nor lanes.
    "load": LEAVES,
    # A lab is told, as everything that holds lanes is, when its process is forked.
    "lab": LEAVES
    | {
        "devices",
        "lanes",
        "ensemble",
        "profiler",
        "cost_model",
        "planner",
        "run",
        "export",
        "load",
        "studies",
        "serving",
        "cluster",
        "history",
    },
    # `run FOLDER` runs an exported plan, as its script does; `doctor` looks at devices and the profile store.
    "cli": LEAVES | {"devices", "profiler", "planner", "run", "export", "serving", "lab"},
    # The panel of sliders names the types of the editor that `lab.tune()` gives it; the panel in JupyterLab, which
    # shows the nodes of a cluster, how their readings are called.
    "ui": LEAVES | {"lab", "planner", "cluster"},
}
# Each heavy dependency lives in the few files that are named for it; name the files as they come.
ONLY_IN: dict[str, set[str]] = {
    "pynvml": {"devices/cuda/nvml.py"},
    "cuda": {"devices/cuda/green_core.py", "devices/cuda/green_driver.py"},
    "optuna": {"planner/optuna_search.py"},
    "bokeh": {"ui/widgets/live_charts.py"},
    "ipywidgets": {
        "ui/widgets/panel.py",
        "ui/widgets/sliders.py",
        "ui/widgets/thresholds.py",
        "ui/widgets/live.py",
        "ui/widgets/commands.py",
        "ui/widgets/laid.py",
        "ui/widgets/board.py",
    },
    "anywidget": {
        "ui/widgets/live.py",
        "ui/widgets/commands.py",
        "ui/widgets/laid.py",
        "ui/widgets/board.py",
    },
    "psutil": {"devices/cpu/meter.py"},
    "IPython": {"ui/magics/magics.py"},
    "pandas": {"common/records.py", "ensemble/kinds/estimator.py"},
    "openvino": {"ensemble/kinds/openvino_model.py"},
    "onnxruntime": {"ensemble/kinds/onnx_model.py", "lanes/backends/_int8.py"},
    "onnx": {"ensemble/kinds/onnx_model.py", "lanes/backends/_int8.py"},
    "xgboost": {"ensemble/kinds/xgboost_model.py"},
    "lightgbm": {"ensemble/kinds/lightgbm_model.py"},
    "sklearn": {"ensemble/kinds/estimator.py"},
    "threadpoolctl": {"ensemble/kinds/estimator.py"},
    "torch_tensorrt": {"lanes/backends/tensorrt.py"},
    "starlette": {"serving/app.py"},
    "uvicorn": {"serving/bounded_protocol.py", "serving/http_server.py"},
    "prometheus_client": {"serving/metrics.py"},
    "ray": {"cluster/ray_reach.py"},
    "opentelemetry": {"serving/traces.py"},
}
HEAVY = sorted({*ONLY_IN, "torch"})
# Also without torch: planning works from stored profiles on any machine.
LIGHT = [
    "esen_lab",
    "esen_lab.planner.editor",
    "esen_lab.planner",
    "esen_lab.planner.plan",
    "esen_lab.cost_model",
    "esen_lab.profiler.records",
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


def test_test_files_have_names_of_their_own() -> None:
    # Folders of tests are no packages: of two files of one name, pytest imports one.
    names = [path.name for path in Path(__file__).parents[1].rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


# Whoever begins a thread by itself there does without it where the system gives none, or is a process of its own.
BEGIN_BY_THEMSELVES = {"common/resources.py", "lanes/fork_server.py", "devices/cpu/interference.py"}
BEGIN_BY_THEMSELVES |= {"devices/cuda/mps_trial.py", "serving/dispatcher.py"}


def test_threads_are_begun_where_an_error_says_that_there_are_no_more() -> None:
    """By `esen_lab.common.resources`: `begin`, or `aside`."""
    found = {}
    for source in SOURCES:
        tree = ast.parse(source.read_text(encoding="utf-8"))
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        begun = [ast.unparse(call.value) for call in calls if isinstance(call, ast.Attribute) and call.attr == "start"]
        threads = [text for text in begun if text.endswith(("thread", "timer")) or re.search(r"(Thread|Timer)\(", text)]
        if threads:
            found[str(source.relative_to(PACKAGE))] = threads
    assert set(found) <= BEGIN_BY_THEMSELVES, found
