from __future__ import annotations

import io
import shlex
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from esen_lab.common.units import format_table
from esen_lab.errors import EsenError, WorkerError
from esen_lab.terminal import tell, visible, visible_line

STEERING = [
    *map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)),  # escape, bell, carriage return, C1's one-byte CSI and OSC
    *"\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c\ufeff\u00ad\ufffe",
    "\ud800", "\U000e0041", "\U000f0000", "\U0010ffff",
]  # fmt: skip


@pytest.mark.parametrize("character", STEERING, ids=ascii)
def test_what_has_no_shape_is_written_as_its_escape(character: str) -> None:
    assert visible_line(f"a{character}b") == f"a{repr(character)[1:-1]}b"
    assert visible(f"a{character}b") == (f"a{character}b" if character in "\n\t" else visible_line(f"a{character}b"))


def test_what_can_be_read_stays() -> None:
    for text in ("", "resnet-18.v2", "→ × µs ± é 日本語 עברית 🙂", "e\u0301", "no\u00a0break", "\\x1b"):
        assert visible(text) == visible_line(text) == text


def test_every_character_comes_out_printable_and_twice_is_once() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = visible_line(everything)
    assert all(c.isprintable() or unicodedata.category(c) == "Zs" for c in shown)
    assert visible_line(shown) == shown


def test_what_is_told_can_be_written_whatever_the_streams_encoding() -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii")
    tell("µs \x1b[31m", stream)
    stream.flush()
    assert written.getvalue() == b"\\xb5s \\x1b[31m\n"


def test_no_error_steers_a_terminal() -> None:
    evil = "\x1b]8;;http://evil\x07\r\u202e"
    for said in (
        str(EsenError(evil, given=evil, hint=evil)),
        str(EsenError("rule", given={"a": evil})),
        WorkerError("rule", worker_traceback=evil, log=evil).details(),
    ):
        assert said == visible(said)
        assert "\\x1b]8;;" in said


def test_a_cell_of_a_table_stays_in_its_row() -> None:
    table = format_table(("name", "a\rb"), [("x\ny", "\x1b[2K")])
    assert table.splitlines() == ["name     a\\rb", "x\\ny  \\x1b[2K"]


def test_whoever_reads_what_is_told_may_leave() -> None:
    program = "from esen_lab.terminal import tell\nfor number in range(10_000): tell(f'line {number}')"
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'{shlex.quote(sys.executable)} -c "$0" | head -1', program],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "line 0\n", "")
