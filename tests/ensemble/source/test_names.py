from __future__ import annotations

import ast

import pytest

from esen_lab.ensemble.source.names import bound_by, chains_in, free_in_cell, uses_of


@pytest.mark.parametrize(
    ("text", "hard", "soft"),
    [
        ("def f(a=DEFAULT) -> Note:\n    return a + later", {"DEFAULT", "Note"}, {"later"}),
        ("@deco\nclass A(Base):\n    x = now\n    def f(self): return later", {"deco", "Base", "now"}, {"later"}),
        ("class A:\n    rows = [g(i) for i in items]", {"g", "items"}, set()),
        ("f = lambda x: later(x)", set(), {"later"}),
        ("def f():\n    def g():\n        return deep\n    return g", set(), {"deep"}),
        ("def f():\n    return f", set(), set()),
    ],
)  # fmt: skip
def test_names_are_needed_at_once_or_later(text: str, hard: set[str], soft: set[str]) -> None:
    found = uses_of(text)
    assert (found.hard - {"i"}, found.soft) == (hard, soft)


def test_a_class_body_may_read_the_global_that_it_hides() -> None:
    assert uses_of("class A:\n    width = width").optional == {"width"}


def test_what_a_text_binds() -> None:
    text = "import a.b, c as d\nfrom e import f\ng = 1\ndef h(): i = 2\nclass J: k = 3\nfor m in (): pass\n(n := 4)"
    assert bound_by(ast.parse(text)) == {"a", "d", "f", "g", "h", "J", "m", "n"}


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("a = b\nb = 2", ["b"]),
        ("a = 1\na", []),
        ("a += 1", ["a"]),
        ("a = a + 1", ["a"]),
        ("print(len(__name__))", []),
        ("[i * n for i in range(3)]", ["n"]),
        ("import torch\ntorch.relu", []),
        ("def f(): return late\nlate = 1", []),
        ("with m() as x:\n    y = x", ["m"]),
    ],
)
def test_a_cells_free_names(text: str, free: list[str]) -> None:
    assert free_in_cell(text, "the cell") == free


def test_dotted_reads() -> None:
    assert chains_in(ast.parse("a.b.c(d.e)\nf().g")) == {("a", "b", "c"), ("a", "b"), ("d", "e")}
