"""Sizes of batches that engines have prepared before the first request: joined batches are filled up to the next one.

An engine of fixed sizes (OpenVINO, ONNX Runtime, `torch.compile`) compiles for each size of a batch, which takes from
milliseconds to minutes, and joined batches come in every size. So few sizes are run while nobody waits: a request then
meets no compiling, and rows that fill a batch up cost little beside one.

    at most LOOKS sizes     what a lane keeps of one member (`lanes/backends/_executed.py`)
    among them              1, the largest batch, the example's and twice that, which were run already
    the others              where the step from one size to the next is largest, halved (geometrically)
"""

from __future__ import annotations

import logging
import math
import time
from bisect import insort
from collections.abc import Callable, Sequence
from itertools import pairwise

from esen_lab.common.trees import Tree, flatten, unflatten
from esen_lab.errors import EsenError
from esen_lab.planner.plan import Plan
from esen_lab.serving.joining import joined, rows_of
from esen_lab.serving.signature import ModelInfo

LOOKS = 8
PREPARE_S = 60.0
"""Before it is ready a server prepares sizes for so long; larger ones than it came to are not joined to."""

log = logging.getLogger("esen_lab.serving")


def sizes_to_prepare(rows: int, most: int) -> list[int]:
    """Few sizes for batches of up to `most` rows, ascending.

    Args:
        rows: Of the example: it was run, and twice that.
        most: The largest batch.
    """
    ran = {rows, 2 * rows}
    found = sorted({1, most} | {size for size in ran if size <= most})
    kept = LOOKS - sum(size > most for size in ran)
    while len(found) < kept:
        low, high = max(pairwise(found), key=lambda step: step[1] / step[0], default=(1, 1))
        middle = round(math.sqrt(low * high))
        if middle in (low, high):
            break
        insort(found, middle)
    return found


def sizes_for(plan: Plan, model: ModelInfo, example: Tree, most: int) -> list[int]:
    """The sizes of a batch that engines are to know, ascending; none where all runs eagerly, or nothing is joined.

    Args:
        plan: By which batches run.
        model: What is served.
        example: An input of it.
        most: The largest batch.
    """
    return sizes_of_engines(plan, example, most) if model.joins and most > 1 else []


def sizes_of_engines(plan: Plan, example: Tree, most: int) -> list[int]:
    """The same for batches that are joined in any case."""
    if all(lane.all_eager for lane in plan.lanes):
        return []
    return sizes_to_prepare(rows_of(flatten(example)[0]) or 1, most)


def of_size(example: Tree, rows: int) -> Tree:
    """An input of so many rows, made of the example's."""
    leaves, structure = flatten(example)
    have = leaves[0].shape[0]
    whole = joined([leaves], max(0, rows - have))
    return unflatten(structure, [leaf[:rows] for leaf in whole])


def prepare(
    run: Callable[[Tree], object],
    example: Tree,
    sizes: Sequence[int],
    *,
    limit_s: float = PREPARE_S,
    clock: Callable[[], float] = time.monotonic,
) -> list[int]:
    """Run each size once, the smaller ones first.

    Args:
        run: Runs the ensemble once.
        example: An input with its rows along dimension 0.
        sizes: Ascending.
        limit_s: No other one is begun after so many seconds.
        clock: Seconds that go on.

    Returns:
        Those that were run, at least the first: joined batches are to be no larger than the last of them.
    """
    began_s = clock()
    done: list[int] = []
    for size in sizes:
        if done and clock() - began_s > limit_s:
            log.warning("engines were prepared for smaller batches only", extra={"largest": done[-1]})
            break
        try:
            run(of_size(example, size))
        except EsenError as problem:
            log.warning("members do not take a batch of this size", extra={"rows": size, "problem": str(problem)})
            continue
        done.append(size)
    return done
