"""A plan in stages in somebody else's server: whom to ask next, and about which rows. Who asks is the caller's.

The same steps as `StageRunner`, of which the lanes are ours: the first stage gets all rows; those that are sure by then
are answered, the others are asked of the next stage, at one of few sizes. With a deadline, a stage that is not expected
to be done by then is not begun: rows that are still open get what the stages before came to.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from esen_lab.common.trees import Tree
from esen_lab.ensemble import Combine, Ensemble
from esen_lab.ensemble.confidence import scores_of, sure_rows
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import derived_of, members_of
from esen_lab.run.lane_steps import answers_of_members
from esen_lab.run.stage_rows import first_rows, padded, size_for, sizes_for, taken

if TYPE_CHECKING:
    import torch

Ask: TypeAlias = "Callable[[tuple[int, ...], torch.Tensor | None], Awaitable[Mapping[str, Tree]]]"
"""Asks lanes, by their numbers, about rows of the input, by theirs (None: all): the answers of their steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _AskedStage:
    lanes: tuple[int, ...]
    rule: Combine
    sizes: int
    threshold: float | None
    predicted_s: float | None


class StagesInPlace:
    """Goes through the stages of a plan.

    Args:
        plan: It runs in stages.
        ensemble: All its sub-models, and the combine rule.
    """

    def __init__(self, plan: Plan, ensemble: Ensemble) -> None:
        import torch

        torch.set_num_threads(1)
        self._ensemble = ensemble
        self._lanes = plan.lanes
        self._derived = derived_of(plan.steps)
        self._stages: list[_AskedStage] = []
        asked: set[str] = set()
        for number, lanes in enumerate(plan.stages):
            asked |= set(members_of([name for lane in lanes for name in plan.lanes[lane].members]))
            names = [name for name in ensemble.names if name in asked]
            self._stages.append(
                _AskedStage(
                    lanes=lanes,
                    rule=ensemble.combine.for_members(names, ensemble.names),
                    sizes=sizes_for([plan.lanes[lane] for lane in lanes]),
                    threshold=plan.thresholds[number] if number < len(plan.thresholds) else None,
                    predicted_s=plan.stage_s(number),
                )
            )

    def steps_of(self, lane: int) -> tuple[str, ...]:
        """What a lane runs, in order."""
        return self._lanes[lane].members

    async def answer(self, rows: int, ask: Ask, left_s: Callable[[], float] = lambda: math.inf) -> Tree:
        """The ensemble's answer to a batch.

        Args:
            rows: How many it has.
            ask: See `Ask`.
            left_s: Seconds until the deadline; asked before each stage but the first.

        Returns:
            Scores of shape (rows, classes): the caller's own.

        Raises:
            UsageError: A sub-model does not answer row by row, or the combine rule gives no scores.
        """
        import torch

        opened = torch.arange(rows, device="cpu")
        kept: dict[str, Tree] = {}
        output: torch.Tensor | None = None
        for stage in self._stages:
            count = len(opened)
            if output is not None and (not count or left_s() < (stage.predicted_s or 0.0)):
                break
            ran = rows if output is None else size_for(count, rows, stage.sizes)
            found = await ask(stage.lanes, None if output is None else padded(opened, ran))
            answers = kept | first_rows(answers_of_members(found, self._derived), count, ran)
            scores = self._combined(stage.rule, answers, count)
            if output is None:
                output = scores.clone()
            else:
                output.index_copy_(0, opened, scores)
            if stage.threshold is not None:
                stay = (~sure_rows(scores, stage.threshold)).nonzero().squeeze(1)
                kept, opened = taken(answers, stay), opened[stay]
        return output

    def _combined(self, rule: Combine, answers: Mapping[str, Tree], rows: int) -> torch.Tensor:
        import torch

        with torch.no_grad():
            combined = rule({name: answers[name] for name in self._ensemble.names if name in answers})
        return scores_of(combined, rows, rule.describe())
