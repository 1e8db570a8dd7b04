"""`PlanEditor`: one plan that is edited by hand, shared by every panel and magic of a lab, and what becomes of it.

No lock is held while a search, an apply or a measurement runs. So sliders stay live, and what is moved meanwhile wins:

    1. `propose` remembers the draft that it searches for;
    2. when the search ends, its lanes replace the draft only if that is still the same one;
    3. `apply` takes the draft as it was when called; later moves stay in the draft, not in force.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from esen_lab.common.jobs import JobState
from esen_lab.common.statistics import spread
from esen_lab.common.surroundings import step
from esen_lab.common.units import check_count, format_percent, format_seconds, now
from esen_lab.cost_model import CostModel
from esen_lab.errors import EsenError, UsageError, first_line
from esen_lab.planner import Allocation, Limits, SearchJob, search
from esen_lab.planner.editor.beside import Bench, Lanes, LastRun, Offered, PastPlan
from esen_lab.planner.editor.draft import Draft, DraftLane
from esen_lab.planner.editor.draft_editor import DraftEditor
from esen_lab.planner.editor.editor_state import EditorState, Measurement
from esen_lab.planner.plan import Plan

MOST_PAST = 12
"""So many plans that were in force can be taken again."""
RUN_PAUSE_S = 0.5
"""Views are told of runs no more often."""


class PlanEditor(DraftEditor):
    """A draft of lanes that a search may fill in, and that is put in force, measured, saved and exported.

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
        self._bench = bench
        self._given_facts = dict(facts or {})
        super().__init__(models, units, str(self._facts().get("device", {}).get("unit", "unit")), start)
        self._in_force = start if bench is not None else None
        self._job: SearchJob[Allocation] | None = None
        self._proposal: Allocation | None = None
        self._doing = ""
        self._measured: Measurement | None = None
        self._past: tuple[tuple[int, Plan, float | None], ...] = ()
        self._ran_told_s = 0.0
        if self._in_force is not None:
            self._remember(self._in_force)

    @property
    def moved(self) -> bool:
        """Whether the draft is neither what it began with nor the plan in force."""
        with self._lock:
            return self._history.draft != self._origin and not self._is_in_force()

    @property
    def proposal(self) -> Allocation | None:
        """What the last finished `propose` found, with its history; None before."""
        return self._proposal

    def _facts(self) -> Mapping[str, Any]:
        return self._given_facts if self._bench is None else self._bench.facts()

    def _use(self) -> dict[str, Any]:
        return {
            "can_apply": self._bench is not None,
            "searching": None if self._job is None else self._job.snapshot(),
            "doing": self._doing,
            "measured": self._measured,
        }

    def _begun_anew(self) -> None:
        self._measured = None

    # --- beside the draft ----------------------------------------------------------------------------------------

    def follow(self, plan: Plan | None) -> None:
        """As `DraftEditor.follow`; the plan is remembered, and what the one before it took."""
        if plan is not None and plan is not self._in_force and self._bench is not None:
            self.ran()  # what the plan before it took
            with self._lock:
                self._remember(plan)
        super().follow(plan)

    def ran(self) -> LastRun | None:
        """The last run of the lab, of whatever plan; None where there was none."""
        ran = None if self._bench is None else self._bench.ran()
        if ran is not None:
            with self._lock:
                self._past = tuple(
                    (number, plan, ran.jct_s if _lanes(plan) == ran.lanes else measured_s)
                    for number, plan, measured_s in self._past
                )
        return ran

    def ran_anew(self, *, at_once: bool = False) -> None:
        """The lab has run: views are told, twice a second at most. Costs next to nothing where there are none.

        Args:
            at_once: Tell them in any case: what is offered is new.
        """
        if not self._listeners:
            return
        now = time.monotonic()
        with self._lock:
            soon = not at_once and now - self._ran_told_s < RUN_PAUSE_S
            self._ran_told_s = self._ran_told_s if soon else now
        if not soon:
            self._tell()

    @property
    def past(self) -> tuple[PastPlan, ...]:
        """Plans of the same steps that were in force, the newest first."""
        with self._lock:
            known, in_force = self._past, self._in_force
            steps = set(self._predictions.models)
        return tuple(
            PastPlan(
                number=number,
                lanes=_lanes(plan),
                described=plan.describe(),
                predicted_s=plan.jct_s,
                measured_s=measured_s,
                in_force=in_force is not None and _lanes(plan) == _lanes(in_force),
            )
            for number, plan, measured_s in reversed(known)
            if set(plan.steps) == steps
        )

    def recall(self, number: int) -> EditorState:
        """Make one of `past` the draft. Nothing runs; can be undone.

        Raises:
            UsageError: There is none of that number.
        """
        with self._lock:
            plan = next((plan for known, plan, _ in self._past if known == number), None)
            if plan is None or set(plan.steps) != set(self._predictions.models):
                raise UsageError("A past plan is named by its number", given=number, hint="See `past`.")
            draft = self._predictions.draft_of(plan)
        return self._move(lambda _: draft, f"As it was in force before: {plan.describe()}.")

    @property
    def offered(self) -> tuple[Offered, ...]:
        """The choices of members on the last front that `lab.studies.members` found, by rising JCT."""
        return () if self._bench is None else tuple(self._bench.offered())

    def take(self, number: int) -> None:
        """Put one of `offered` in force: from now on only its members run, and the draft is its plan.

        Raises:
            UsageError: There is none of that number, or something is being applied or measured.
        """
        with self._busy("applying") as bench:
            bench.take(number)

    def _remember(self, plan: Plan) -> None:
        # Called with the lock held: the newest last, each set of lanes once.
        others = [entry for entry in self._past if _lanes(entry[1]) != _lanes(plan)]
        measured_s = next((entry[2] for entry in self._past if _lanes(entry[1]) == _lanes(plan)), plan.measured_s)
        number = max((entry[0] for entry in self._past), default=0) + 1
        self._past = (*others, (number, plan, measured_s))[-MOST_PAST:]

    # --- search --------------------------------------------------------------------------------------------------

    def propose(self, searcher: str = "exact", **options: Any) -> SearchJob[Allocation]:
        """Search for the best lanes, in the background. Returns at once.

        Pinned lanes keep their share and their members; others may join them. When the search ends, its lanes become
        the draft, unless it was cancelled or somebody has moved meanwhile: moves win.

        Args:
            searcher: See `esen_lab.planner.SEARCHERS`.
            **options: The searcher's own.

        Raises:
            UsageError: A search is running.
        """
        with self._lock:
            if self._job is not None:
                raise UsageError(
                    "One search runs at a time", given="a second one", hint="Wait for it, or cancel it first."
                )
            draft, models = self._history.draft, dict(self._predictions.models)
            run = partial(search, models, draft.units, searcher, limits=_limits(draft), **options)
            job = self._job = SearchJob(run, start=False)
            self._say("Searching.")
        job.listen(lambda job: self._heard(job, draft, models))
        self._tell()
        job.start()
        return job

    def _heard(self, job: SearchJob[Allocation], draft: Draft, models: Mapping[str, CostModel]) -> None:
        if not job.state.over:
            self._tell()
            return
        with self._lock:
            if self._job is not job:  # said already
                return
            self._job = None
            self._searched(job, draft, models)
        self._tell()

    def cancel(self) -> None:
        """Stop a running search; the draft stays as it is. Harmless where none runs."""
        with self._lock:
            job = self._job
        if job is not None:
            job.cancel()

    def _searched(self, job: SearchJob[Allocation], draft: Draft, models: Mapping[str, CostModel]) -> None:
        proposal = job.best
        if job.state is JobState.CANCELLED:
            self._say("The search was cancelled; nothing has changed.")
            return
        if job.state is JobState.FAILED or proposal is None:
            self._say(f"The search failed: {job.error}", failed=True)
            return
        self._proposal = proposal
        if not any(lane.pinned for lane in draft.lanes) and not draft.oversubscribe:
            self._predictions.prove(models, proposal.bound_s)
        if draft != self._history.draft:
            jct = format_seconds(proposal.jct_s)
            self._say(f"Found {jct}, but there were moves meanwhile, and they stay. Propose again from here.")
            return
        self._history.move(lambda draft: _proposed(draft, proposal.plan))
        guessed = self._predictions.guessed(self._history.draft, self._unit)
        if guessed:  # what is proven of guesses is no proof
            self._say(
                f"Proposed by {proposal.plan.searcher}, but it rests on shares that were never measured: {guessed}. "
                "Profile these shares, or pin lanes to measured ones and propose again, before you believe it."
            )
            return
        quality = "proven the best" if proposal.proven else f"within {format_percent(proposal.gap)} of the best"
        self._say(f"Proposed by {proposal.plan.searcher}: {quality} under the cost models and pins.")

    # --- use -----------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """The draft as a plan."""
        with self._lock:
            plan = self._predictions.plan(self._history.draft)
        facts = self._facts()
        return plan.with_origin(
            left_out=tuple(name for name in facts.get("fingerprints", ()) if name not in plan.names),
            created_at=now(),
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
                self._say(f"Could not apply {plan.describe()}: {first_line(problem)} {kept}", failed=True)
            raise
        with self._lock:
            self._in_force = plan
            self._remember(plan)
            self._say(f"In force: {plan.describe()}.")
        return plan

    def measure(self, repeats: int = 15) -> Measurement:
        """Run the draft on the example input; it is applied first where it is not in force.

        Args:
            repeats: How many runs count; two more warm up.

        Raises:
            UsageError: There is no device, or something is being applied or measured.
            EsenError: Applying or running failed.
        """
        repeats = check_count(repeats, "A measurement takes two or more runs", least=2)
        with self._busy("measuring") as bench:
            with self._lock:
                plan = self._in_force if self._is_in_force() else None
            if plan is None:
                plan = self._apply(bench)
            try:
                times = list(bench.measure(repeats + 2))[2:]
            except BaseException as problem:
                with self._lock:
                    self._say(f"Could not measure: {first_line(problem)}", failed=True)
                raise
            with self._lock:
                measured = Measurement(
                    median_s=statistics.median(times),
                    spread_s=spread(times),
                    repeats=len(times),
                    predicted_s=plan.jct_s or 0.0,
                    lanes=plan.describe(),
                    far=tuple(bench.far()),
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
                self._say(first_line(problem), failed=True)
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
                given="a plan editor of stored cost models, without a lab",
                hint=f"Save the plan, and load it there: {step('lab.load(path)', '%esen load PATH')}.",
            )
        return self._bench

    @contextmanager
    def _busy(self, what: str) -> Iterator[Bench]:
        bench = self._need_bench("run")
        with self._lock:
            if self._doing:
                raise UsageError("One thing runs at a time", given=f"{what} while {self._doing}", hint="Wait for it.")
            self._doing = what
            self._say("")
        try:
            self._tell()
            yield bench
        finally:
            with self._lock:
                self._doing = ""
            self._tell()


def _limits(draft: Draft) -> Limits:
    pinned = [lane for lane in draft.lanes if lane.pinned]
    return Limits(
        pinned={name: lane.units for lane in pinned for name in lane.members},
        together=[lane.members for lane in pinned if len(lane.members) > 1],
        apart=[[lane.members[0] for lane in pinned]],  # two of one share stay two
        oversubscription=max(1.0, draft.total_units / draft.units) if draft.oversubscribe else 1.0,
    )


def _proposed(draft: Draft, plan: Plan) -> Draft:
    held = {name for lane in draft.lanes if lane.pinned for name in lane.members}
    lanes = tuple(
        DraftLane(units=lane.units, members=lane.members, pinned=not held.isdisjoint(lane.members))
        for lane in plan.lanes
    )
    return replace(draft, lanes=lanes)


def _lanes(plan: Plan) -> Lanes:
    return tuple((lane.units, lane.members) for lane in plan.lanes)
