"""Comparing: same input, same rounds, same outputs.

Every strategy's lanes are started first and stay warm; then each round runs every strategy once, in an order drawn
anew, so that a machine that slows down slows all of them. Ratios are taken within rounds and their median reported.
Where a device serves fewer lanes than all strategies have, they are compared in groups, the plan in each.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

from esen_lab.common.inputs import as_input
from esen_lab.common.trees import Tree
from esen_lab.common.units import format_units
from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble
from esen_lab.errors import EsenError
from esen_lab.lanes import ForkServer
from esen_lab.lanes.openmp import CallersThreads
from esen_lab.planner.plan import Plan
from esen_lab.run.classified import check_labels, classes_among, right_class, same_class
from esen_lab.run.comparison import CHOSEN, Comparison, Row
from esen_lab.run.entries import Entries, Way, Why, check_asked, entries_of
from esen_lab.run.executor import Executor
from esen_lab.run.fidelity import own_answers
from esen_lab.run.in_pairs import rested
from esen_lab.run.outcome import MemberRun
from esen_lab.run.peer_start import PeerStart
from esen_lab.run.peers import peer_of
from esen_lab.run.start import GivenUp, silent
from esen_lab.run.verdict import Agreement, Times, agreement, beside_notebook, failed_row, of_cascade, row_of, verdict

_LEAST_ROUNDS = 5
INTERRUPTED = "Interrupted"


def compare(
    x: Tree,
    plan: Plan,
    ensemble: Ensemble,
    device: Device,
    fork_server: ForkServer,
    *,
    rounds: int = 20,
    strategies: Sequence[str] | None = None,
    peers: Sequence[str] = (),
    prepare_s: float | None = None,
    plans: Mapping[str, Plan] | None = None,
    ways: Mapping[str, Way] | None = None,
    labels: Sequence[int] | None = None,
    budget_s: float = 120.0,
    seed: int = 0,
    chosen: Executor | None = None,
    on_progress: Callable[[int, int, str], object] | None = None,
) -> Comparison:
    """Run `plan`, the baselines and the peers on the same input in the same rounds.

    Args:
        x: The input.
        plan: The chosen plan.
        ensemble: Its sub-models.
        device: Where it runs.
        fork_server: Starts the workers.
        rounds: How many rounds, at least 1.
        strategies: Baselines and peers by name (see `STRATEGIES` and `PEERS`), with "@bf16" after that of a peer that
            may compute in bfloat16; None: all baselines. "sequential" is always run: it is the reference.
        peers: Further peers by name, each only where it is prepared in time.
        prepare_s: How long preparing these may take in all, in seconds; None: as long as it takes.
        plans: Further plans to compare with, by names of your own.
        ways: Functions to compare with, by names of your own: each is called in this process with the input, and gives
            the ensemble's answer.
        labels: The right class of each row, where the answer's accuracy is wanted.
        budget_s: After this many seconds no further round starts (at least 5 do).
        seed: Of the order within rounds.
        chosen: An executor that already runs `plan`; it is used and left running.
        on_progress: Called with (done, all, what is going on).

    Ctrl-C after the first round ends the rounds: those that are whole are the comparison, and a note says so.

    Raises:
        UsageError: A strategy is unknown, a plan or function has the name of one, or `rounds` is not positive.
        EsenError: The plan itself, or the sequential reference, could not be run.
    """
    plans, ways = plans or {}, ways or {}
    entries = entries_of(check_asked(rounds, strategies, peers, plans, ways), plans, ways, ensemble, device)
    groups = _groups({name: len(own[0].lanes) for name, own in entries.plans.items()}, len(plan.lanes), device)

    def start(asked: Plan, given_up: GivenUp | None = None) -> Executor:
        return Executor.start(asked, ensemble, device, fork_server, given_up=given_up)

    soon = set(peers) - set(strategies or ())
    side = _SideBySide(
        start,
        PeerStart(start, x, soon, prepare_s),
        {**entries.plans, CHOSEN: (plan,)},
        x,
        chosen,
        own_answers(ensemble, as_input(x), fork_server, anew=True),
        labels,
    )
    tell = on_progress or silent
    total = len(entries.plans) + 1
    with ensemble.combine.kept(), chosen.measuring() if chosen is not None else nullcontext():
        try:
            for number, group in enumerate(groups):
                entries.failed.update(side.start(group, lambda told: tell(side.started, total, told)))
                entries.failed.update(side.call(entries.ways) if number == 0 else {})
                side.measure(rounds, budget_s / len(groups), seed + number, tell)
                side.close(group)
                if side.interrupted:
                    break
            batch = side.running[CHOSEN].run(x).report.batch
        finally:
            side.close(list(side.running))
    return _comparison(plan, entries, side, batch, device)


def _comparison(plan: Plan, entries: Entries, side: _SideBySide, batch: str, device: Device) -> Comparison:
    notes = [*side.notes]
    as_profiled = not plan.example or plan.example == batch
    bound_s = plan.bound_s if as_profiled else None
    if plan.bound_s is not None and bound_s is None:
        notes.append(f"The bound is for {plan.example}; this batch is {batch}, so no ratio to it is given.")
    if len(side.measured) > 1:
        count = len(side.measured)
        notes.append(f"Compared in {count} groups, the plan in each: the device serves no more lanes at a time.")
    rows = [_row(name, entries, side, bound_s) for name in entries.order]
    return Comparison(
        rows=tuple(rows),
        rounds=min(len(times[CHOSEN]) for times in side.measured),
        verdict=verdict(rows, side.measured, plan, entries.plans["sequential"][0], own=entries.ways),
        bound_s=bound_s,
        batch=batch,
        device=device.identity.name,
        predicted_s=plan.jct_s if as_profiled else None,
        unmeasured=plan.unmeasured,
        notes=(*(device.notes if device.identity.simulated else ()), *side.far, *dict.fromkeys(notes)),
        plans={
            row.strategy: replace(ran_by, measured_s=row.median_s)
            for row in rows
            if row.times_s and (ran_by := side.ran[row.strategy].plan) is not None
        },
    )


def _row(name: str, entries: Entries, side: _SideBySide, bound_s: float | None) -> Row:
    ran = side.ran.get(name)
    if ran is None:
        missed = "the comparison was interrupted before it ran" if side.interrupted else "it did not start"
        why = entries.failed.get(name, Why(words=missed, applicable=True))
        return failed_row(name, why.words, applicable=why.applicable)
    agreed = side.agreement[name]
    more = {"setting": ran.setting, "fallen_back": ran.fallen_back}
    return row_of(name, ran.lanes, side.measured, agreed, bound_s, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ran:
    """How a strategy ran: see `Row`; by which plan, unless it is a function of the user's own."""

    lanes: str
    plan: Plan | None = None
    setting: str = ""
    fallen_back: Mapping[str, str] = field(default_factory=dict)


class _SideBySide:
    """The executors that are warm at present, and what is known of all that were.

    Args:
        start: Starts the lanes of a plan.
        start_peer: Starts a peer.
        plans: What is compared, by name; of a peer a plan for each setting.
        x: The input.
        chosen: The chosen plan's executor, where it runs already; it is left running.
        own: What the notebook's own process answers, by sub-model.
        labels: The right class of each row, or None.

    Attributes:
        running: The warm executors by name.
        started: How many were started.
        ran: How each of those runs whose answers were looked at.
        agreement: How the answers of each compare with the reference.
        measured: The times of each group.
        interrupted: Whether Ctrl-C ended the rounds: what was measured until then counts, and no more is started.
        far: What is to be said of the chosen plan's rounds where they are far from its prediction.
        notes: What else the reader should know, each once.
    """

    def __init__(
        self,
        start: Callable[[Plan], Executor],
        start_peer: PeerStart,
        plans: Mapping[str, tuple[Plan, ...]],
        x: Tree,
        chosen: Executor | None,
        own: Mapping[str, Tree],
        labels: Sequence[int] | None,
    ) -> None:
        self._start = start
        self._start_peer = start_peer
        self._plans = plans
        self._x = x
        self._chosen = chosen
        self._own = own
        self._labels = labels
        self._threads = CallersThreads()
        self._reference: MemberRun | None = None
        self._ways: dict[str, Way] = {}
        self.running = {} if chosen is None else {CHOSEN: chosen}
        self.started = 0
        self.ran: dict[str, _Ran] = {}
        self.agreement: dict[str, Agreement] = {}
        self.measured: list[Times] = []
        self.far: tuple[str, ...] = ()
        self.interrupted = False
        self.notes: dict[str, None] = {}

    def start(self, group: Sequence[str], tell: Callable[[str], object]) -> dict[str, Why]:
        """Start a group, and the plan if it doesn't run, and check their answers. Returns why some did not start."""
        failed: dict[str, Why] = {}
        settings: dict[str, str] = {}
        for name in group if CHOSEN in self.running else (*group, CHOSEN):
            tell(f"{'preparing' if peer_of(name) else 'starting'} {name}")
            self.started += 1
            try:
                if peer_of(name):
                    self.running[name], settings[name] = self._start_peer(name, self._plans[name])
                else:
                    self.running[name] = self._start(self._plans[name][0])
            except EsenError as problem:
                if name in (CHOSEN, "sequential"):
                    raise
                failed[name] = Why.of(name, problem)
        if self._reference is None:
            self._reference = self.running["sequential"].run_members(self._x, combined=True)
            check_labels(self._labels or (), classes_among(self._reference.output))
        for name, executor in self.running.items():
            if name not in self.agreement:
                self.agreement[name] = self._agreement(executor, self._reference)
                fallen_back = dict(executor.history.fallen_back)
                self.ran[name] = _Ran(
                    lanes=executor.plan.describe(),
                    plan=executor.plan.with_backends(dict.fromkeys(fallen_back, "eager")),
                    setting=settings.get(name, ""),
                    fallen_back=fallen_back,
                )
        return failed

    def _agreement(self, executor: Executor, reference: MemberRun) -> Agreement:
        run = executor.run_members(self._x, combined=True)
        staged = executor.plan.staged
        # Members of a plan in stages were asked for every row; what it answers when it is run is looked at apart.
        output = executor.run(self._x).output if staged else run.output
        found = self._judged(executor, run, reference)
        with self._threads.alone():
            if staged:
                found = of_cascade(found, same_class(output, reference.output))
            return replace(found, accuracy=right_class(output, self._labels))

    def _judged(self, executor: Executor, run: MemberRun, reference: MemberRun) -> Agreement:
        with self._threads.alone():
            among_lanes = agreement(run, reference, executor.fidelity.allowed)
            self.notes.update(dict.fromkeys(among_lanes.unjudged))
            # One batched call may answer otherwise for reasons of its own.
            if any(lane.mode == "vmap" for lane in executor.plan.lanes):
                return among_lanes
            x = as_input(self._x)
            others = executor.fidelity.unlike_to(self._own, run.members, executor.ensemble, x)
        self.notes.update((str(item), None) for item in others.values())
        return beside_notebook(among_lanes, others)

    def call(self, ways: Mapping[str, Way]) -> dict[str, Why]:
        """Call the user's own functions once and check their answers; they take part from now on, but who raised."""
        failed: dict[str, Why] = {}
        reference = self._reference
        assert reference is not None
        for name, way in ways.items():
            try:
                answer = as_input(way(self._x))
            except Exception as problem:
                failed[name] = Why(words=f"{type(problem).__name__}: {problem}", applicable=True)
                continue
            combined = MemberRun(output=reference.output, members={})
            allowed = self.running["sequential"].fidelity.allowed
            with self._threads.alone():
                found = agreement(MemberRun(output=answer, members={}), combined, allowed)
                self.agreement[name] = replace(found, accuracy=right_class(answer, self._labels))
            self.ran[name] = _Ran(lanes="a function of yours")
            self._ways[name] = way
        return failed

    def measure(self, rounds: int, budget_s: float, seed: int, tell: Callable[[int, int, str], object]) -> None:
        """Time what runs, in rounds."""
        chosen = self.running[CHOSEN]
        _ = chosen.history.load  # counted from here on
        clocks = {name: _of_lanes(executor) for name, executor in self.running.items()}
        clocks |= {name: _of_function(way) for name, way in self._ways.items()}
        pids = [pid for executor in self.running.values() for pid in executor.pids]
        times, stopped = _rounds(clocks, pids, self._x, rounds, budget_s, seed, tell)
        self._ways.clear()  # in one group alone
        self.measured.append(times)
        self.notes.update({stopped: None} if stopped else {})
        self.interrupted = stopped.startswith(INTERRUPTED)
        if not self.far:
            report = chosen.run(self._x).report
            if report.predicted_s is not None and not chosen.plan.staged:  # else for another batch, or for any rows
                jcts_s = tuple(times[CHOSEN])
                self.far = chosen.history.far_off(report, chosen.plan, jcts_s, chosen.history.load)
        for name, executor in self.running.items():
            if name != CHOSEN:  # its own report says it of the plan
                self.notes.update((f"{name}: {told}.", None) for told in _eagerly(executor.history.fallen_back))

    def close(self, names: Sequence[str]) -> None:
        """End the lanes of these, where they run and are ours."""
        for name in names:
            executor = self.running.get(name)
            if executor is not None and executor is not self._chosen:
                del self.running[name]
                executor.close()


def _groups(lanes: Mapping[str, int], of_plan: int, device: Device) -> list[list[str]]:
    """Which strategies run in the same rounds: all, or as many as the device has lanes for beside those of the plan."""
    most = math.inf if device.most_lanes is None else device.most_lanes
    groups: list[list[str]] = []
    left = 0.0
    for name, count in lanes.items():
        if not groups or count > left:
            groups.append([])
            left = most - of_plan
        groups[-1].append(name)
        left -= count
    return groups


def _eagerly(fallen_back: Mapping[str, str]) -> list[str]:
    """For each reason who is executed eagerly because of it, in words."""
    members: dict[str, list[str]] = {}
    for name, why in fallen_back.items():
        members.setdefault(why.partition("): ")[2].rpartition("Given: ")[2].rstrip(".") or why, []).append(name)
    return [f"eagerly: {', '.join(names)} ({why})" for why, names in members.items()]


def _of_lanes(executor: Executor) -> Callable[[Tree], float]:
    """Runs lanes, and gives the JCT in seconds."""
    return lambda x: executor.run(x).report.jct_s


def _of_function(way: Way) -> Callable[[Tree], float]:
    """Calls a function, and gives the time until it returned in seconds."""

    def timed(x: Tree) -> float:
        began = time.perf_counter()
        way(x)
        return time.perf_counter() - began

    return timed


def _rounds(
    clocks: Mapping[str, Callable[[Tree], float]],
    pids: Sequence[int],
    x: Tree,
    rounds: int,
    budget_s: float,
    seed: int,
    tell: Callable[[int, int, str], object],
) -> tuple[Times, str]:
    """The times of all rounds, and why they are fewer, or ""."""
    order = list(clocks)
    shuffle = random.Random(seed)  # noqa: S311  an order, not a secret
    times: dict[str, list[float]] = {name: [] for name in order}
    started = time.monotonic()
    for done in range(rounds):
        if done >= _LEAST_ROUNDS and time.monotonic() - started > budget_s:
            return times, f"Stopped after {done} of {rounds} rounds: the time budget of {budget_s:g} s ended."
        try:
            tell(done, rounds, f"round {done + 1} of {rounds}")
            shuffle.shuffle(order)
            for name in order:
                times[name].append(rested(partial(clocks[name], x), pids))
        except KeyboardInterrupt:
            if not done:
                raise
            whole = {name: own[:done] for name, own in times.items()}  # ratios are taken within rounds
            return whole, f"{INTERRUPTED} after {format_units(done, 'round')} of {rounds}: the comparison is of these."
    tell(rounds, rounds, "done")
    return times, ""
