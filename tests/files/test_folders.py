from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from esen_lab.errors import StoreError
from esen_lab.files import folders as swap
from esen_lab.files import write_folder as replace_folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    paths = replace_folder(tmp_path / "f", {"b": b"2", "a": b"1"})
    assert content(tmp_path / "f") == {"a": b"1", "b": b"2"}
    assert paths == (tmp_path / "f" / "a", tmp_path / "f" / "b")
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("can_exchange", [True, False])
def test_an_old_folder_is_replaced_and_leaves_nothing(
    tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(swap, "_exchange", lambda one, other: False)
    replace_folder(tmp_path / "f", {"old": b"1", "both": b"1"})
    replace_folder(tmp_path / "f", {"new": b"2", "both": b"2"})
    assert content(tmp_path / "f") == {"new": b"2", "both": b"2"}
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_folder(tmp_path / "f", {"old": b"1"})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"there is room. Given: .*f': No space left"):
        replace_folder(tmp_path / "f", {"new": b"2"})
    assert content(tmp_path / "f") == {"old": b"1"}
    assert os.listdir(tmp_path) == ["f"]


def test_a_failed_move_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_folder(tmp_path / "f", {"old": b"1"})
    monkeypatch.setattr(swap, "_exchange", lambda one, other: False)
    rename = os.rename

    def picky(source: Any, target: Any) -> None:
        if str(source).endswith(".tmp"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", picky)
    with pytest.raises(StoreError):
        replace_folder(tmp_path / "f", {"new": b"2"})
    assert content(tmp_path / "f") == {"old": b"1"}
    assert os.listdir(tmp_path) == ["f"]


def test_a_missing_parent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        replace_folder(tmp_path / "gone" / "f", {"a": b""})


def test_a_folder_keeps_its_permissions_and_a_protected_one_its_content(tmp_path: Path) -> None:
    replace_folder(tmp_path / "f", {"old": b"1"})
    (tmp_path / "f").chmod(0o700)
    replace_folder(tmp_path / "f", {"new": b"2"})
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o700
    (tmp_path / "f").chmod(0o555)
    with pytest.raises(StoreError, match="protected is not replaced"):
        replace_folder(tmp_path / "f", {"newer": b"3"})
    (tmp_path / "f").chmod(0o700)
    assert content(tmp_path / "f") == {"new": b"2"}
    assert os.listdir(tmp_path) == ["f"]
