"""Tables are compared when something was written to them, and told apart from those that were left alone."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable
from typing import Any

import pytest

from esen_lab.ensemble import look
from esen_lab.ensemble.look import Untouched, version_of_tables
from esen_lab.ensemble.reach import reach_of


class Compared:
    """Counts how often tables were compared, and says they are the same."""

    def __init__(self, *, same: bool = True) -> None:
        self.times = 0
        self._same = same

    def __call__(self) -> bool:
        self.times += 1
        return self._same


WRITES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another value": lambda table: table.update(a=2.5),
    "a new entry": lambda table: table.update(b=2.5),
    "one less": lambda table: table.pop("a"),
    "none": lambda table: table.clear(),
    "gone and back": lambda table: table.update(a=table.pop("a")),
}


told = pytest.mark.skipif(version_of_tables() is None, reason="torch does not see every change of a dict here")


def test_torch_tells_versions_of_tables() -> None:
    if sys.version_info < (3, 12):  # it depends on what Python tells it
        assert version_of_tables() is not None


@told
def test_tables_that_nothing_was_written_to_are_not_compared_again() -> None:
    untouched, compared = Untouched([{"a": 1.5}, {}]), Compared()
    assert all(untouched.or_else(compared) for _ in range(5))
    assert compared.times == 1


@told
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_table_that_was_written_to_is_compared_once_more(write: Callable[[dict[str, Any]], object]) -> None:
    table: dict[str, Any] = {"a": 1.5}
    untouched, compared = Untouched([{}, table]), Compared()
    untouched.or_else(compared)
    write(table)
    assert all(untouched.or_else(compared) for _ in range(5))
    assert compared.times == 2


def test_a_table_that_differs_is_compared_each_time() -> None:
    untouched, compared = Untouched([{"a": 1.5}]), Compared(same=False)
    assert not any(untouched.or_else(compared) for _ in range(3))
    assert compared.times == 3


@told
def test_an_entry_that_moves_in_a_table_with_an_order_is_compared() -> None:
    table = collections.OrderedDict(a=1, b=2)
    untouched, compared = Untouched([table]), Compared()
    untouched.or_else(compared)
    table.move_to_end("a")
    assert all(untouched.or_else(compared) for _ in range(3))
    assert compared.times == 2


def test_tables_of_kinds_of_their_own_are_compared_each_time() -> None:
    class Table(dict[str, int]):
        pass

    untouched, compared = Untouched([Table(a=1)]), Compared()
    assert untouched.or_else(compared)
    assert untouched.or_else(compared)
    assert compared.times == 2


def test_where_torch_tells_no_versions_tables_are_compared_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "version_of_tables", lambda: None)
    untouched, compared = Untouched([{"a": 1}]), Compared()
    assert untouched.or_else(compared)
    assert untouched.or_else(compared)
    assert compared.times == 2


def test_classes_whose_attributes_nobody_can_set_are_not_looked_at() -> None:
    from torch import nn

    installed = reach_of(nn.Sequential(nn.TransformerEncoderLayer(8, 2, batch_first=True))).installed
    assert nn.TransformerEncoderLayer in installed
    for cls in installed:
        cls.made_up = 1  # type: ignore[attr-defined]
        del cls.made_up  # type: ignore[attr-defined]
