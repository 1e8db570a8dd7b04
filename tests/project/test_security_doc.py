"""docs/security.md says what is so: every test that it names is there, and what it says of the whole package holds."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))
SOURCES = sorted((ROOT / "esen_lab").rglob("*.py"))


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda part: part)
def test_a_named_test_is_there(file: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_line_of_its_tables_names_a_test() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.endswith("| test |")]
    assert len(rows) > 20
    assert [row for row in rows if "`tests/" not in row] == []


def test_nothing_of_the_package_listens_but_a_server() -> None:
    serving = {"listen", "create_server", "start_server", "HTTPServer", "create_connection"}
    found = []
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            adopted = any(keyword.arg == "fileno" for keyword in node.keywords)  # one end of the parent's pair
            if called.rpartition(".")[2] in serving or (called == "socket.socket" and not adopted):
                found.append((source.name, called))
    # Who follows a job, a bell or a plan editor, in this very process; the recorder's bell is its own.
    ours = {"editor.listen", "job.listen", "lab.bell.listen", "self._subject.listen", "self._work.listen"}
    server = {("http_server.py", "socket.create_server"), ("server.py", "listen")}  # `lab.serve`, `esen-lab serve`
    asks = {("ray_reach.py", "socket.create_connection")}  # whether a cluster answers at the address that the user gave
    assert {(file, called) for file, called in found if called not in ours} == server | asks


def test_files_are_unpickled_nowhere_and_code_is_executed_where_it_is_said() -> None:
    """What reads pickles reads them from this session's own processes; what runs text is behind trust."""
    known = {
        "devices/cuda/mps_trial.py": {"pickle.loads"},
        "ensemble/source/closure.py": {"exec"},
        "ensemble/source/definitions.py": {"eval"},
        "ensemble/kinds/script.py": {"torch.jit.load"},
        "ensemble/program.py": {"torch.load", "torch.export.load"},
        "ensemble/recipes.py": {"pickle.loads"},  # values that this session sends to its lanes
        "ensemble/snapshot.py": {"torch.load"},
        "export/arrays.py": {"numpy.load"},
        "lanes/stream.py": {"pickle.loads"},
        "lanes/engine.py": {"cloudpickle.loads"},
        "lanes/backends/__init__.py": {"cloudpickle.loads"},
        "lanes/fork_server_main.py": {"pickle.loads"},
        "lanes/orders.py": {"pickle.loads"},
        "ui/magics/magics.py": {"eval"},  # an expression on a line that the user types in a function, with its names
    }
    words = {"eval", "exec", "pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "torch.load"}
    words |= {
        "torch.export.load",
        "torch.jit.load",
        "numpy.load",
        "np.load",
        "marshal.loads",
        "shelve.open",
        "os.system",
    }
    found: dict[str, set[str]] = {}
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in words:
                found.setdefault(str(source.relative_to(ROOT / "esen_lab")), set()).add(called)
    assert found == known


def test_what_reads_pickles_from_processes_is_imported_by_children_alone() -> None:
    importing = [
        str(source.relative_to(ROOT / "esen_lab"))
        for source in SOURCES
        if "esen_lab.lanes.orders" in source.read_text(encoding="utf-8")
    ]
    assert importing == ["lanes/child.py", "lanes/fork_server_main.py"]
    for source in ("child.py", "fork_server_main.py"):
        tree = ast.parse((ROOT / "esen_lab" / "lanes" / source).read_text(encoding="utf-8"))
        callers = {
            function.name
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "order_in"
        }
        assert callers == ({"_act_on"} if source == "child.py" else {"main"})
