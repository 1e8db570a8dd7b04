"""What pages and messages tell users to type is there: verbs and options of `%esen`, names and arguments of `lab`."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pytest

from esen_lab.errors import UsageError
from esen_lab.ui.magics.arguments import parser, split
from esen_lab.ui.magics.verbs import CELL_VERBS, VERBS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "howto").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOURCES = sorted((ROOT / "esen_lab").rglob("*.py"))
_BLOCK = re.compile(r"^```\w*\n(.*?)^```|((?:^    .+\n)+)", re.MULTILINE | re.DOTALL)
_MAGIC = re.compile(r"(?:[\w, ]+ = )?(%%?)esen( [^`\n]*|$)")
_WORDS_BEHIND = re.compile(r"\s{3,}\S.*")  # a page's own remark on a line


def pieces(page: Path) -> Iterator[str]:
    """What stands as code in a page: the lines of its blocks, and what is between backticks."""
    if page.suffix == ".ipynb":
        for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
            text = "".join(cell["source"])
            yield from text.splitlines() if cell["cell_type"] == "code" else re.findall(r"`([^`\n]+)`", text)
        return
    text = page.read_text(encoding="utf-8")
    yield from (line.strip() for block in _BLOCK.findall(text) for part in block for line in part.splitlines())
    yield from re.findall(r"`([^`\n]+)`", _BLOCK.sub("", text))


def texts(source: Path) -> Iterator[str]:
    """The texts of a module, "X" where something is filled in."""
    todo: list[ast.AST] = [ast.parse(source.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
            todo += [part for part in node.values if not isinstance(part, ast.Constant)]
        else:
            todo += ast.iter_child_nodes(node)


def steps(source: Path) -> Iterator[str]:
    """The next steps that a module words with `step`: the Python, then the magic."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "step":
            for given in node.args:
                if isinstance(given, ast.Constant):
                    yield str(given.value)
                elif isinstance(given, ast.JoinedStr):
                    yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in given.values)


def told() -> Iterator[tuple[str, str]]:
    """(file, piece of code) of all that somebody may read and type."""
    for page in (*PAGES, *NOTEBOOKS):
        yield from ((page.name, piece) for piece in pieces(page))
    for source in SOURCES:
        for text in texts(source):
            yield from ((source.name, piece) for piece in re.findall(r"`([^`\n]+)`", text))
        yield from ((source.name, line) for told in steps(source) for line in told.split(", then "))


def wrong_with(line: str) -> str:
    """What is wrong with a line of `%esen`; "" where nothing is."""
    found = _MAGIC.fullmatch(line.strip())
    if found is None:
        return ""
    table = CELL_VERBS if found[1] == "%%" else VERBS
    name, *words = split(_WORDS_BEHIND.sub("", found[2].rstrip(";"))) or [next(iter(table))]
    name = name.removesuffix("?")
    if name in ("VERB", "X"):
        return ""
    if name not in table:
        return f"has no verb {name}"
    arguments = table[name].arguments
    if words and words[-1] in {one.name for one in arguments if one.is_option and one.read is not None}:
        words.append("X")  # an option that is named
    if not words or words in (["-h"], ["--help"]):
        return ""  # a verb that is named
    try:
        parser(name, "", arguments).parse_intermixed_args([w for w in words if w != "..."])
    except UsageError as problem:
        return str(problem)
    return ""


LINES = sorted({(file, piece) for file, piece in told() if _MAGIC.fullmatch(piece.strip())})


def test_there_are_many_such_lines() -> None:
    assert len(LINES) > 100


def test_every_line_that_is_told_can_be_typed() -> None:
    assert [f"{file}: {line}: {wrong}" for file, line in LINES if (wrong := wrong_with(line))] == []


@pytest.mark.parametrize(
    "line", ["%esen profil", "%esen profile --fast", "y = %esen run x --dead 3", "%esen combine mean max", "%%esen run"]
)
def test_a_line_that_cannot_be_typed_is_found(line: str) -> None:
    assert wrong_with(line)


class Faces:
    """`lab` and its parts, by their classes."""

    @cached_property
    def parts(self) -> dict[str, type]:
        """Name -> class: "lab", "lab.points" and so on."""
        from esen_lab.lab.cluster import LabCluster
        from esen_lab.lab.history import LabHistory
        from esen_lab.lab.lab import Lab
        from esen_lab.lab.lanes import Lanes
        from esen_lab.lab.points import Points
        from esen_lab.lab.study import Studies

        parts = {"points": Points, "lanes": Lanes, "studies": Studies, "cluster": LabCluster, "history": LabHistory}
        return {"lab": Lab, **{f"lab.{name}": part for name, part in parts.items()}}

    def wrong_with(self, code: str) -> list[str]:
        """What of `lab` a piece of Python names that is not there."""
        try:
            tree = ast.parse(code)
        except SyntaxError:
            return []
        found = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (face := self.parts.get(ast.unparse(node.value))) is not None:
                no_name = node.attr == "py" or node.attr.endswith("X")  # the file lab.py; something is filled in
                if not hasattr(face, node.attr) and ast.unparse(node) not in self.parts and not no_name:
                    found.append(ast.unparse(node))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                face = self.parts.get(ast.unparse(node.func.value))
                method = getattr(face, node.func.attr, None)
                if face is None or not callable(method):
                    continue
                takes = inspect.signature(method).parameters
                if any(one.kind is one.VAR_KEYWORD for one in takes.values()):
                    continue
                found += [f"{ast.unparse(node.func)}({key.arg}=)" for key in node.keywords if key.arg not in takes]
        return found


@pytest.fixture(scope="module")
def faces() -> Faces:
    return Faces()


def python_told() -> Iterator[tuple[str, str]]:
    """(file, Python) of pages and messages: whole blocks, cells without their magics, and pieces in a text."""
    for page in PAGES:
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            yield page.name, block
    for notebook in NOTEBOOKS:
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                yield notebook.name, re.sub(r"^(\w+ = )?%.*$", "", "".join(cell["source"]), flags=re.MULTILINE)
    yield from ((file, piece) for file, piece in told() if "lab." in piece)


def test_every_name_of_the_lab_that_is_told_is_there(faces: Faces) -> None:
    wrong = sorted({f"{file}: {one}" for file, code in python_told() for one in faces.wrong_with(code)})
    assert wrong == []


@pytest.mark.parametrize("code", ["lab.fit()", "lab.points.fitt()", "lab.run(x, timeout=3)", "y = lab.studies.best"])
def test_a_name_that_is_not_there_is_found(faces: Faces, code: str) -> None:
    assert faces.wrong_with(code)
