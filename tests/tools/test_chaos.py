"""Some lives of `make chaos`: what it counts, and that it counts nothing that must not be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import chaos


@pytest.mark.slow  # each is a process that uses a lab for some seconds
@pytest.mark.parametrize("scenario", ["interrupts", "parent", "closed", "disk"])
def test_a_life_leaves_nothing_broken_wrong_lost_or_behind(scenario: str) -> None:
    (tally,) = chaos.chaos([scenario], seed=11, seconds=0, lives=1, life_s=6.0)
    if tally.skipped:
        pytest.skip(tally.skipped)
    assert tally.faults == []
    assert tally.events["began"] > 0
    if scenario == "interrupts":
        assert tally.events["interrupted"] > 5


def test_the_table_is_put_between_its_marks(tmp_path: Path) -> None:
    document = tmp_path / "reliability.md"
    document.write_text(f"before\n{chaos.MARKS.begin}\nold\n{chaos.MARKS.end}\nafter\n")
    text = chaos.table([chaos.Tally(scenario="disk"), chaos.Tally(scenario="closed", skipped="no reason")])
    chaos.MARKS.write(document, text)
    written = document.read_text()
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    assert "| a disk that is full | 0 |" in written
    assert "skipped: no reason" in written
    assert "old" not in written
