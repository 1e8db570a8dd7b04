"""Thousands of runs with members that are slow, raise and die at random: no wrong answer, nothing left, deadlines kept.

    make stress                                          1,000 runs
    make stress STRESS_ARGS="--runs 10000 --seed 3"      more, others
    make stress STRESS_ARGS="--stages"                   of a plan in stages, of which nobody leaves early

What each member does in a run stands in the input itself, so whoever answers for another run is found out:

    member i answers x * (i + 1) + i; x is drawn anew for each run, x[0, i] says what else it does:
    0 nothing, between 0 and 1 it sleeps so many seconds, 2 it raises, 3 it ends its process

An answer is right where it is the mean, to rounding, of what the members that the report names answer to this input.
The time over a deadline is the caller's: from the call to the answer in his hands. It is counted beside the longest
step of that run. The exit status is 1 where an answer was wrong, something was left, or an error came that nobody
asked for.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

MEMBERS = 5
LANES = ((0, 1), (2, 3), (4,))
WIDTH = 8
RAISES, DIES = 2.0, 3.0
MARGIN_S = 0.002


class Member(nn.Module):
    """Does what its input says."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X * (number + 1) + number, shape of x, after what x[0, number] says."""
        told = float(x[0, self.number])
        if told == RAISES:
            raise ValueError("told to raise")
        if told == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        if told > 0:
            time.sleep(told)
        return x * (self.number + 1) + self.number


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of all runs.

    Attributes:
        events: How often what came.
        wrong: Answers that are not of the members that their reports name, in words.
        unexpected: Errors that nobody asked for, in words.
        left: What was there after it and not before, in words.
        over_s: By how much answers came after their deadlines, in seconds; below 0: before.
        told_over_s: The same as reports have it: until the answer was there.
        missed_by_s: By how much the error of a missed deadline came after it.
        starting_by_s: The same where lanes were starting.
        bare_s: By how much a bare sleep of 2 ms was late between two runs: what the system's scheduler takes by itself.
        beyond_s: `over_s` less the longest step of a member in that run, and less `MARGIN_S`.
    """

    events: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    over_s: list[float] = field(default_factory=list)
    told_over_s: list[float] = field(default_factory=list)
    missed_by_s: list[float] = field(default_factory=list)
    starting_by_s: list[float] = field(default_factory=list)
    bare_s: list[float] = field(default_factory=list)
    beyond_s: list[float] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        """Whether nothing was wrong, left or unexpected."""
        return not (self.wrong or self.unexpected or self.left)

    def to_dict(self) -> dict[str, Any]:
        """Figures, for people and files."""
        return {
            "events": dict(sorted(self.events.items())),
            "wrong": self.wrong[:5],
            "unexpected": self.unexpected[:5],
            "left": self.left,
            "deadlines": len(self.over_s),
            "over_ms": _quantiles_ms(self.over_s),
            "over_by_more_than_2ms_and_a_step": sum(value > 0 for value in self.beyond_s),
            "over_as_told_ms": _quantiles_ms(self.told_over_s),
            "missed_by_ms": _quantiles_ms(self.missed_by_s),
            "missed_by_more_than_2ms": sum(value > MARGIN_S for value in self.missed_by_s),
            "missed_while_starting_by_ms": _quantiles_ms(self.starting_by_s),
            "a_bare_sleep_over_ms": _quantiles_ms(self.bare_s),
        }


def _quantiles_ms(values_s: Sequence[float]) -> dict[str, float]:
    ordered = sorted(1e3 * value for value in values_s)
    parts = (("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("most", 1.0))
    return {name: round(ordered[min(int(part * len(ordered)), len(ordered) - 1)], 2) for name, part in parts if ordered}


def stress(
    runs: int,
    *,
    seed: int = 0,
    dying: float = 0.004,
    stages: bool = False,
    tell: Callable[[str], object] = print,
) -> Tally:
    """Make so many runs of one lab.

    Args:
        runs: How many.
        seed: Of what members do.
        dying: How often a member dies, as a part of all runs: lanes start anew then, which takes a while.
        stages: Whether the first lane is a stage, and the others the next one.
        tell: Told how it gets on.
    """
    from esen_lab.lab import Lab
    from esen_lab.planner.plan import Lane, Plan

    tally = Tally()
    drawn = random.Random(seed)  # noqa: S311  it decides who sleeps
    generator = torch.Generator().manual_seed(seed)
    before = _held()
    with Lab(device="cpu") as lab:
        names = [f"m{number}" for number in range(MEMBERS)]
        for number, name in enumerate(names):
            lab.register(name, Member(number), example=_batch(generator, 4))
        units = lab.device.units
        lanes = [tuple(names[number] for number in lane) for lane in LANES]
        placed = tuple(Lane(units=1, members=lane, stage=int(stages and n > 0)) for n, lane in enumerate(lanes))
        # No probability reaches the threshold: every row is asked of everybody, as without stages.
        more: dict[str, Any] = {"reach": (1.0, 1.0), "threshold": 2.0} if stages else {}
        lab.apply(Plan(lanes=placed, units=units, **more))
        for number in range(runs):
            _once(lab, drawn, generator, dying, tally, stages=stages)
            began = time.perf_counter()
            time.sleep(MARGIN_S)
            tally.bare_s.append(time.perf_counter() - began - MARGIN_S)
            if (number + 1) % 250 == 0:
                tell(f"{number + 1} runs: {json.dumps(tally.to_dict())}")
    tally.left += _left(before)
    return tally


def _batch(generator: torch.Generator, rows: int) -> torch.Tensor:
    x = torch.randn(rows, WIDTH, generator=generator)
    x[0] = 0.0
    return x


def _once(
    lab: Any, drawn: random.Random, generator: torch.Generator, dying: float, tally: Tally, *, stages: bool = False
) -> None:
    x = _batch(generator, drawn.choice((4, 4, 4, 4, 4, 2, 9)))
    asked, kind = _asked(drawn)
    if stages and kind == "uncertainty":
        asked, kind = {}, "plain"
    if asked:
        _tell_members(x, drawn, dying if asked.get("on_failure") == "leave-out" else None)
    began = time.perf_counter()
    try:
        answer = lab.run(x, **asked)
    except Exception as problem:
        took_s = time.perf_counter() - began
        name = type(problem).__name__
        tally.events[f"{kind}: {name}"] += 1
        if not _may_be(problem, x):
            tally.unexpected.append(f"{kind} {asked}: {name}: {problem}")
        if name == "DeadlineMissed":
            starting = "no member had begun" in str(problem)
            (tally.starting_by_s if starting else tally.missed_by_s).append(took_s - asked["deadline_s"])
        return
    took_s = time.perf_counter() - began
    tally.events[kind] += 1
    report = lab.report
    answered = tuple(span.name for span in report.spans) if report.answered is None else report.answered.names
    _check(x, answer, answered, report, kind, tally)
    if report.answered is not None:
        tally.events["members missing"] += len(report.answered.missing)
        if asked.get("deadline_s") and kind != "first":
            tally.told_over_s.append(report.answered.at_s - asked["deadline_s"])
            _note_time(x, took_s - asked["deadline_s"], tally)


def _tell_members(x: torch.Tensor, drawn: random.Random, dying: float | None) -> None:
    """Write into an input what its members do; None: nobody fails."""
    for number in range(MEMBERS):
        if drawn.random() < 0.4:
            x[0, number] = drawn.choice((0.001, 0.003, 0.008, 0.03))
    if dying is not None:
        if drawn.random() < 0.2:
            x[0, drawn.randrange(MEMBERS)] = RAISES
        if drawn.random() < dying * 3:
            x[0, drawn.randrange(MEMBERS)] = DIES


def _note_time(x: torch.Tensor, over_s: float, tally: Tally) -> None:
    longest_s = max((float(told) for told in x[0, :MEMBERS] if told < 1), default=0.0)
    tally.over_s.append(over_s)
    tally.beyond_s.append(over_s - longest_s - MARGIN_S)


def _asked(drawn: random.Random) -> tuple[dict[str, Any], str]:
    """What a run is asked for, and what that is called."""
    kind = drawn.choice(("deadline", "deadline", "deadline", "first", "leave-out", "leave-out", "uncertainty", "plain"))
    asked: dict[str, Any] = {}
    if kind in ("deadline", "first"):
        asked = {"deadline_s": drawn.choice((0.005, 0.01, 0.02, 0.05)), "at_least": drawn.choice((1, 2, 4))}
    if kind == "first":
        asked["otherwise"] = "first"
    if kind == "leave-out":
        asked = {"on_failure": "leave-out"}
        if drawn.random() < 0.5:
            asked["deadline_s"] = 0.04
    if kind == "uncertainty":
        asked = {"uncertainty": True}
    return asked, kind


def _may_be(problem: Exception, x: torch.Tensor) -> bool:
    """Whether an error is what was asked for: a deadline that was missed, or nobody left to answer."""
    from esen_lab.errors import DeadlineMissed, ModelError, WorkerDied

    failing = bool((x[0, :MEMBERS] >= RAISES).any())
    return isinstance(problem, DeadlineMissed) or (failing and isinstance(problem, (ModelError, WorkerDied)))


def _check(x: torch.Tensor, answer: Any, names: Sequence[str], report: Any, kind: str, tally: Tally) -> None:
    if not isinstance(answer, torch.Tensor):
        members = torch.stack([x * (int(name[1:]) + 1) + int(name[1:]) for name in names])
        if not torch.allclose(answer.variance, members.var(0, unbiased=False), rtol=1e-4, atol=1e-4):
            tally.wrong.append(f"{kind}: variance of {names}")
        answer = answer.answer
    expected = torch.stack([x * (int(name[1:]) + 1) + int(name[1:]) for name in names]).mean(0)
    if answer.shape != expected.shape or not torch.allclose(answer, expected, rtol=1e-5, atol=1e-5):
        tally.wrong.append(f"{kind}: {names}: {report}")


def _held() -> tuple[int, int, int]:
    """How many descriptors, threads and children this process has."""
    import psutil

    gc.collect()  # lanes that were replaced hold their memory in circles
    me = psutil.Process()
    return me.num_fds(), threading.active_count(), len(me.children(recursive=True))


def _left(before: tuple[int, int, int]) -> list[str]:
    """What there is more of than before, in words; what is about to end is waited for."""
    until = time.monotonic() + 5.0
    while True:
        after = _held()
        more = [now - then for then, now in zip(before, after, strict=True)]
        # Libraries open a few descriptors once and keep them.
        found = [
            f"{count} more {what}"
            for count, what, spare in zip(more, ("descriptors", "threads", "processes"), (8, 1, 0), strict=True)
            if count > spare
        ]
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.05)


def main(words: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="how many runs (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dying", type=float, default=0.004, help="how often a member dies, as a part of all runs")
    parser.add_argument("--stages", action="store_true", help="a plan in stages")
    given = parser.parse_args(words)
    began = time.perf_counter()
    tally = stress(
        given.runs,
        seed=given.seed,
        dying=given.dying,
        stages=given.stages,
        tell=lambda line: print(line, flush=True),
    )
    found = tally.to_dict()
    print(json.dumps({**found, "seconds": round(time.perf_counter() - began, 1)}, indent=1))
    print("fine" if tally.fine else "NOT FINE")
    return 0 if tally.fine else 1


if __name__ == "__main__":
    sys.exit(main())
