"""A next step is worded for where it is read, and can be done there."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from esen_lab.common.surroundings import magics_here, model_cell, step
from esen_lab.lab import Lab
from esen_lab.lab.cluster import LabCluster
from esen_lab.lab.history import LabHistory
from esen_lab.lab.lanes import Lanes
from esen_lab.lab.points import Points
from esen_lab.lab.readings import Readings
from esen_lab.lab.study import Studies
from esen_lab.planner import SearchJob
from esen_lab.planner.editor import PlanEditor
from esen_lab.profiler.job import ProfileJob
from esen_lab.ui.magics.verbs import CELL_VERBS, VERBS

PACKAGE = Path(__file__).parents[2] / "esen_lab"
PARTS = {
    "studies": Studies,
    "readings": Readings,
    "lanes": Lanes,
    "points": Points,
    "history": LabHistory,
    "cluster": LabCluster,
    "job": ProfileJob,
    "search_job": SearchJob,
}


def shell(*magics: str) -> SimpleNamespace:
    return SimpleNamespace(magics_manager=SimpleNamespace(magics={"line": dict.fromkeys(magics)}))


@pytest.mark.parametrize(
    ("ipython", "there"),
    [
        (None, False),  # a script
        (SimpleNamespace(), False),
        (SimpleNamespace(get_ipython=lambda: None), False),  # marimo imports IPython and has no shell
        (SimpleNamespace(get_ipython=lambda: shell("timeit")), False),  # without the extension
        (SimpleNamespace(get_ipython=lambda: shell("timeit", "esen")), True),
    ],
)
def test_a_step_is_a_magic_where_the_magics_are_and_python_elsewhere(
    monkeypatch: pytest.MonkeyPatch, ipython: object, there: bool
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert magics_here() is there
    assert step("lab.search()", "%esen search") == ("%esen search" if there else "lab.search()")
    assert ("%%esen model wide" in model_cell("wide")) is there


def sources(saying: str) -> Iterator[tuple[Path, ast.Module]]:
    """The files that have some text in them; to parse all of the package takes seconds."""
    for source in sorted(PACKAGE.rglob("*.py")):
        text = source.read_text(encoding="utf-8")
        if re.search(saying, text):
            yield source, ast.parse(text)


def texts() -> Iterator[tuple[str, str]]:
    """Every text of the package that is not a docstring, with its place; what is filled in is X."""
    for source, tree in sources(r"%esen |lab\."):
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in docs:
                continue
            where = f"{source.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                yield where, "".join(str(p.value) if isinstance(p, ast.Constant) else "X" for p in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield where, node.value


TEXTS = [(where, text) for where, text in texts() if "%esen " in text or "lab." in text]


def test_below_the_notebook_a_magic_is_named_as_one_of_two_wordings() -> None:
    found = []
    for source, tree in sources("%esen "):
        if source.is_relative_to(PACKAGE / "ui" / "magics") or source.is_relative_to(PACKAGE / "ui" / "panel"):
            continue
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        worded = {
            id(part)
            for node in ast.walk(tree)
            if (isinstance(node, ast.Call) and ast.unparse(node.func) in ("step", "worded"))
            or (isinstance(node, ast.Tuple) and len(node.elts) in (2, 3))  # such pairs are kept in tables
            for part in ast.walk(node)
        }
        found += [
            f"{source.name}:{node.lineno}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "%esen " in node.value
            if id(node) not in docs and id(node) not in worded and source.name != "surroundings.py"
        ]
    assert found == []


OF_PYTHON = re.compile(
    r"lab\.(cluster\.replan_without|history\.on|studies\.members\(x, y\)\.choices|measurements)"  # no verb does these
    r"|Make one in Python with"  # on the command line, where there are neither
)


def test_below_the_notebook_a_step_of_a_lab_is_named_as_one_of_two_wordings() -> None:
    found = []
    for source, tree in sources(r"\blab\.[a-z]"):
        if source.is_relative_to(PACKAGE / "ui") or source.is_relative_to(PACKAGE / "export"):
            continue
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        worded = {
            id(part)
            for node in ast.walk(tree)
            if (isinstance(node, ast.Call) and ast.unparse(node.func) == "step")
            or (isinstance(node, ast.Tuple) and len(node.elts) in (2, 3))
            for part in ast.walk(node)
        }
        found += [
            f"{source.name}:{node.lineno}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            if re.search(r"(?<![\w.])lab\.[a-z_.]+", node.value) and not OF_PYTHON.search(node.value)
            if id(node) not in docs and id(node) not in worded
        ]
    assert found == []


def test_every_magic_that_is_named_has_that_verb_and_these_options() -> None:
    wrong = []
    for where, text in TEXTS:
        for magic, line in re.findall(r"(%%?esen) ([a-z][^`.;:,)\n]*)", text):
            verb, *words = line.replace("'", "").split()
            known = (CELL_VERBS if magic == "%%esen" else VERBS).get(verb.strip("!?"))
            if known is None and verb in ("has", "shares", "defines"):  # sentences about the magic itself
                continue
            takes = {argument.name for argument in known.arguments} | {"-h"} if known else set()
            wrong += [f"{where}: {magic} {line}" for word in words if word.startswith("--") and word not in takes]
            wrong += [] if known else [f"{where}: no verb: {magic} {line}"]
    assert len([1 for _, text in TEXTS if "%esen " in text]) > 80
    assert wrong == []


def test_everything_that_is_named_of_a_lab_is_there() -> None:
    wrong = []
    for where, text in TEXTS:
        for path in re.findall(r"(?<![\w.])lab\.([a-z_]+(?:\.[a-z_]+|\(\)\.[a-z_]+)*)", text):
            first, _, rest = path.replace("()", "").partition(".")
            home = PlanEditor if path.startswith("tune()") else PARTS.get(first)
            there = (hasattr(Lab, first) or home) and (not rest or home is None or hasattr(home, rest.split(".")[0]))
            wrong += [] if there or "esen_lab." in text else [f"{where}: lab.{path}"]
    assert wrong == []


@pytest.mark.parametrize("name", [*VERBS])
def test_every_example_in_the_help_can_be_typed(name: str) -> None:
    line = VERBS[name].example.partition("%esen ")[2]
    takes = {argument.name for argument in VERBS[name].arguments}
    assert [word for word in shlex.split(line) if word.startswith("--") and word not in takes] == []
    assert re.search(r"\b(\w+)[ ,]\1\b", line) is None, "an input is not its own labels"
