"""Which tests `make test` and `make test-all` run, and how the runs' statuses add up; pytest itself is not started."""

from __future__ import annotations

import importlib.util
import os
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
        self.beside: list[list[str]] = []  # those that run beside the first one
        self.fails = ""  # the run whose arguments hold this fails
        self.status = 1  # and so
        self.failing: list[str] = []  # phase and id of what fails in it
        self.fails_again = False

    def run(self, command: list[str], env: Mapping[str, str] | None = None, **_: Any) -> SimpleNamespace:
        self.commands.append(command[3:])
        return SimpleNamespace(returncode=self._status(command, env or {}))

    def Popen(self, command: list[str], env: Mapping[str, str], **_: Any) -> SimpleNamespace:  # noqa: N802  its name
        self.beside.append(command[3:])
        return SimpleNamespace(wait=lambda: self._status(command, env))

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
    return made


def marks(command: list[str]) -> str:
    return command[command.index("-m") + 1]


def ignored(command: list[str]) -> set[str]:
    return {word.removeprefix("--ignore=tests/") for word in command if word.startswith("--ignore=")}


def test_without_arguments_nothing_slow_is_run(tool: ModuleType, runs: Runs) -> None:
    assert tool.main([]) == 0
    assert [marks(command) for command in runs.commands] == ["not timing and not slow", "timing and not slow"]
    assert [marks(command) for command in runs.beside] == ["not timing and not slow"] * 2


def test_all_is_all(tool: ModuleType, runs: Runs) -> None:
    assert tool.main(["--all"]) == 0
    assert [marks(command) for command in runs.commands] == ["not timing", "timing"]
    assert [marks(command) for command in runs.beside] == ["not timing"] * 2


def test_every_room_is_in_one_of_the_two_runs(tool: ModuleType, runs: Runs) -> None:
    tool.main([])
    beside, others = ignored(runs.beside[0]), ignored(runs.commands[0])
    rooms = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and list(path.glob("test_*.py"))}
    assert beside & others == set()
    assert beside | others >= rooms
    assert {*tool.WAITING, *tool.COMPUTING, *tool.PROGRAMS} <= rooms


def test_backends_have_a_process_of_their_own(tool: ModuleType, runs: Runs) -> None:
    tool.main([])
    assert tool.BACKENDS in ignored(runs.commands[0])
    assert runs.beside[1][-1] == f"tests/{tool.BACKENDS}"


def test_arguments_are_pytests(tool: ModuleType, runs: Runs) -> None:
    tool.main(["tests/planner", "-x"])
    assert runs.commands == [["tests/planner", "-x"]]


@pytest.mark.parametrize(
    "word", ["--ignore=tests/ui", "--ignore=tests/lab", "tests/lanes/backends", "timing and not slow"]
)
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
    runs.fails, runs.failing = "--ignore=tests/lab", FEW
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
    runs.fails, runs.failing, runs.status = "--ignore=tests/ui", failing, status
    assert tool.main(["--all"]) != 0
    assert len(runs.commands) == 2


def test_tests_that_fail_are_written_down_with_their_phase(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_some.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef bad():\n    yield\n    raise OSError\n\n"
        "@pytest.mark.parametrize('x', ['a b', 'c::d'])\ndef test_fails(x):\n    assert x == 'a b'\n\n"
        "def test_leaves(bad):\n    pass\n"
    )
    written = tmp_path / "failed"
    pytest_alone = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    subprocess.run(
        [*pytest_alone, "-c", str(ROOT / "pyproject.toml"), str(tmp_path)],
        env={**os.environ, "ESEN_LAB_TESTS_FAILED": str(written), "PYTHONPATH": str(ROOT / "tests" / "doubles")},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert written.read_text().splitlines() == [
        "call test_some.py::test_fails[c::d]",
        "teardown test_some.py::test_leaves",
    ]
