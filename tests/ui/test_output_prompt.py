"""Where `Out[3]:` stands in a terminal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

Capture = pytest.CaptureFixture[str]


def told(magics: SimpleNamespace, capsys: Capture, cell: str) -> str:
    capsys.readouterr()
    assert magics.shell.run_cell(cell, store_history=True).success
    return str(capsys.readouterr().out)


def test_what_a_verb_has_shown_leaves_no_empty_prompt_and_is_kept_under_its_number(
    magics: SimpleNamespace, capsys: Capture
) -> None:
    said = told(magics, capsys, "%esen search")
    assert "Plan" in said
    assert "Out[" not in said
    assert type(magics.shell.user_ns["_"]).__name__ == "Plan"


def test_other_values_have_their_prompt_in_front(magics: SimpleNamespace, capsys: Capture) -> None:
    assert "Out[1]: 42" in told(magics, capsys, "41 + 1")
    assert "Out[2]: 5" in told(magics, capsys, "%esen search\n5")
    assert "Out[" not in told(magics, capsys, "43;")


def test_unloading_gives_the_prompt_back(shell: Any, capsys: Capture) -> None:
    from esen_lab import load_ipython_extension, unload_ipython_extension

    before = dict(vars(shell.displayhook))
    load_ipython_extension(shell)
    assert vars(shell.displayhook).keys() - before.keys() == {"write_output_prompt", "write_format_data"}
    unload_ipython_extension(shell)
    assert vars(shell.displayhook) == before
