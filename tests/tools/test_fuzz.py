"""A few spoilt files and messages of every kind, always the same ones; `make fuzz` tries ten thousand new ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("plan", 150),
        ("record", 100),
        ("export", 100),
        ("store", 30),
        ("history", 60),
        ("panel", 300),
        ("request", 400),
    ],
)
def test_no_spoilt_file_or_message_raises_anything_but_an_error_of_ours(
    kind: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    from fuzz import try_mutants

    tally = try_mutants(kind, count, seed=1)
    assert [escape.what for escape in tally.escapes] == []
    assert tally.tried == count
    if kind != "panel":
        assert tally.refused < count  # some are harmless, and those are used


def test_what_escapes_is_counted_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    import fuzz
    from fuzz_kinds import KINDS, Plans

    class Careless(Plans):
        def use(self, rng: object) -> None:
            raise KeyError(self.path.read_bytes()[:1])

    monkeypatch.setitem(KINDS, "plan", Careless)
    tally = fuzz.try_mutants("plan", 3, seed=1)
    assert [(escape.kind, escape.seed, escape.number) for escape in tally.escapes] == [("plan", 1, n) for n in range(3)]
    assert sys.getrecursionlimit() < 20_000
