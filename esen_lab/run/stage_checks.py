"""What is found out of a plan in stages before its first run: whether its later members can be asked for some rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from esen_lab.common.answers import IN_PRECISION, difference
from esen_lab.common.other_numbers import other_numbers, other_order, with_others
from esen_lab.common.trees import Tree, map_tensors
from esen_lab.common.units import backend_parts
from esen_lab.ensemble import Ensemble
from esen_lab.errors import ModelError, UsageError
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import members_of

if TYPE_CHECKING:
    import torch

Change: TypeAlias = "Callable[[torch.Tensor], torch.Tensor] | None"
AskRows: TypeAlias = Callable[[int, Change], Mapping[str, Tree]]
"""Asks members for the first so many rows of a batch, changed in this way; None: as it is."""

_WARMED = 2  # batch sizes


class StagesPrepared:
    """For which batches a plan in stages was looked at, and its engines were prepared.

    Args:
        has_engines: Whether a later stage has engines, which prepare something for each size of a batch.
    """

    def __init__(self, *, has_engines: bool) -> None:
        self._has_engines = has_engines
        self._looked_at = False  # whether it was seen that rows do not depend on each other
        self._warmed: set[int] = set()  # batches whose smaller sizes engines were prepared for

    def has_to_look(self, rows: int) -> bool:
        """Whether it is still to be seen that rows do not depend on each other, and so many can show it."""
        return rows > 1 and not self._looked_at

    def has_to_warm(self, rows: int) -> bool:
        """Whether engines have something to prepare for a batch of so many rows."""
        # Batches of ever new sizes would have engines compile without an end: beyond these, each when it comes.
        return self._has_engines and rows not in self._warmed and len(self._warmed) < _WARMED

    def lacks(self, rows: int) -> bool:
        """Whether something is to be found out, or prepared, before a batch of so many rows."""
        return self.has_to_look(rows) or self.has_to_warm(rows)

    def done(self, rows: int) -> None:
        """All of that was done for such a batch."""
        self._looked_at = self._looked_at or rows > 1
        if self.has_to_warm(rows):
            self._warmed.add(rows)

    def cold(self) -> None:
        """Engines are new, and have prepared nothing."""
        self._warmed.clear()

    def forget(self) -> None:
        """Sub-models are other ones."""
        self._looked_at = False
        self.cold()


def check_stages(plan: Plan, ensemble: Ensemble) -> None:
    """Refuse a plan in stages whose later members cannot be asked for a part of the rows.

    Raises:
        UsageError: One keeps state between calls, which would then be that of some rows.
    """
    later = [lane for lane in plan.lanes if lane.stage]
    keeping = [
        name
        for name in members_of([step for lane in later for step in lane.members])
        if ensemble.get(name).traits.keeps_state
    ]
    if keeping:
        raise UsageError(
            "A sub-model of a later stage keeps nothing between calls: it is asked for some rows only",
            given=f"state kept by {', '.join(keeping)}",
            hint="Put it into the first stage, or take a plan without stages.",
        )


def check_rows(executed: Mapping[str, str], ensemble: Ensemble, rows: int, ask: AskRows) -> None:
    """See that members of later stages answer a row alike whatever else is in its batch, and at another size.

    Args:
        executed: For each of these members how it is executed.
        ensemble: Holds them; those that draw random numbers are not judged.
        rows: Of the batch, at least 2.
        ask: See `AskRows`; the answers are copies.

    Raises:
        UsageError: One does not: asked for a part of the rows, it would answer something else.
    """
    half = -(-rows // 2)
    judged = {name: how for name, how in executed.items() if not ensemble.get(name).traits.random}
    whole = ask(rows, None)
    try:
        alone = ask(half, None)
    except ModelError as problem:
        raise UsageError(
            "A sub-model of a later stage takes any number of rows",
            given=f"{problem.rule}, asked for {half} of {rows} rows",
            hint="Put it into the first stage, or take a plan without stages.",
        ) from problem
    by_half = f"for {half} of {rows} rows"
    pairs = [(alone, whole, by_half)]
    try:
        pairs += _with_others(ask, rows, half, whole, other_numbers, by_half)
    except ModelError:  # whole numbers that mean something: none that was not there before
        pairs += _with_others(ask, rows, half, whole, other_order, by_half)
    for found, wanted, when in pairs:
        for name, how in judged.items():
            answers = _first(found[name], half), _first(wanted[name], half)
            apart = difference(*answers, IN_PRECISION[backend_parts(how)[1]])
            if not apart.agrees:
                raise UsageError(
                    "In a plan in stages, what a sub-model answers to a row does not depend on the other rows",
                    given=f"{name!r} answers otherwise {when} ({apart})",
                    hint="Put it into the first stage, or take a plan without stages.",
                )


def _with_others(
    ask: AskRows,
    rows: int,
    half: int,
    whole: Mapping[str, Tree],
    numbers: Callable[[torch.Tensor], torch.Tensor],
    by_half: str,
) -> Iterator[tuple[Mapping[str, Tree], Mapping[str, Tree], str]]:
    """Pairs of answers to the same first half of the rows.

    1. Beside another second half.
    2. Another first half, without the second one and with it: where each row of the example has the largest number of
       all, or the most tokens, only then a member that looks for these finds something else in a part of the rows.
    """
    yield ask(rows, partial(with_others, numbers=numbers, first=False)), whole, "beside other rows"
    other = partial(with_others, numbers=numbers, first=True)
    yield ask(half, other), ask(rows, other), by_half


def _first(answer: Tree, rows: int) -> Tree:
    return map_tensors(lambda leaf: leaf[:rows], answer)
