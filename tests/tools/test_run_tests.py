"""Which tests `make test` and `make test-all` run, and how the runs' statuses add up; pytest itself is not started."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


class Runs:
    """Writes down what would be run: a test double of `subprocess`."""

    STDOUT = -2

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.shared: list[dict[str, Any]] = []  # how the two that share modules were told to
        self.beside: list[list[str]] = []  # those that run beside the first one
        self.fails = ""  # the run whose arguments hold this fails
        self.status = 1  # and so
        self.failing: list[str] = []  # phase and id of what fails in it
        self.fails_again = False

    def run(self, command: list[str], env: Mapping[str, str] | None = None, **_: Any) -> SimpleNamespace:
        self.commands.append(command[3:])
        self._note(env or {})
        return SimpleNamespace(returncode=self._status(command, env or {}))

    def Popen(self, command: list[str], env: Mapping[str, str], **_: Any) -> SimpleNamespace:  # noqa: N802  its name
        self.beside.append(command[3:])
        self._note(env)
        return SimpleNamespace(wait=lambda: self._status(command, env))

    def _note(self, env: Mapping[str, str]) -> None:
        if told := env.get("ESEN_LAB_TESTS_SHARED"):
            self.shared.append(json.loads(told))

    def _status(self, command: list[str], env: Mapping[str, str]) -> int:
        if any("::" in word for word in command):
            return int(self.fails_again)
        if not self.fails or self.fails not in command:
            return 0
        with open(env["ESEN_LAB_TESTS_FAILED"], "a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self.failing)
        return self.status


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs()


@pytest.fixture
def tool(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_tests", ROOT / "tools" / "run_tests.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    monkeypatch.setattr(made, "subprocess", runs)
    monkeypatch.setattr(made, "COMPILED", ())
    return made


def marks(command: list[str]) -> str:
    return command[command.index("-m") + 1]


def test_without_arguments_nothing_slow_is_run(tool: ModuleType, runs: Runs) -> None:
    assert tool.main([]) == 0
    assert [marks(command) for command in runs.commands] == ["not timing and not slow", "timing and not slow"]
    assert [marks(command) for command in runs.beside] == ["not timing and not slow"] * 2


def test_all_is_all(tool: ModuleType, runs: Runs) -> None:
    assert tool.main(["--all"]) == 0
    assert [marks(command) for command in runs.commands] == ["not timing", "timing"]
    assert [marks(command) for command in runs.beside] == ["not timing"] * 2


def test_two_share_every_room_from_both_ends(tool: ModuleType, runs: Runs) -> None:
    tool.main([])
    first, last = sorted(runs.shared, key=lambda told: told["end"])
    assert (first["end"], last["end"]) == ("first", "last")
    assert (first["rooms"], first["taken"]) == (last["rooms"], last["taken"])
    rooms = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(first["rooms"]) >= rooms
    assert len(set(first["rooms"])) == len(first["rooms"])
    assert first["rooms"][-len(tool.WAITING) :] == list(tool.WAITING)
    assert {*tool.WAITING, *tool.COMPUTING, *tool.PROGRAMS} <= rooms


def test_backends_have_a_process_of_their_own(tool: ModuleType, runs: Runs) -> None:
    tool.main([])
    assert runs.beside[0][-1] == f"tests/{tool.BACKENDS}"
    assert f"--ignore=tests/{tool.BACKENDS}" in runs.commands[0]
    assert f"--ignore=tests/{tool.BACKENDS}" in runs.beside[1]


def test_arguments_are_pytests(tool: ModuleType, runs: Runs) -> None:
    tool.main(["tests/planner", "-x"])
    assert runs.commands == [["tests/planner", "-x"]]


@pytest.mark.parametrize("word", ["--ignore=tests/lanes/backends", "tests/lanes/backends", "timing and not slow"])
def test_one_failing_run_fails(tool: ModuleType, runs: Runs, word: str) -> None:
    runs.fails, runs.failing = word, ["call tests/lab/test_a.py::test_one"]
    assert tool.main([]) == 1


FEW = [
    "call tests/ui/test_b.py::test_two[a b::c]",
    "setup tests/lab/test_a.py::test_one",
    "call tests/lab/test_a.py::t",
]


def test_of_all_a_few_that_fail_are_tried_once_more_each_file_by_itself(
    tool: ModuleType, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.fails, runs.failing = "tests/lanes/backends", FEW
    assert tool.main(["--all"]) == 0
    again = [[word for word in command if "::" in word] for command in runs.commands[2:]]
    assert again == [
        ["tests/lab/test_a.py::t", "tests/lab/test_a.py::test_one"],
        ["tests/ui/test_b.py::test_two[a b::c]"],
    ]
    assert "UNSTEADY" in capsys.readouterr().out


def test_what_fails_again_fails_the_whole(tool: ModuleType, runs: Runs) -> None:
    runs.fails, runs.failing, runs.fails_again = "timing", FEW, True
    assert tool.main(["--all"]) == 1


@pytest.mark.parametrize(
    ("failing", "status"),
    [
        ([], 1),
        ([f"call tests/lab/test_a.py::test_{number}" for number in range(6)], 1),
        (["call tests/lab/test_a.py::test_one", "teardown tests/lab/test_a.py::test_one"], 1),
        (["call tests/lab/test_a.py::test_one"], 2),
        (["call tests/lab/test_a.py::test_one"], -11),
    ],
    ids=["nobody knows what", "too many", "something is left behind", "it was interrupted", "it crashed"],
)
def test_nothing_is_tried_again_where(tool: ModuleType, runs: Runs, failing: list[str], status: int) -> None:
    runs.fails, runs.failing, runs.status = "tests/lanes/backends", failing, status
    assert tool.main(["--all"]) != 0
    assert len(runs.commands) == 2


def test_tests_that_fail_are_written_down_and_modules_taken_once_from_an_end(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    for name in ("test_before.py", "test_taken.py"):
        (tmp_path / name).write_text("def test_one():\n    pass\n")
    (tmp_path / "test_some.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef bad():\n    yield\n    raise OSError\n\n"
        "@pytest.mark.parametrize('x', ['a b', 'c::d'])\ndef test_fails(x):\n    assert x == 'a b'\n\n"
        "def test_leaves(bad):\n    pass\n"
    )
    written, taken = tmp_path / "failed", tmp_path_factory.mktemp("taken")
    (taken / "test_taken.py").touch()  # by the other of two
    rooms = ["test_before.py", "test_some.py", "test_taken.py"]
    shared = json.dumps({"rooms": rooms, "end": "last", "taken": str(taken)})
    pytest_alone = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    environment = {"ESEN_LAB_TESTS_FAILED": str(written), "ESEN_LAB_TESTS_SHARED": shared}
    ran = subprocess.run(
        [*pytest_alone, "-c", str(ROOT / "pyproject.toml"), str(tmp_path)],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT / "tests" / "doubles")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert written.read_text().splitlines() == [
        "call test_some.py::test_fails[c::d]",
        "teardown test_some.py::test_leaves",
    ]
    assert re.findall(r"(test_\w+\.py)::.* (?:PASSED|FAILED)", ran.stdout) == [
        *["test_some.py"] * 3,
        "test_before.py",
    ]
    assert sorted(os.listdir(taken)) == rooms
