"""What is read is an ordinary file of a known size, and JSON of a known depth."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from esen_lab.errors import StoreError, UsageError
from esen_lab.files import decode_json, read_bytes


def test_a_file_is_read_whole_and_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("f")
    assert read_bytes(tmp_path / "link", most=3) == b"abc"


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "f", "wb") as file:
        file.truncate(10**12)  # a hole: nothing is written
    with pytest.raises(StoreError, match="at most 1,000 bytes"):
        read_bytes(tmp_path / "f", most=1000)


@pytest.mark.skipif(sys.platform == "win32", reason="special files of POSIX")
@pytest.mark.parametrize("what", ["folder", "pipe", "loop", "zeros", "missing"])
def test_what_is_no_ordinary_file_is_refused_at_once(tmp_path: Path, what: str) -> None:
    path = tmp_path / "f"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "loop":
        path.symlink_to("f")
    elif what == "zeros":
        path.symlink_to("/dev/zero")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with pytest.raises(StoreError, match="may be read"):
        read_bytes(path, most=1000)
    assert not before or len(os.listdir("/proc/self/fd")) == before, "nothing stays open"


@pytest.mark.parametrize("name", ["a\0b", "", 3, None, b"f"])
def test_what_names_no_file_is_refused(name: object) -> None:
    with pytest.raises(UsageError, match="file"):
        read_bytes(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [{"a": [1, 2.5, 'é\n"]}[', None, True]}, [], [[[]], {}], "[" * 1000])
def test_json_comes_back_as_it_was(value: object) -> None:
    assert decode_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[1,]", b"NaN", b"-Infinity", b"1e999", b"1" * 5000, b'"\\ud800"', b'"\xff"', b"\xef\xbb\xbf{}",
        b"[" * 10_000_000, b'{"a":' * 1_000_000, b"[" * 33 + b"]" * 33, b"]" * 100, b'"\\"' * 500_000, b'["', b'"\\',
    ],
    ids=lambda text: str(text[:12]),
)  # fmt: skip
def test_what_is_no_json_is_refused_quickly(text: bytes) -> None:
    before, began = sys.getrecursionlimit(), time.thread_time()
    sys.setrecursionlimit(1_000_000)  # as some notebooks do: then only we stand between the file and the stack's end
    try:
        with pytest.raises(StoreError, match="Data is JSON"):
            decode_json(text)
    finally:
        sys.setrecursionlimit(before)
    assert time.thread_time() - began < 1


def test_the_last_of_members_with_one_name_counts() -> None:
    assert decode_json(b'{"a": 1, "a": 2}') == {"a": 2}


def test_brackets_in_strings_are_only_text() -> None:
    assert decode_json(b'["' + b"[{" * 1000 + b'", "\\"[[", 1]') == ["[{" * 1000, '"[[', 1]
