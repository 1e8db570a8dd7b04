"""Subsets that Optuna's NSGA-II evolves."""

from __future__ import annotations

import sys

import pytest

from esen_lab.errors import UsageError
from esen_lab.planner.evolution import GENERATIONS, POPULATION, evolved_subsets

NAMES = tuple("abcdefghijklmn")


def worth(mask: int) -> tuple[float, float]:
    """Early members are worth most and all cost the same, so the best of a size are its first ones."""
    return sum(1.0 / (i + 1) for i in range(len(NAMES)) if mask >> i & 1), float(mask.bit_count())


def test_most_of_the_front_is_found_and_nothing_beaten_is_returned() -> None:
    pytest.importorskip("optuna")
    masks = evolved_subsets(NAMES, worth, seed=0)
    best = {(1 << size) - 1 for size in range(1, len(NAMES) + 1)}
    assert len(best & set(masks)) >= len(NAMES) // 2
    assert {1, (1 << len(NAMES)) - 1} <= set(masks)
    values = [worth(mask) for mask in masks]
    assert not any(v[0] >= w[0] and v[1] <= w[1] and v != w for v in values for w in values)


class Asked:
    """Gives worths, and keeps what it was asked about."""

    def __init__(self) -> None:
        self.masks: list[int] = []

    def __call__(self, mask: int) -> tuple[float, float]:
        self.masks.append(mask)
        return worth(mask)


def test_it_is_a_function_of_its_seed_and_asks_once_for_each() -> None:
    pytest.importorskip("optuna")
    asked = Asked()
    first = evolved_subsets(NAMES, asked, seed=3)
    assert len(asked.masks) == len(set(asked.masks)) <= POPULATION * GENERATIONS
    assert evolved_subsets(NAMES, worth, seed=3) == first


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"needs the package optuna.*pip install optuna"):
        evolved_subsets(NAMES, worth, seed=0)
