"""The user's folder, where a variable of the environment names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from esen_lab.export.trust import trusted_folder
from esen_lab.files.user_folder import user_folder


@pytest.mark.parametrize("asked", [user_folder, lambda home: trusted_folder(home).parent])
def test_a_relative_folder_stays_the_same_one_wherever_the_process_goes_later(
    asked: Callable[[Mapping[str, str]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = {"ESEN_LAB_HOME": f"kept for {tmp_path.name}"}
    monkeypatch.chdir(tmp_path)
    before = asked(home)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert asked(home) == before == tmp_path / home["ESEN_LAB_HOME"]
