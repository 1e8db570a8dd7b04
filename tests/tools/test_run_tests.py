"""Which tests `make test` and `make test-all` run, and how the runs' statuses add up; pytest itself is not started."""

from __future__ import annotations

import importlib.util
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

    def run(self, command: list[str], **_: Any) -> SimpleNamespace:
        self.commands.append(command[3:])
        return SimpleNamespace(returncode=self._status(command))

    def Popen(self, command: list[str], **_: Any) -> SimpleNamespace:  # noqa: N802  its name there
        self.beside.append(command[3:])
        return SimpleNamespace(wait=lambda: self._status(command))

    def _status(self, command: list[str]) -> int:
        return int(bool(self.fails) and self.fails in command)


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
    runs.fails = word
    assert tool.main([]) == 1
