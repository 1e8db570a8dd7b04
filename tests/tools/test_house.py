"""What the counts of tools/house.py are of, on small packages of this test; and that journeys can be gone."""

from __future__ import annotations

import ast
import importlib.util
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, made)  # dataclasses look their module up
        spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def house() -> ModuleType:
    return loaded("house")


@pytest.fixture
def package(tmp_path: Path) -> Callable[..., Path]:
    """Writes files of a package `pkg`, with an `__init__` in every folder; returns its folder."""

    def write(**files: str) -> Path:
        root = tmp_path / "pkg"
        for name, text in {"__init__": "", **files}.items():
            path = root / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        for folder in {path.parent for path in root.rglob("*.py")}:
            (folder / "__init__.py").touch()
        return root

    return write


def test_files_are_read_with_their_dotted_names_and_rooms(house: ModuleType, package: Callable[..., Path]) -> None:
    modules = house.read(package(a__in__x="1\n2\n", top=""))
    assert [(m.name, m.room, m.lines) for m in modules] == [
        ("pkg", "", 0), ("pkg.a", "a", 0), ("pkg.a.x", "a", 2), ("pkg.top", "top", 0),
    ]  # fmt: skip


def test_lazy_imports_and_those_for_types_are_edges(house: ModuleType, package: Callable[..., Path]) -> None:
    root = package(
        a__in__x="""
            from typing import TYPE_CHECKING
            import os
            if TYPE_CHECKING:
                from pkg.b.y import Y
            def late():
                from . import z
        """,
        a__in__z="",
        b__in__y="from pkg.a import x\nclass Y: ...",
    )
    edges = house.imports(house.read(root))
    assert edges["pkg.a.x"] == {"pkg.b", "pkg.b.y", "pkg.a.z"}
    assert edges["pkg.b.y"] == {"pkg.a", "pkg.a.x"}
    assert house.cycles(edges) == [["pkg.a.x", "pkg.b.y"]]
    assert house.rooms_of(edges) == {"a": {"b"}, "b": {"a"}}
    assert house.cycles(house.rooms_of(edges)) == [["a", "b"]]


@pytest.mark.parametrize(
    ("edges", "groups"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}, [["a", "b", "c"]]),
        ({"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"e"}, "e": {"c"}}, [["c", "d", "e"], ["a", "b"]]),
        ({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": {"b"}}, [["b", "d"]]),
    ],
)
def test_cycles_are_groups_in_which_each_reaches_each(
    house: ModuleType, edges: dict[str, set[str]], groups: list[list[str]]
) -> None:
    assert house.cycles(edges) == groups


def test_the_layers_are_read_from_the_test_without_running_it(house: ModuleType, tmp_path: Path) -> None:
    rule = tmp_path / "test_architecture.py"
    rule.write_text(
        "import nothing_of_this_name\nPLACE = nothing.of(5)\nLEAVES = {'common'}\n"
        "MAY_IMPORT: dict[str, set[str]] = {'common': set(), 'run': LEAVES | {'lanes'}}\n"
    )
    assert house.layers(rule) == {"common": set(), "run": {"common", "lanes"}}
    assert house.layers(tmp_path / "none.py") is None


def test_an_edge_that_the_layers_do_not_allow_is_named(house: ModuleType) -> None:
    edges = {"pkg.run.a": {"pkg.run.b", "pkg.common.c", "pkg.lab.d"}, "pkg.common.c": {"pkg.run"}}
    may_import = {"run": {"common"}, "common": set(), "lab": {"run"}}
    assert house.against(edges, may_import) == ["common.c -> run", "run.a -> lab.d"]


def test_the_package_s_own_rule_is_read(house: ModuleType) -> None:
    rule = house.layers(TOOLS.parent / "tests" / "project" / "test_architecture.py")
    assert rule["files"] == {"errors", "terminal", "common"}


def test_a_name_with_two_places_is_found(house: ModuleType) -> None:
    assert house.twice([("Problem", "a.py"), ("Plan", "a.py"), ("Problem", "b.py")]) == {"Problem": ["a.py", "b.py"]}


BLOCK = """
def {name}(values):
    total = 0
    for value in values:
        if value > {least}:
            total += value * 2
        print("{text}", total)
    return total
"""


def test_a_block_of_the_same_shape_is_a_duplicate_whatever_its_names(house: ModuleType) -> None:
    one = BLOCK.format(name="f", least=1, text="a")
    two = "import os\n" + BLOCK.format(name="g", least=22, text="b  c").replace("total", "summed")
    (found,) = house.duplicates({"one.py": one, "two.py": two})
    assert (found.first, found.second, found.lines) == ("one.py:2", "two.py:3", 7)


def test_a_shorter_block_imports_docstrings_and_comments_are_none(house: ModuleType) -> None:
    body = BLOCK.format(name="f", least=1, text="a")
    shorter = body.replace("    for value in values:\n", "    while next(values):\n")
    told = '"""' + "\n".join("abcdefgh") + '"""\n' + "\n".join(f"import m{n}" for n in range(8)) + "\n# x" * 8
    assert house.duplicates({"one.py": body, "two.py": shorter}) == []
    assert house.duplicates({"one.py": told, "two.py": told}) == []


def test_a_list_of_like_lines_is_no_duplicate_of_itself(house: ModuleType) -> None:
    assert house.duplicates({"one.py": "\n".join(f"a{n} = {n}" for n in range(40))}) == []


def test_a_block_in_three_places_is_two_duplicates(house: ModuleType) -> None:
    files = {f"{name}.py": BLOCK.format(name=name, least=1, text=name) for name in "abc"}
    assert [(each.first, each.second) for each in house.duplicates(files)] == [
        ("a.py:2", "b.py:2"),
        ("b.py:2", "c.py:2"),
    ]


def test_docstrings_count_where_the_name_is_public(house: ModuleType, package: Callable[..., Path]) -> None:
    text = '''
        """Told."""
        class Lab:
            """Told."""
            def run(self): ...
            def _hidden(self): ...
        class _Hidden:
            def run(self): ...
        def told():
            """Told."""
    '''
    module = house.read(package(a=text))[1]
    assert house.docstrings(module) == (3, 4)


def test_public_methods_count_a_property_once(house: ModuleType) -> None:
    text = "@property\ndef p(self): ...\n@p.setter\ndef p(self, to): ...\ndef m(self): ...\ndef _n(self): ...\n"
    (owner,) = ast.parse("class A:\n" + textwrap.indent(text, " ")).body
    assert [method.name for method in house.public_methods(owner)] == ["p", "m"]


def test_median_90th_percentile_and_largest(house: ModuleType) -> None:
    assert house.spread([*range(1, 11)]) == [5.5, 9, 10]
    assert house.spread([3]) == [3, 3, 3]
    assert house.spread([]) == []


def test_everything_is_measured_and_stands_in_a_table(
    house: ModuleType, package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "PACKAGE", "pkg")
    package(a__in__x="def f():\n    return 1\n", b__in__x="from pkg.a.x import f\nclass C:\n    def m(self): ...\n")
    found = house.measures(tmp_path)
    assert found["against_layers"] is None
    assert (found["files"], found["lines"], found["rooms"], found["room_edges"]) == (5, 5, 2, 1)
    assert found["file_names_twice"] == {"x.py": ["a/x.py", "b/x.py"]}
    assert found["function_lines"] == [1.5, 2, 2]
    told = house.table({"before": found, "after": {**found, "journeys": {"%esen run x": [3, 7]}}})
    assert "| files / lines | 5 / 5 | 5 / 5 |" in told
    assert "| %esen run x: files / moves | - | 3 / 7 |" in told


def test_a_move_is_a_call_in_another_file_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        "def f(g):\n    g()\n    h()\n    return sorted([2, 1], key=k)\ndef h(): ...\ndef k(x): return x\n"
    )
    (tmp_path / "two.py").write_text("def g(): ...")
    names: dict[str, dict[str, Callable[..., object]]] = {"one": {}, "two": {}}
    for name, namespace in names.items():
        path = tmp_path / f"{name}.py"
        exec(compile(path.read_text(), str(path), "exec"), namespace)
    trace = loaded("house_journeys").Trace(str(tmp_path))
    with trace.on():
        names["one"]["f"](names["two"]["g"])
    names["two"]["g"]()
    assert ({Path(file).name for file in trace.files}, trace.moves) == ({"one.py", "two.py"}, 2)


def test_no_class_of_the_package_has_more_than_20_public_methods(house: ModuleType) -> None:
    modules = house.read(TOOLS.parent / "esen_lab")
    counts = {
        f"{module.path}: {owner.name}": len(house.public_methods(owner))
        for module in modules
        for owner in house.classes(module)
    }
    assert len(counts) > 300
    assert {name: count for name, count in counts.items() if count > 20} == {}


@pytest.mark.slow  # registers, profiles and runs two networks in a process of its own
def test_every_journey_is_counted(house: ModuleType) -> None:
    found = house.journeys(TOOLS.parent)
    assert set(found) == {
        "%esen run x",
        "%esen search",
        "one look of the panel",
        "a slider",
        "Apply with one panel",
    }
    assert all(files > 1 and moves >= files - 1 for files, moves in found.values())
