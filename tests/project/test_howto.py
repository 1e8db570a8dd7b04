"""The how-to pages do what they say: every block of code is run, page by page, or says why it cannot be run here."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))
_BLOCK = re.compile(r"^(?:<!-- not run here: ([^\n]*) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_QUICK = {"gpu.md"}
SLOW = "each page measures, searches and runs an ensemble of its own, as its reader does"


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(why it is not run or "", language, text) of each block of a page."""
    return [(why or "", language, text) for why, language, text in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def script(page: Path) -> str:
    """The page as one program."""
    shell = "import subprocess\nsubprocess.run(['bash', '-euo', 'pipefail', '-c', {!r}], check=True)\n"
    return "\n".join(
        text if language == "python" else shell.format(text) for why, language, text in blocks(page) if not why
    )


def test_there_are_pages() -> None:
    assert len(PAGES) >= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    found = blocks(page)
    fences = page.read_text(encoding="utf-8").count("\n```")
    assert 2 * len(found) == fences, "a fence is none of a block"
    for why, language, text in found:
        assert language in ("python", "bash", "text"), f"a block is one of these languages: {language!r}"
        assert not why or len(why) > 10, f"why is it not run? {why!r}"
        if language == "python":
            ast.parse(text)


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.name, marks=[] if p.name in _QUICK else [pytest.mark.slow]) for p in PAGES]
)
def test_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    program = tmp_path / f"{page.stem}.py"
    program.write_text(script(page), encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "ESEN_LAB_HOME": str(tmp_path / "home"),
    }
    ran = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.strip()
