"""A plan in stages in somebody else's server: whom to ask next, and about which rows. Who asks is the caller's.

The same steps as `StageRunner`, of which the lanes are ours, decided by the same code (`stages_so_far.py`). With a
deadline, a stage that is not expected to be done by then is not begun: rows that are still open get what the stages
before came to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from esen_lab.common.trees import Tree
from esen_lab.ensemble import Ensemble
from esen_lab.lanes.openmp import CallersThreads
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import derived_of
from esen_lab.run.lane_steps import answers_of_members
from esen_lab.run.request import PLAIN
from esen_lab.run.stage_rows import first_rows, padded, size_for, sizes_for
from esen_lab.run.stages_so_far import StageAnswers, StagesSoFar

if TYPE_CHECKING:
    import torch

Ask: TypeAlias = "Callable[[tuple[int, ...], torch.Tensor | None], Awaitable[Mapping[str, Tree]]]"
"""Asks lanes, by their numbers, about rows of the input, by theirs (None: all): the answers of their steps."""


class StagesInPlace:
    """Goes through the stages of a plan. Used by one thread."""

    def __init__(self, plan: Plan, ensemble: Ensemble) -> None:
        import torch

        torch.set_num_threads(1)
        self._plan, self._ensemble = plan, ensemble
        self._derived = derived_of(plan.steps)
        self._threads = CallersThreads()

    def steps_of(self, lane: int) -> tuple[str, ...]:
        """What a lane runs, in order."""
        return self._plan.lanes[lane].members

    async def answer(self, rows: int, ask: Ask, left_s: Callable[[], float] = lambda: math.inf) -> Tree:
        """The ensemble's answer to a batch.

        Args:
            rows: How many it has.
            ask: See `Ask`.
            left_s: Seconds until the deadline; asked before each stage but the first.

        Returns:
            Scores of shape (rows, classes): the caller's own.

        Raises:
            UsageError: A sub-model does not answer row by row, or the combine rule gives no scores of the same classes.
        """
        plan = self._plan
        so_far = StagesSoFar(plan, self._ensemble, PLAIN, None, time.perf_counter_ns(), self._threads)
        so_far.begin(rows, math.inf)
        for number, lanes in enumerate(plan.stages):
            begun_ns = time.perf_counter_ns()
            if so_far.output is not None and left_s() < (plan.stage_s(number) or 0.0):
                break
            if not so_far.asks(number):
                continue
            count = len(so_far.opened)
            ran = size_for(count, rows, sizes_for([plan.lanes[lane] for lane in lanes])) if number else rows
            found = await ask(lanes, padded(so_far.opened, ran) if number else None)
            outputs = first_rows(answers_of_members(found, self._derived), count, ran)
            so_far.take(number, StageAnswers(outputs=outputs, ran=ran, begun_ns=begun_ns))
        return so_far.output
