"""`Tuning`: one plan that is tuned by hand, shared by every panel and magic of a lab. Safe from any thread.

The lock is held for a move (well under a millisecond) and never while a search, an apply or a measurement runs, nor
while listeners are told. So sliders stay live, and what is moved meanwhile wins:

    1. `propose` remembers the draft that it searches for;
    2. when the search ends, its lanes replace the draft only if that is still the same one;
    3. `apply` takes the draft as it was when called; later moves stay in the draft, not in force.
"""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from esen_lab.errors import Cancelled, EsenError, UsageError
from esen_lab.fitting import CostModel
from esen_lab.planning import Lane, Plan
from esen_lab.search import Allocation, Limits, SearchJob, search
from esen_lab.showing import Shown
from esen_lab.tuning import moves
from esen_lab.tuning.draft import Draft, DraftLane, LaneKey, bound_for, forecast
from esen_lab.tuning.state import Measured, TunedLane, TuningState
from esen_lab.units import format_seconds, format_units

HISTORY = 200  # moves that can be taken back


class Bench(Protocol):
    """Where a tuned plan is put to use. Its methods may take seconds; they are called without any lock held."""

    def in_force(self) -> Plan | None:
        """The plan in force."""

    def facts(self) -> Mapping[str, Any]:
        """What a plan says of its making: `device`, `fingerprints`, `example`, `combine`."""

    def apply(self, plan: Plan) -> None:
        """Put the plan in force and have its lanes running.

        Raises:
            EsenError: It could not; the plan before it is in force still.
        """

    def measure(self, repeats: int) -> Sequence[float]:
        """The JCT of each of so many runs of the plan in force, in seconds."""

    def export(self, plan: Plan, path: str | os.PathLike[str]) -> Any:
        """Write the plan as a script."""


class Tuning(Shown):
    """A draft of lanes and what can be done with it.

    Args:
        models: The cost models of all sub-models, as `fit` returns them.
        units: Units of the device.
        start: The plan to begin with; None: everything in one lane.
        bench: Where plans run; None for planning without a device.
        facts: What a saved plan says of its making, where there is no bench: `device`, ...
    """

    def __init__(
        self,
        models: Mapping[str, CostModel],
        units: int,
        *,
        start: Plan | None = None,
        bench: Bench | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._bench = bench
        self._given_facts = dict(facts or {})
        self._unit = str(self._facts().get("device", {}).get("unit", "unit"))
        self._units = units
        self._listeners: list[Callable[[TuningState], None]] = []
        self._revision = 0
        self._past: list[Draft] = []
        self._future: list[Draft] = []
        self._gesture: object = None
        self._job: SearchJob[Allocation] | None = None
        self._doing = ""
        self._measured: Measured | None = None
        self._found: Allocation | None = None
        self._message = ""
        self._failed = False
        self._take_models(models)
        self._in_force = start if bench is not None else None
        self._origin = self._draft_of(start)
        self._draft = self._origin

    def _take_models(self, models: Mapping[str, CostModel]) -> None:
        short = [name for name, model in models.items() if model.units < self._units]
        if not models or short:
            raise UsageError(
                f"Tuning needs cost models that predict up to {self._units} units",
                given=f"{models[short[0]].units} for {short[0]!r}" if short else "none",
                hint="Profile first, and fit up to the device's units.",
            )
        self._models = dict(models)
        self._tables = {name: model.latency_s[: self._units] for name, model in models.items()}
        self._bounds: dict[int, float] = {}
        self._proven_s = 0.0

    def _draft_of(self, plan: Plan | None) -> Draft:
        names = set(self._models)
        if plan is None or set(plan.names) != names or plan.units > self._units:
            whole = DraftLane(units=self._units, members=tuple(self._models))
            return Draft(lanes=(whole,), units=self._units)
        lanes = tuple(DraftLane(units=lane.units, members=lane.members) for lane in plan.lanes)
        return Draft(lanes=lanes, units=self._units, oversubscribe=plan.oversubscribed)

    # --- look ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> TuningState:
        """All there is to show now."""
        with self._lock:
            return self._state()

    @property
    def models(self) -> Mapping[str, CostModel]:
        """The cost models that predictions come from."""
        return dict(self._models)

    @property
    def found(self) -> Allocation | None:
        """What the last finished `propose` found, with its history; None before."""
        return self._found

    def _state(self) -> TuningState:
        draft = self._draft
        seen = forecast(draft, self._tables, self._bound_s(draft))
        lanes = tuple(
            TunedLane(
                units=lane.units,
                members=lane.members,
                pinned=lane.pinned,
                predicted_s=seconds,
                member_s=tuple(self._tables[name][lane.units - 1] for name in lane.members),
            )
            for lane, seconds in zip(draft.lanes, seen.lane_s, strict=True)
        )
        job = self._job
        wrong = self._wrong(draft)
        return TuningState(
            revision=self._revision,
            lanes=lanes,
            units=draft.units,
            unit=self._unit,
            oversubscribe=draft.oversubscribe,
            jct_s=seen.jct_s,
            bound_s=seen.bound_s,
            gap=seen.gap,
            limiting=seen.limiting,
            in_force=self._is_in_force(),
            can_apply=self._bench is not None,
            can_undo=bool(self._past),
            can_redo=bool(self._future),
            searching=None if job is None else job.snapshot(),
            doing=self._doing,
            measured=self._measured,
            message=" ".join(filter(None, (wrong, self._message))),
            failed=self._failed or bool(wrong),
        )

    def _wrong(self, draft: Draft) -> str:
        """Which lanes have a share at which answers were wrong, or ""."""
        found = [
            f"{name} with {format_units(lane.units, self._unit)}"
            for lane in draft.lanes
            for name in lane.members
            if lane.units in self._models[name].avoid
        ]
        return f"WRONG ANSWERS were found for {', '.join(found)}: give it another share." if found else ""

    def _bound_s(self, draft: Draft) -> float:
        total = max(draft.total_units, draft.units)
        if total not in self._bounds:
            self._bounds[total] = bound_for(self._tables, draft.units, total)
        return max(self._bounds[total], self._proven_s if total == draft.units else 0.0)

    def _is_in_force(self) -> bool:
        plan = self._in_force
        if plan is None:
            return False
        ours = tuple((lane.units, lane.members) for lane in self._draft.lanes)
        return ours == tuple((lane.units, lane.members) for lane in plan.lanes)

    def _facts(self) -> Mapping[str, Any]:
        return self._given_facts if self._bench is None else self._bench.facts()

    def listen(self, told: Callable[[TuningState], None]) -> Callable[[], None]:
        """Call `told` with the state after every change, from the thread that changed it; a newer state may overtake.

        A listener that raises is not called again; the state's message says so.

        Returns:
            Call it to stop listening.
        """
        with self._lock:
            self._listeners.append(told)

        def stop() -> None:
            with self._lock, suppress(ValueError):
                self._listeners.remove(told)

        return stop

    def _tell(self) -> TuningState:
        with self._lock:
            self._revision += 1
            state = self._state()
            listeners = list(self._listeners)
        for told in listeners:
            try:
                told(state)
            except Exception as problem:  # a broken view must not undo a move, nor silence the other views
                with self._lock, suppress(ValueError):
                    self._listeners.remove(told)
                    self._message = f"A view of this tuning stopped: {type(problem).__name__}: {problem}"
        return state

    # --- move ----------------------------------------------------------------------------------------------------

    def share(
        self,
        shares: Mapping[LaneKey, int] | None = None,
        *,
        pin: Iterable[LaneKey] = (),
        unpin: Iterable[LaneKey] = (),
        gesture: object = None,
    ) -> TuningState:
        """Set lanes' shares, fix (`pin`) or free (`unpin`) some. Lanes are named by a sub-model or a number from 1.

        Where room is needed or becomes free, unpinned lanes give and take: see `esen_lab.tuning.moves`.

        Args:
            shares: Units by lane.
            pin: Lanes whose share the search and other moves must keep.
            unpin: Lanes whose share is free again.
            gesture: Moves with the same gesture in a row are one step of undo, and each starts from where the first
                one started: a slider that is dragged forth and back changes nothing.

        Raises:
            UsageError: An unknown lane, a share outside of the device, or no room. Nothing has changed.
        """
        pin, unpin = tuple(pin), tuple(unpin)
        given = dict(shares or {})
        return self._move(lambda d: moves.set_shares(d, self._tables, given, pin=pin, unpin=unpin), gesture=gesture)

    def pin(self, *lanes: LaneKey) -> TuningState:
        """Fix the shares of lanes."""
        return self.share(pin=lanes)

    def unpin(self, *lanes: LaneKey) -> TuningState:
        """Free the shares of lanes."""
        return self.share(unpin=lanes)

    def move(self, name: str, to: LaneKey | None = None) -> TuningState:
        """Put a sub-model into the lane `to`; None: into a lane of its own."""
        return self._move(lambda draft: moves.move_member(draft, self._tables, name, to))

    def split(self, *members: str) -> TuningState:
        """Give these sub-models, all of one lane, a lane of their own."""
        return self._move(lambda draft: moves.split(draft, self._tables, members))

    def merge(self, *lanes: LaneKey) -> TuningState:
        """Make one lane of several."""
        return self._move(lambda draft: moves.merge(draft, self._tables, lanes))

    def oversubscribe(self, allowed: bool = True) -> TuningState:
        """Whether shares may sum to more than the device."""
        return self._move(lambda draft: moves.allow_oversubscription(draft, self._tables, allowed))

    def reset(self) -> TuningState:
        """Back to the plan in force, or to one lane where there is none. Can be undone."""
        with self._lock:
            start = self._draft_of(self._in_force) if self._in_force is not None else self._origin
        return self._move(lambda _: start, "Reset.")

    def undo(self) -> TuningState:
        """Take the last move back.

        Raises:
            UsageError: There is none.
        """
        return self._step(self._past, self._future, "undo")

    def redo(self) -> TuningState:
        """Make the move again that was taken back last.

        Raises:
            UsageError: There is none.
        """
        return self._step(self._future, self._past, "redo")

    def _step(self, source: list[Draft], other: list[Draft], what: str) -> TuningState:
        with self._lock:
            if not source:
                raise UsageError(f"There is nothing to {what}", hint="Move a share first.")
            other.append(self._draft)
            self._draft = source.pop()
            self._say("")
        return self._tell()

    def _move(self, change: Callable[[Draft], Draft], message: str = "", *, gesture: object = None) -> TuningState:
        with self._lock:
            goes_on = gesture is not None and gesture == self._gesture and bool(self._past)
            base = self._past[-1] if goes_on else self._draft
            moved = change(base)
            if not goes_on and moved != base:
                self._past = [*self._past, base][-HISTORY:]
            if moved != self._draft:
                self._future.clear()
            self._draft = moved
            self._say(message)
            # A move that changed nothing begins no gesture: there is no step of undo that it could go on with.
            self._gesture = gesture if goes_on or moved != base else None
        return self._tell()

    def _say(self, message: str, *, failed: bool = False) -> None:
        self._message, self._failed, self._gesture = message, failed, None

    # --- follow the lab ------------------------------------------------------------------------------------------

    def renew(self, models: Mapping[str, CostModel]) -> None:
        """Predict from newer cost models; with other sub-models, begin anew."""
        with self._lock:
            if dict(models) == self._models:
                return
            same = set(models) == set(self._models)
            self._take_models(models)
            if not same:
                self._past.clear()
                self._future.clear()
                self._measured = None
                self._origin = self._draft = self._draft_of(self._in_force)
            self._say("The cost models are new." if same else "The sub-models are others: begun anew.")
        self._tell()

    def follow(self, plan: Plan) -> None:
        """Another plan is in force now. The draft follows, unless somebody has moved it away from the old plan."""
        with self._lock:
            if plan is self._in_force:
                return
            moved = self._draft != self._origin and not self._is_in_force()
            self._in_force = plan
            if not moved and set(plan.names) == set(self._models) and not self._is_in_force():
                self._past = [*self._past, self._draft][-HISTORY:]
                self._future.clear()
                self._origin = self._draft = self._draft_of(plan)
                self._gesture = None
        self._tell()

    def proved(self, models: Mapping[str, CostModel], bound_s: float) -> None:
        """A search of all plans of one device's units proved that none is faster; it counts if it had these models.

        Args:
            models: What it planned with.
            bound_s: What it proved, in seconds.
        """
        with self._lock:
            news = self._take_proof(models, bound_s)
        if news:
            self._tell()

    def _take_proof(self, models: Mapping[str, CostModel], bound_s: float) -> bool:
        # What is proven for plans that keep off some shares does not hold for a draft that need not.
        holds = dict(models) == self._models and not any(model.avoid for model in models.values())
        if not holds or bound_s <= self._proven_s:
            return False
        self._proven_s = bound_s
        return True

    # --- search --------------------------------------------------------------------------------------------------

    def propose(self, searcher: str = "exact", **options: Any) -> SearchJob[Allocation]:
        """Search for the best lanes, in the background. Returns at once.

        Pinned lanes keep their share and their members; others may join them. When the search ends, its lanes become
        the draft, unless it was cancelled or somebody has moved meanwhile: moves win.

        Args:
            searcher: See `esen_lab.search.SEARCHERS`.
            **options: The searcher's own.

        Raises:
            UsageError: A search is running.
        """
        started = threading.Event()
        with self._lock:
            if self._job is not None:
                raise UsageError(
                    "One search runs at a time", given="a second one", hint="Wait for it, or cancel it first."
                )
            draft, models = self._draft, dict(self._models)
            limits = _limits(draft)

            def run(*, on_progress: Any, stop: threading.Event, **_: Any) -> Allocation:
                started.wait()

                def seen(progress: Any) -> None:
                    on_progress(progress)
                    self._tell()

                try:
                    found = search(models, draft.units, searcher, limits=limits, on_progress=seen, stop=stop, **options)
                except BaseException as problem:
                    self._searched(draft, models, None, problem)
                    raise
                self._searched(draft, models, found, Cancelled("cancelled") if stop.is_set() else None)
                return found

            job = self._job = SearchJob(run)
            self._say("Searching.")
        self._tell()
        started.set()
        return job

    def cancel(self) -> None:
        """Stop a running search; the draft stays as it is. Harmless where none runs."""
        with self._lock:
            job = self._job
        if job is not None:
            job.cancel()

    def _searched(
        self,
        draft: Draft,
        models: Mapping[str, CostModel],
        found: Allocation | None,
        problem: BaseException | None,
    ) -> None:
        with self._lock:
            self._job = None
            if isinstance(problem, Cancelled):
                self._say("The search was cancelled; nothing has changed.")
            elif problem is not None or found is None:
                self._say(f"The search failed: {problem}", failed=True)
            else:
                self._found = found
                if not any(lane.pinned for lane in draft.lanes) and not draft.oversubscribe:
                    self._take_proof(models, found.bound_s)
                if draft != self._draft:
                    jct = format_seconds(found.jct_s)
                    self._say(f"Found {jct}, but there were moves meanwhile, and they stay. Propose again from here.")
                else:
                    proposed = _proposed(draft, found)
                    if proposed != draft:
                        self._past = [*self._past, draft][-HISTORY:]
                        self._future.clear()
                    self._draft = proposed
                    what = "proven the best" if found.proven else f"within {100 * found.gap:.1f} % of the best"
                    self._say(f"Proposed by {found.searcher}: {what} under the cost models and pins.")
        self._tell()

    # --- use -----------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """The draft as a plan."""
        with self._lock:
            draft, models = self._draft, self._models
            seen = forecast(draft, self._tables, self._bound_s(draft))
        lanes = tuple(
            Lane(
                units=lane.units,
                members=lane.members,
                active_units=tuple(models[name].active_units[lane.units - 1] for name in lane.members),
                mechanisms=tuple(models[name].mechanism for name in lane.members),
            )
            for lane in draft.lanes
        )
        facts = self._facts()
        left_out = tuple(name for name in facts.get("fingerprints", ()) if name not in models)
        return Plan(
            lanes=lanes,
            left_out=left_out,
            units=draft.units,
            searcher="by hand",
            jct_s=seen.jct_s,
            bound_s=seen.bound_s,
            predicted_s={name: models[name].latency_s[lane.units - 1] for lane in lanes for name in lane.members},
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            **facts,
        )

    def apply(self) -> Plan:
        """Put the draft in force: its lanes start, then the old ones end. Returns when they run.

        Raises:
            UsageError: There is no device, or something is being applied or measured.
            EsenError: The lanes could not start. The plan before it stays in force; the message says so.
        """
        with self._busy("applying") as bench:
            return self._apply(bench)

    def _apply(self, bench: Bench) -> Plan:
        plan = self.plan()
        try:
            bench.apply(plan)
        except BaseException as problem:
            before = bench.in_force()
            with self._lock:
                self._in_force = before
                kept = "No plan is in force." if before is None else f"In force stays {before.describe()}."
                self._say(f"Could not apply {plan.describe()}: {_first_line(problem)} {kept}", failed=True)
            raise
        with self._lock:
            self._in_force = plan
            self._say(f"In force: {plan.describe()}.")
        return plan

    def measure(self, repeats: int = 15) -> Measured:
        """Run the draft on the example input; it is applied first where it is not in force.

        Args:
            repeats: How many runs count; two more warm up.

        Raises:
            UsageError: There is no device, or something is being applied or measured.
            EsenError: Applying or running failed.
        """
        if repeats < 2:
            raise UsageError("A measurement takes two or more runs", given=repeats)
        with self._busy("measuring") as bench:
            with self._lock:
                plan = self._in_force if self._is_in_force() else None
            if plan is None:
                plan = self._apply(bench)
            try:
                times = list(bench.measure(repeats + 2))[2:]
            except BaseException as problem:
                with self._lock:
                    self._say(f"Could not measure: {_first_line(problem)}", failed=True)
                raise
            quarters = statistics.quantiles(times, n=4, method="inclusive")
            with self._lock:
                measured = Measured(
                    median_s=statistics.median(times),
                    spread_s=quarters[2] - quarters[0],
                    repeats=len(times),
                    predicted_s=plan.jct_s or 0.0,
                    lanes=plan.describe(),
                )
                self._measured = measured
                self._say("")
        return measured

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the draft as a plan's JSON, whether it is in force or not.

        Raises:
            StoreError: The file cannot be written.
        """
        saved: Path = self._report(lambda: self.plan().save(path), "Saved to")
        return saved

    def export(self, path: str | os.PathLike[str]) -> Any:
        """Write the draft as a script, whether it is in force or not.

        Raises:
            UsageError: There is no lab, or a sub-model cannot be rebuilt from what may be saved.
            StoreError: The files cannot be written.
        """
        bench = self._need_bench("exported")
        return self._report(lambda: bench.export(self.plan(), path), "Exported to", str(path))

    def _report(self, act: Callable[[], Any], words: str, where: str = "") -> Any:
        try:
            made = act()
        except EsenError as problem:
            with self._lock:
                self._say(_first_line(problem), failed=True)
            self._tell()
            raise
        with self._lock:
            self._say(f"{words} {where or made}.")
        self._tell()
        return made

    def _need_bench(self, what: str) -> Bench:
        if self._bench is None:
            raise UsageError(
                f"A plan is {what} by a lab on its device",
                given="a tuning of stored cost models, without a lab",
                hint="Save the plan, and load it there: lab.load(path).",
            )
        return self._bench

    def _busy(self, what: str) -> _Busy:
        return _Busy(self, what, self._need_bench("run"))

    def _begin(self, what: str) -> None:
        with self._lock:
            if self._doing:
                raise UsageError("One thing runs at a time", given=f"{what} while {self._doing}", hint="Wait for it.")
            self._doing = what
            self._say("")
        self._tell()

    def _end(self) -> None:
        with self._lock:
            self._doing = ""
        self._tell()

    def __repr__(self) -> str:
        state = self.state
        return f"<Tuning {state.describe()}, predicted {format_seconds(state.jct_s)}>"


class _Busy:
    """The time during which a tuning applies or measures."""

    def __init__(self, tuning: Tuning, what: str, bench: Bench) -> None:
        self._tuning, self._what, self._bench = tuning, what, bench

    def __enter__(self) -> Bench:
        self._tuning._begin(self._what)
        return self._bench

    def __exit__(self, *_: object) -> None:
        self._tuning._end()


def _limits(draft: Draft) -> Limits:
    pinned = [lane for lane in draft.lanes if lane.pinned]
    return Limits(
        pinned={name: lane.units for lane in pinned for name in lane.members},
        together=[lane.members for lane in pinned if len(lane.members) > 1],
        oversubscription=max(1.0, draft.total_units / draft.units) if draft.oversubscribe else 1.0,
    )


def _proposed(draft: Draft, found: Allocation) -> Draft:
    held = {name for lane in draft.lanes if lane.pinned for name in lane.members}
    lanes = tuple(
        DraftLane(units=units, members=tuple(names), pinned=any(name in held for name in names))
        for units, names in found.lanes
    )
    return replace(draft, lanes=lanes)


def _first_line(problem: BaseException) -> str:
    lines = str(problem).splitlines() or [type(problem).__name__]
    return lines[0]
