"""A plan against the ways ensembles run today: same input, same rounds, same outputs.

Every strategy's lanes are started first and stay warm; then each round runs every strategy once, in an order drawn
anew, so that a machine that slows down slows all of them. Ratios are taken within rounds and their median reported.
Where a device serves fewer lanes than all strategies have, they are compared in groups, the plan in each.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from esen_lab.devices import Crowded, Device
from esen_lab.ensemble import Ensemble
from esen_lab.errors import EsenError, UsageError
from esen_lab.frames import to_frame
from esen_lab.planning import Plan
from esen_lab.runtime.executor import DEFAULT_TIMEOUT_S, Executor
from esen_lab.runtime.strategies import STRATEGIES
from esen_lab.showing import Shown
from esen_lab.trees import Tree, flatten
from esen_lab.units import format_percent, format_seconds, format_table
from esen_lab.workers import Nursery
from esen_lab.workers.agreement import difference

if TYPE_CHECKING:
    import torch

CHOSEN = "plan"
_Times: TypeAlias = "Mapping[str, list[float]]"  # the JCTs of one group: of every strategy one for each round
# Relative and absolute tolerance by dtype: what a different order of summation may change.
_TOLERANCE = {
    "float64": (1e-9, 1e-12),
    "float32": (1e-4, 1e-5),
    "float16": (1e-2, 1e-3),
    "bfloat16": (2e-2, 1e-2),
}
_PAUSE_S = 0.002  # lets OpenMP's waiting threads of the last strategy stop spinning
_LEAST_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One strategy.

    Attributes:
        strategy: Its name; "plan" is the chosen plan.
        lanes: Its lanes and shares, for people.
        median_s: Median JCT in seconds; NaN when it failed.
        spread_s: Interquartile range of the JCT in seconds.
        ratio_to: Median over rounds of this JCT / the other strategy's JCT in the same round. Below 1: faster. Absent
            for strategies that were never in the same round.
        ratio_to_bound: Median JCT / the proven bound of the plan, or None.
        agreement: How the outputs compare with the sequential reference, for people.
        max_abs_diff: Largest absolute difference of any sub-model's output or the combined one; NaN when it failed.
        agrees: Whether the differences are within what a different order of summation explains.
        failed: Why it could not run, or "".
        times_s: The JCT of every round.
    """

    strategy: str
    lanes: str
    median_s: float
    spread_s: float
    ratio_to: Mapping[str, float] = field(default_factory=dict)
    ratio_to_bound: float | None = None
    agreement: str = ""
    max_abs_diff: float = math.nan
    agrees: bool = False
    failed: str = ""
    times_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Shown):
    """All strategies on one input.

    Attributes:
        rows: The reference first, the chosen plan last.
        rounds: How many rounds ran.
        verdict: Plainly, whether the plan wins.
        bound_s: The proven bound of the plan under its cost models, or None.
        batch: What the input looked like.
        device: The device's name.
        notes: What else the reader should know.
    """

    rows: tuple[Row, ...]
    rounds: int
    verdict: str
    bound_s: float | None = None
    batch: str = ""
    device: str = ""
    notes: tuple[str, ...] = ()

    def row(self, strategy: str) -> Row:
        """The row of one strategy.

        Raises:
            UsageError: It was not compared.
        """
        for row in self.rows:
            if row.strategy == strategy:
                return row
        raise UsageError("A comparison has rows for what was compared", given=strategy)

    def __str__(self) -> str:
        """The table and the verdict, for a terminal."""
        rows = [
            (row.strategy, format_seconds(row.median_s), format_seconds(row.spread_s), row.failed or row.agreement)
            for row in self.rows
        ]
        table = format_table(("strategy", "JCT median", "spread", "outputs"), rows)
        return "\n".join([table, self.verdict, *self.notes])

    def to_frame(self) -> Any:
        """A pandas table with a row per strategy.

        Raises:
            UsageError: pandas is not installed.
        """
        kept = ("strategy", "lanes", "median_s", "spread_s", "ratio_to_bound", "agreement", "agrees", "failed")
        return to_frame(
            [
                {**{key: row[key] for key in kept}, **{f"ratio_to_{name}": r for name, r in row["ratio_to"].items()}}
                for row in self.to_dict()["rows"]
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data; absent figures are None."""
        return {
            "rows": [
                {
                    "strategy": row.strategy,
                    "lanes": row.lanes,
                    "median_s": _finite(row.median_s),
                    "spread_s": _finite(row.spread_s),
                    "ratio_to": {name: _finite(ratio) for name, ratio in row.ratio_to.items()},
                    "ratio_to_bound": row.ratio_to_bound,
                    "agreement": row.agreement,
                    "max_abs_diff": _finite(row.max_abs_diff),
                    "agrees": row.agrees,
                    "failed": row.failed,
                    "times_s": list(row.times_s),
                }
                for row in self.rows
            ],
            "rounds": self.rounds,
            "verdict": self.verdict,
            "bound_s": self.bound_s,
            "batch": self.batch,
            "device": self.device,
            "notes": list(self.notes),
        }


def compare(
    x: Tree,
    plan: Plan,
    ensemble: Ensemble,
    device: Device,
    nursery: Nursery,
    *,
    rounds: int = 20,
    strategies: Sequence[str] | None = None,
    plans: Mapping[str, Plan] | None = None,
    budget_s: float = 120.0,
    seed: int = 0,
    chosen: Executor | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Run `plan` and the baselines on the same input in the same rounds.

    Args:
        x: The input.
        plan: The chosen plan.
        ensemble: Its sub-models.
        device: Where it runs.
        nursery: Starts the workers.
        rounds: How many rounds, at least 1.
        strategies: Baselines by name (see `STRATEGIES`); None: all. "sequential" is always run: it is the reference.
        plans: Further plans to compare with, by names of your own.
        budget_s: After this many seconds no further round starts (at least 5 do).
        seed: Of the order within rounds.
        chosen: An executor that already runs `plan`; it is used and left running.
        on_progress: Called with (done, all, what is going on).

    Raises:
        UsageError: A strategy is unknown, a plan has the name of one, or `rounds` is not positive.
        EsenError: The plan itself, or the sequential reference, could not be run.
    """
    made, failed = _plans_to_compare(strategies, plans or {}, ensemble, device)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise UsageError("A comparison has at least one round", given=rounds)
    tell = on_progress or _silent
    groups = _groups({name: len(other.lanes) for name, other in made.items()}, len(plan.lanes), device)
    side = _SideBySide(lambda name: Executor.start(made.get(name, plan), ensemble, device, nursery), x, chosen)
    measured: list[_Times] = []
    notes: list[str] = []
    try:
        for number, group in enumerate(groups):
            failed |= side.start(group, lambda name: tell(side.started, len(made) + 1, f"starting {name}"))
            times, said = _rounds(side.running, x, rounds, budget_s / len(groups), seed + number, tell)
            measured.append(times)
            notes += said
            for name in group:  # what the chosen plan's own report says is said there
                if name in side.running and (fallen := side.running[name].fallen_back):
                    notes.append(f"{name}: not executed as it says, but eagerly: {', '.join(fallen)}.")
            side.close(group)
        batch = side.running[CHOSEN].run(x)[1].batch
    finally:
        side.close(list(side.running))
    bound = plan.bound_s if not plan.example or plan.example == batch else None
    if plan.bound_s is not None and bound is None:
        notes.append(f"The bound is for {plan.example}; this batch is {batch}, so no ratio to it is given.")
    if len(groups) > 1:
        notes.append(f"Compared in {len(groups)} groups, the plan in each: the device serves no more lanes at a time.")
    rows = [
        _row(name, made.get(name, plan if name == CHOSEN else None), measured, side.agreement.get(name), failed, bound)
        for name in [*dict.fromkeys([*made, *failed]), CHOSEN]
    ]
    order = ["sequential", *(name for name in STRATEGIES if name != "sequential"), *(plans or {}), CHOSEN]
    rows.sort(key=lambda row: order.index(row.strategy))
    return Comparison(
        rows=tuple(rows),
        rounds=min(len(times[CHOSEN]) for times in measured),
        verdict=_verdict(rows, measured),
        bound_s=bound,
        batch=batch,
        device=device.identity.name,
        notes=(*(device.notes if device.identity.simulated else ()), *dict.fromkeys(notes)),
    )


def _plans_to_compare(
    strategies: Sequence[str] | None, plans: Mapping[str, Plan], ensemble: Ensemble, device: Device
) -> tuple[dict[str, Plan], dict[str, str]]:
    """What is compared with the chosen plan, the reference first; and which strategies cannot be, and why."""
    names = list(STRATEGIES) if strategies is None else list(dict.fromkeys(["sequential", *strategies]))
    unknown = [name for name in names if name not in STRATEGIES and name != CHOSEN]
    if unknown:
        raise UsageError(f"A strategy is one of: {', '.join(STRATEGIES)}", given=", ".join(unknown))
    taken = [name for name in plans if name in STRATEGIES or name == CHOSEN]
    if taken:
        raise UsageError(f"A plan to compare with has a name that no strategy has: {', '.join(taken)}", given=taken[0])
    made: dict[str, Plan] = {}
    failed: dict[str, str] = {}
    for name in names:
        if name == CHOSEN:
            continue
        try:
            made[name] = STRATEGIES[name](ensemble, device.units)
        except EsenError as problem:
            failed[name] = _why(problem)
    return {**made, **plans}, failed


def _why(problem: EsenError) -> str:
    return problem.rule.rstrip(".") + (f" ({problem.given})" if problem.given else "")


class _SideBySide:
    """The executors that are warm at present, and how the answers of all that were compare with the reference.

    Args:
        start: Starts what is compared, by name.
        x: The input.
        chosen: The chosen plan's executor, where it runs already; it is left running.
    """

    def __init__(self, start: Callable[[str], Executor], x: Tree, chosen: Executor | None) -> None:
        self._start = start
        self._x = x
        self._chosen = chosen
        self._reference: tuple[Tree, Mapping[str, Tree]] | None = None
        self.running = {} if chosen is None else {CHOSEN: chosen}
        self.started = 0
        self.agreement: dict[str, tuple[str, float, bool]] = {}

    def start(self, group: Sequence[str], tell: Callable[[str], None]) -> dict[str, str]:
        """Start a group, and the plan if it doesn't run, and check their answers. Returns why some did not start."""
        failed = {}
        for name in group if CHOSEN in self.running else (*group, CHOSEN):
            tell(name)
            self.started += 1
            try:
                self.running[name] = self._start(name)
            except EsenError as problem:
                if name in (CHOSEN, "sequential"):
                    raise
                failed[name] = _why(problem)
        if self._reference is None:
            self._reference = self.running["sequential"].run_members(self._x)
        for name, executor in self.running.items():
            if name not in self.agreement:
                found = executor.run_members(self._x)
                self.agreement[name] = _agreement(found, self._reference, on_gpu=executor.on_gpu)
        return failed

    def close(self, names: Sequence[str]) -> None:
        """End the lanes of these, where they run and are ours."""
        for name in names:
            executor = self.running.get(name)
            if executor is not None and executor is not self._chosen:
                del self.running[name]
                executor.close()


def _groups(lanes: Mapping[str, int], of_plan: int, device: Device) -> list[list[str]]:
    """Which strategies run in the same rounds: all, or as many as the device has lanes for beside those of the plan."""
    most = device.most_lanes if isinstance(device, Crowded) else math.inf
    groups: list[list[str]] = []
    left = 0.0
    for name, count in lanes.items():
        if not groups or count > left:
            groups.append([])
            left = most - of_plan
        groups[-1].append(name)
        left -= count
    return groups


def _rounds(
    executors: Mapping[str, Executor],
    x: Tree,
    rounds: int,
    budget_s: float,
    seed: int,
    tell: Callable[[int, int, str], None],
) -> tuple[_Times, list[str]]:
    order = list(executors)
    shuffle = random.Random(seed)  # noqa: S311  an order, not a secret
    times: dict[str, list[float]] = {name: [] for name in order}
    started = time.monotonic()
    for done in range(rounds):
        if done >= _LEAST_ROUNDS and time.monotonic() - started > budget_s:
            return times, [f"Stopped after {done} of {rounds} rounds: the time budget of {budget_s:g} s ended."]
        tell(done, rounds, f"round {done + 1} of {rounds}")
        shuffle.shuffle(order)
        for name in order:
            time.sleep(_PAUSE_S)
            executors[name].run(x, timeout_s=DEFAULT_TIMEOUT_S)  # brings its weights back into the caches
            times[name].append(executors[name].run(x, timeout_s=DEFAULT_TIMEOUT_S)[1].jct_s)
    tell(rounds, rounds, "done")
    return times, []


def _ratios(name: str, other: str, measured: Sequence[_Times]) -> list[float]:
    """JCT of one over that of another, for every round that both were in."""
    return [
        a / b
        for times in measured
        if name in times and other in times
        for a, b in zip(times[name], times[other], strict=True)
    ]


def _row(
    name: str,
    plan: Plan | None,
    measured: Sequence[_Times],
    agreement: tuple[str, float, bool] | None,
    failed: Mapping[str, str],
    bound_s: float | None,
) -> Row:
    if plan is None or agreement is None:
        return Row(
            strategy=name,
            lanes="-",
            median_s=math.nan,
            spread_s=math.nan,
            failed=failed.get(name) or "it did not start",
        )
    own = [jct_s for times in measured for jct_s in times.get(name, ())]
    others = {other for times in measured for other in times if other != name}
    median = statistics.median(own)
    text, difference, agrees = agreement
    return Row(
        strategy=name,
        lanes=plan.describe(),
        median_s=median,
        spread_s=_spread(own),
        ratio_to={
            other: statistics.median(ratios) for other in sorted(others) if (ratios := _ratios(name, other, measured))
        },
        ratio_to_bound=median / bound_s if bound_s else None,
        agreement=text,
        max_abs_diff=difference,
        agrees=agrees,
        times_s=tuple(own),
    )


def _spread(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def _verdict(rows: Sequence[Row], measured: Sequence[_Times]) -> str:
    """Whether the plan wins, against the fastest baseline whose outputs agree."""
    plan, reference = rows[-1], next(row for row in rows if row.strategy == "sequential")
    if not reference.agrees:
        return (
            "The sub-models answer differently from call to call (the sequential reference does not agree with itself: "
            f"{reference.agreement}), so outputs cannot be checked and no speed is reported as a gain."
        )
    if not plan.agrees:
        return f"The plan's outputs differ from the sequential reference ({plan.agreement}): its speed does not count."
    others = [row for row in rows[:-1] if not row.failed and row.agrees]
    best = min(others, key=lambda row: row.median_s)
    ratios = sorted(_ratios(CHOSEN, best.strategy, measured))
    low, high = _median_interval(ratios)
    ratio = plan.ratio_to[best.strategy]
    if high < 1:
        return f"The plan is {format_percent(1 - ratio)} faster than the best baseline, {best.strategy}."
    if low > 1:
        loss = format_percent(ratio - 1)
        return f"The plan loses: it is {loss} slower than {best.strategy}. Use {best.strategy} instead."
    told = f"No clear difference: the plan takes {format_percent(ratio)} of the time of {best.strategy}"
    if math.isinf(high):
        return f"{told}, but {len(ratios)} rounds are too few to be sure; 6 or more are needed."
    return f"{told} (95 % interval {format_percent(low)} to {format_percent(high)})."


def _median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval for the median from order statistics (binomial, exact); the whole range for few values."""
    n = len(ordered)
    tail = 0.0
    k = 0
    while k < n // 2:
        tail += math.comb(n, k) / 2**n
        if tail > 0.025:
            break
        k += 1
    if k == 0:
        return (-math.inf, math.inf) if n < 6 else (ordered[0], ordered[-1])
    return ordered[k - 1], ordered[n - k]


def _agreement(
    found: tuple[Tree, Mapping[str, Tree]], reference: tuple[Tree, Mapping[str, Tree]], *, on_gpu: bool = False
) -> tuple[str, float, bool]:
    """How outputs compare: text, the largest absolute difference, and whether it is within tolerance.

    On a GPU a library chooses other kernels for another number of SMs, TF32 among them, so what rounding explains is
    there what the numerics gate allows.
    """
    import torch

    worst = 0.0
    where = ""
    agrees = True
    for name, tree, expected in [
        ("combined", found[0], reference[0]),
        *((name, found[1][name], reference[1][name]) for name in reference[1]),
    ]:
        leaves, structure = flatten(tree)
        wanted, wanted_structure = flatten(expected)
        if structure != wanted_structure or [t.shape for t in leaves] != [t.shape for t in wanted]:
            return f"{name}: other shapes", math.inf, False
        for leaf, want in zip(leaves, wanted, strict=True):
            gap = _difference(leaf, want)
            relative, absolute = _TOLERANCE.get(str(want.dtype).removeprefix("torch."), (0.0, 0.0))
            if not (
                difference(leaf, want).agrees
                if on_gpu
                else torch.allclose(leaf, want, rtol=relative, atol=absolute, equal_nan=True)
            ):
                agrees = False
            if gap > worst:
                worst, where = gap, name
    if worst == 0.0:
        return "bit-equal", 0.0, True
    return (f"within {worst:.1e}" if agrees else f"DIFFERS by {worst:.1e} ({where})"), worst, agrees


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    import torch

    if a.numel() == 0:
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        return float((a != b).any())
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, torch.zeros_like(a.abs()), (a - b).abs())
    return float(gap.nan_to_num(nan=math.inf, posinf=math.inf).max())


def _silent(done: int, total: int, what: str) -> None:
    """Progress that nobody watches."""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
