"""Which members at all."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import numpy as np
import pytest
from brute import brute_jct_s

from esen_lab.errors import UsageError
from esen_lab.studies.front import ParetoFront, accuracy_of, member_front

Latencies = dict[str, list[float]]


def made_up_accuracy(n: int, seed: int) -> Callable[[tuple[str, ...]], float]:
    """Each member votes rightly with its own chance; coarse, so that ties happen."""
    random = np.random.default_rng(seed)
    skill = {f"m{i}": random.uniform(0.55, 0.9) for i in range(n)}
    right = {name: random.random(200) < chance for name, chance in skill.items()}
    return lambda names: round(float(np.mean(sum(right[name] for name in names) > len(names) / 2)), 2)


def front_by_definition(
    tables: Latencies, units: int, accuracy: Callable[[tuple[str, ...]], float]
) -> list[tuple[float, float]]:
    subsets = [names for size in range(1, len(tables) + 1) for names in itertools.combinations(tables, size)]
    points = {(accuracy(names), brute_jct_s({n: tables[n] for n in names}, units)) for names in subsets}
    return sorted(
        (p for p in points if not any(q != p and q[0] >= p[0] and q[1] <= p[1] * (1 + 1e-9) for q in points)),
        key=lambda p: p[1],
    )


@pytest.mark.parametrize("seed", range(4))
def test_up_to_twelve_members_the_front_is_exact(seed: int, latencies: Callable[..., Latencies]) -> None:
    tables = latencies(5, 8, seed)
    accuracy = made_up_accuracy(5, seed)
    front = member_front(tables, 8, accuracy)
    assert front.exact
    assert front.evaluations == 31
    assert [(c.accuracy, pytest.approx(c.allocation.jct_s)) for c in front.choices] == front_by_definition(
        tables, 8, accuracy
    )
    for choice in front.choices:
        assert choice.accuracy == accuracy(choice.names)
        assert sorted(n for _, names in choice.allocation.lanes for n in names) == sorted(choice.names)


def test_beyond_twelve_it_evolves_towards_the_front_and_says_that_it_is_not_exact(
    latencies: Callable[..., Latencies], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    from esen_lab.studies import front as members

    tables, accuracy = latencies(8, 8, 1), made_up_accuracy(8, 1)
    exact = member_front(tables, 8, accuracy)
    monkeypatch.setattr(members, "MOST_EXACT", 4)
    evolved = member_front(tables, 8, accuracy)
    assert not evolved.exact
    assert evolved.evaluations < 255

    def reached(front: ParetoFront, accuracy: float) -> float:
        return min((c.allocation.jct_s for c in front.choices if c.accuracy >= accuracy - 0.02), default=np.inf)

    assert all(reached(evolved, c.accuracy) <= 1.05 * c.allocation.jct_s for c in exact.choices)
    jcts = [c.allocation.jct_s for c in evolved.choices]
    accuracies = [c.accuracy for c in evolved.choices]
    assert jcts == sorted(jcts)
    assert accuracies == sorted(set(accuracies))
    assert member_front(tables, 8, accuracy).to_dict()["exact"] is False


def test_beyond_twelve_members_it_says_at_once_that_optuna_is_needed(
    latencies: Callable[..., Latencies], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert member_front(latencies(3, 4, 1), 4, made_up_accuracy(3, 1)).exact

    def never(names: tuple[str, ...]) -> float:
        raise AssertionError("nothing is evaluated before that is said")

    with pytest.raises(UsageError, match=r"more than 12 members needs the package optuna.*pip install optuna"):
        member_front(latencies(13, 4, 1), 4, never)


def test_accuracy_is_that_of_the_combined_output() -> None:
    outputs = {"a": np.array([[0.9, 0.1], [0.6, 0.4]]), "b": np.array([[0.2, 0.8], [0.1, 0.9]])}
    accuracy = accuracy_of(outputs, np.array([0, 1]), lambda some: np.mean(list(some.values()), axis=0))
    assert accuracy(("a",)) == 0.5
    assert accuracy(("b",)) == 0.5
    assert accuracy(("a", "b")) == 1.0
    votes = accuracy_of(outputs, np.array([0, 1]), lambda some: next(iter(some.values())).argmax(axis=1))
    assert votes(("a",)) == 0.5


def test_what_cannot_be_an_accuracy_is_refused(latencies: Callable[..., Latencies]) -> None:
    with pytest.raises(UsageError, match="An accuracy is a number"):
        member_front(latencies(2, 4, 1), 4, lambda names: float("nan"))
    with pytest.raises(UsageError, match="2 of 3 for 'a'"):
        accuracy_of({"a": np.zeros((2, 2))}, np.zeros(3), lambda some: some["a"])


def test_members_that_no_lanes_can_have_together_are_no_choice_and_the_others_are() -> None:
    tables: dict[str, list[float | None]] = {"a": [1.0, None], "b": [None, 2.0]}
    front = member_front(tables, 2, lambda names: 0.5 + 0.1 * len(names) + 0.05 * ("b" in names))
    assert [choice.names for choice in front.choices] == [("a",), ("b",)]
    assert front.exact
