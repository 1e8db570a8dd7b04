from __future__ import annotations

from typing import Any

from esen_lab.ensemble.source.definitions import find_class, find_function, find_statement, source_texts


def test_a_class_is_found_by_its_methods_with_decorators(notebook: Any) -> None:
    notebook.run("def deco(c): return c\n\n@deco\nclass A:\n    @property\n    def f(self):\n        return 1\nx = 2")
    found = find_class(notebook.names["A"])
    assert found is not None
    assert found.segment == "@deco\nclass A:\n    @property\n    def f(self):\n        return 1"
    assert found.home is notebook.names


def test_inherited_methods_do_not_lead_to_the_wrong_class(notebook: Any) -> None:
    notebook.run("class A:\n    def f(self): return 1")
    notebook.run("class B(A):\n    width = 3")
    assert find_class(notebook.names["B"]) is None
    found = find_statement("B", notebook.names, notebook.names["B"])
    assert found is not None
    assert "width = 3" in found.segment


def test_of_two_functions_of_one_name_the_right_one_is_found(notebook: Any) -> None:
    notebook.run("def f(): return 1\ng = f\ndef f(): return 2")
    for name, value in (("g", "1"), ("f", "2")):
        found = find_function(notebook.names[name])
        assert found is not None
        assert found.segment == f"def f(): return {value}"


def test_a_statement_beside_it_on_the_line_is_left_out(notebook: Any) -> None:
    notebook.run("def f(): return 1\nclass A: é = 'é'; x = 1\nb = 2; c = 3")
    found = find_statement("b", notebook.names, 2)
    assert found is not None
    assert found.segment == "b = 2"


def test_text_of_installed_classes_is_found_too() -> None:
    from models import Sleeper

    found = find_class(Sleeper)
    assert found is not None
    assert found.segment.startswith("class Sleeper(nn.Module)")
    assert find_class(int) is None


def test_cell_texts_are_collected_for_tracebacks(notebook: Any) -> None:
    notebook.run("class A:\n    def f(self): pass")
    assert list(source_texts([notebook.names["A"]]).values()) == ["class A:\n    def f(self): pass"]
