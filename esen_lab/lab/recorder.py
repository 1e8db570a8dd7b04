"""What goes into the history: a follower of the lab's state, and the thread that writes what it finds.

Whoever changes the state waits for a few comparisons and no more: entries are made and written in a thread of their
own, which lives as long as there is something to write, and a moment longer. It waits for a moment without runs
(`QuietMoments`), unless somebody asks for the history or the lab is closed.

    comparison   each one
    plan         each one that is put in force with other lanes, or for other code, than the last one; while a search
                 improves it, the last
    profile      each finished one that measured something
    runs         all runs of one plan and code with inputs of one shape, as one entry: written after 16, 64, 256, ... of
                 them, when plan or code changes and when the lab is closed

Weights that change are no other code: a network that is trained between its runs makes no entry of its own each time.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import threading
import time
from array import array
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any

from esen_lab.common.bell import Bell
from esen_lab.common.jobs import JobState
from esen_lab.common.locks import Lock
from esen_lab.common.statistics import FEWEST_FOR_INTERVAL, median_interval, quantile
from esen_lab.common.units import backend_parts, now
from esen_lab.devices.cpu.contention import LoadSample, load_between, sample_load
from esen_lab.ensemble import Ensemble
from esen_lab.errors import EsenError
from esen_lab.files.user_folder import user_folder
from esen_lab.history import Book, Entry, EntryKind, Member, Slot, Strategy
from esen_lab.lab.state import LabState
from esen_lab.planner.plan import Lane, Plan
from esen_lab.profiler import Profile
from esen_lab.run.comparison import CHOSEN

_MOST_SHAPES = 8  # of inputs, of one plan; more are not told apart, and not kept
_MOST_RUNS = 10_000  # of one plan and shape: the last ones
_FIRST_WRITTEN = 16
_PATIENCE_S = 30.0  # for what is being written when the history is asked: a file that is locked takes seconds
_CLOSING_S = 3.0  # the same when the lab is closed: what is left is written all the same, and not waited for


class Recorder:
    """Follows a lab: call it with each new state. May be called from any thread.

    Args:
        store: Where the lab's points are kept: the history lies beside them; None: in the user's folder.
        processes: The processes that work for the lab.
    """

    def __init__(self, store: str | os.PathLike[str] | None, processes: Callable[[], list[int]]) -> None:
        self.project = default_project()
        self.on = os.environ.get("ESEN_LAB_HISTORY", "").lower() not in ("off", "0", "no")
        self.trouble = ""
        self._store = store
        self._processes = processes
        self._lock = Lock()
        self._quiet = QuietMoments()
        self._book: Book | None = None
        self._work: Bell[Callable[[], None]] | None = None
        self._end: Callable[[], None] = lambda: None
        self._seen: tuple[object, object, object, object] = (None, None, None, None)
        self._profile_open = False
        self._plan_open: tuple[LabState, str] | None = None  # put in force, and perhaps improved yet
        self._planned: _PlanIdentity | None = None  # of the last plan that was written
        self._runs: dict[str, _Runs] = {}
        self._ran: _PlanIdentity | None = None  # what those ran

    @property
    def book(self) -> Book:
        """The history's file.

        Raises:
            StoreError: This user has no folder for it.
        """
        with self._lock:
            if self._book is None:
                self._book = Book(history_path(self._store))
            return self._book

    def __call__(self, state: LabState) -> None:
        """Take in what is new since the last state."""
        new = (state.report, state.plan, state.comparison, state.profile_job)
        seen = self._seen
        if not self.on or (
            new[0] is seen[0]
            and new[1] is seen[1]
            and new[2] is seen[2]
            and new[3] is seen[3]
            and not self._profile_open
            and self._plan_open is None
        ):
            return
        with self._lock:
            report, plan, comparison, job = self._seen
            self._seen = new
            if state.profile_job is not job:
                self._profile_open = state.profile_job is not None
            if state.plan is not plan and state.plan is not None:
                self._plan_open = (state, now())
            if state.report is not report:
                self._quiet.ran()
                self._take_run(state)
            if state.comparison is not comparison and state.comparison is not None:
                self._settle_plan()
                self._write(partial(self._put, Slot(self.project), partial(_comparison, state, now())))
            if self._plan_open is not None and (state.improving is None or state.improving.state.over):
                self._settle_plan()
            if self._profile_open and state.profile_job is not None and state.profile_job.state.over:
                self._profile_open = False
                if state.profile_job.state is JobState.FINISHED:
                    self._write(partial(self._put, Slot(self.project), partial(_profile, state, now())))

    def rename(self, project: str) -> None:
        """Keep what comes from now on under another project."""
        with self._lock:
            self.project = project
            self._runs, self._ran = {}, None

    def forget(self, numbers: Collection[int] | None) -> int:
        """Take entries out, as `Book.forget`; runs that were among them are not written again with the next ones.

        Raises:
            StoreError: This user has no folder for the history.
        """
        with self._lock:
            stay = () if numbers is None else self._runs.items()
            self._runs = {shape: runs for shape, runs in stay if runs.slot.number not in (numbers or ())}
        return self.book.forget(self.project, numbers)

    def flush(self, patience_s: float = _PATIENCE_S) -> None:
        """Write what is known now; returns when it is written, or after some seconds."""
        with self._lock:
            self._settle_plan()
            for runs in self._runs.values():
                self._write(partial(self._write_runs, runs))
            working = self._work is not None
            done = threading.Event()
            if working:
                self._write(done.set)
        if working:
            self._quiet.hurry()
            done.wait(patience_s)
            self._quiet.rest()

    def close(self) -> None:
        """`flush`, and end the thread. It may be used again afterwards."""
        self.flush(_CLOSING_S)
        self._quiet.hurry()
        with self._lock:
            self._runs, self._ran = {}, None
            work, self._work = self._work, None
            if work is not None:
                work.ring(self._end)  # behind whatever is still to be written

    # --- under the lock ------------------------------------------------------------------------------------------

    def _settle_plan(self) -> None:
        """The plan in force will not be improved any more, or has been used: it is one to remember."""
        pending, self._plan_open = self._plan_open, None
        if pending is None:
            return
        state, at = pending
        if state.plan is None:
            return
        made = _PlanIdentity(state.plan.lanes, state.ensemble)
        if made == self._planned:
            return
        self._planned = made
        self._write(partial(self._put, Slot(self.project), partial(_entry, EntryKind.PLAN, state, at, state.plan)))

    def _take_run(self, state: LabState) -> None:
        report, executor = state.report, state.executor
        if report is None or executor is None:
            return
        plan = executor.plan
        if self._ran is None or not self._ran.is_still(plan.lanes, executor.ensemble):
            made = _PlanIdentity(plan.lanes, executor.ensemble)
            if made != self._ran:
                for runs in self._runs.values():
                    self._write(partial(self._write_runs, runs))
                self._runs = {}
            self._ran = made
        known = self._runs.get(report.batch)
        if known is None:
            if len(self._runs) >= _MOST_SHAPES:
                return
            self._settle_plan()
            known = self._runs[report.batch] = _Runs(Slot(self.project), report.batch)
            self._write(partial(known.look, self._processes))
        if known.add(report.jct_s, state, plan):
            self._write(partial(known.look, self._processes))
            self._write(partial(self._write_runs, known))

    def _write(self, work: Callable[[], None]) -> None:
        """Have the recorder's thread do it, after what it was given before."""
        if self._work is None:
            self._quiet.rest()
            self._work = Bell()
            self._end = self._work.listen(self._do)
        self._work.ring(work)

    # --- in the thread -------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[], None]) -> None:
        self._quiet.wait()
        try:
            work()
        except Exception as problem:  # whatever it is, the lab goes on
            self.trouble = f"Something is not in the history ({type(problem).__name__}: {problem})."

    def _put(self, slot: Slot, make: Callable[[], Entry | None]) -> None:
        entry = make()
        if entry is not None:
            self.book.put(slot, entry)

    def _write_runs(self, runs: _Runs) -> None:
        self._put(runs.slot, runs.entry)


class _PlanIdentity:
    """Lanes, and the code of what they run. Equal for the same, whatever the weights."""

    __slots__ = ("code", "ensemble", "lanes")

    def __init__(self, lanes: tuple[Lane, ...], ensemble: Ensemble) -> None:
        self.lanes, self.ensemble = lanes, ensemble
        self.code = {one.name: one.code_fingerprint or one.fingerprint for one in ensemble.submodels}

    def is_still(self, lanes: tuple[Lane, ...], ensemble: Ensemble) -> bool:
        """Whether these are the very same objects: asked at every run."""
        return lanes is self.lanes and ensemble is self.ensemble

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _PlanIdentity) and (self.lanes, self.code) == (other.lanes, other.code)

    __hash__ = None  # type: ignore[assignment]


class _Runs:
    """All runs of one plan with inputs of one shape."""

    def __init__(self, slot: Slot, batch: str) -> None:
        self.slot = slot
        self._batch = batch
        self._lock = Lock()
        self._times_s = array("d")
        self._count = self._written = 0
        self._next = _FIRST_WRITTEN
        self._of: tuple[LabState, Plan] | None = None
        self._began: tuple[list[int], LoadSample] | None = None
        self._load: float | None = None

    def add(self, jct_s: float, state: LabState, plan: Plan) -> bool:
        """Take in a run; whether it is time to write."""
        with self._lock:
            if len(self._times_s) >= _MOST_RUNS:
                self._times_s[self._count % _MOST_RUNS] = jct_s
            else:
                self._times_s.append(jct_s)
            self._count += 1
            self._of = (state, plan)
            if self._count < self._next:
                return False
            self._next *= 4
            return True

    def look(self, processes: Callable[[], list[int]]) -> None:
        """Read what other programs took of the lanes' time since the first look."""
        pids = processes()
        sample = sample_load(pids) if pids else None
        if sample is None:
            return
        if self._began is None or self._began[0] != pids:
            self._began = (pids, sample)
        else:
            self._load = load_between(self._began[1], sample)

    def entry(self) -> Entry | None:
        """These runs as an entry of the history; None where no run came since the last one."""
        with self._lock:
            times, of, count = list(self._times_s), self._of, self._count
            if of is None or count == self._written:
                return None
            self._written = count
        state, plan = of
        return _entry(
            EntryKind.RUNS, state, now(), plan, batch=self._batch, runs=count, load=self._load, **_median(times)
        )


def default_project() -> str:
    """What a lab's entries are kept under when nobody says otherwise: `$ESEN_LAB_PROJECT`, else the working folder."""
    named = os.environ.get("ESEN_LAB_PROJECT", "")
    try:
        return named or os.getcwd()
    except OSError:  # it was removed
        return "a folder that is gone"


def history_path(store: str | os.PathLike[str] | None) -> str:
    """The history's file: beside the store of points where that was named, else in the user's folder.

    Raises:
        StoreError: This user has no folder.
    """
    if store is None:
        return str(user_folder() / "history.sqlite3")
    root, suffix = os.path.splitext(os.fspath(store))
    return f"{root}.history{suffix}"


def _median(times_s: list[float]) -> dict[str, float]:
    """The median of some times, with its interval where there are enough of them."""
    known = {"jct_s": quantile(times_s, 0.5)}
    if len(times_s) >= FEWEST_FOR_INTERVAL:
        known["low_s"], known["high_s"] = median_interval(times_s)
    return known


def _entry(kind: EntryKind, state: LabState, at: str, plan: Plan | None, **known: Any) -> Entry:
    notes = () if plan is None else plan.notes
    return Entry(
        **{
            "kind": kind,
            "at": at,
            "device": state.device.identity.to_dict(),
            "versions": _versions(plan),
            "members": {
                one.name: Member(fingerprint=one.fingerprint, code=one.code_fingerprint)
                for one in state.ensemble.submodels
            },
            "combine": state.ensemble.combine.describe()[:1000],
            "plan": plan,
            "notes": tuple(note[:1000] for note in notes[:20]),
            **known,
        }
    )


def _comparison(state: LabState, at: str) -> Entry | None:
    found = state.comparison
    plan = state.executor.plan if state.executor is not None else state.plan
    if found is None:
        return None
    rows = tuple(
        Strategy(
            name=row.strategy[:200] or "?",
            median_s=None if row.failed or not row.median_s > 0 else row.median_s,
            spread_s=None if row.failed or not row.spread_s >= 0 else row.spread_s,
            agrees=row.agrees,
        )
        for row in found.rows[:100]
    )
    times = [list(row.times_s) for row in found.rows if row.strategy == CHOSEN and not row.failed and row.times_s]
    measured = {"runs": len(times[-1]), **_median(times[-1])} if times else {}
    notes = tuple(note[:1000] for note in (found.verdict, *found.notes)[:20] if note)
    return _entry(EntryKind.COMPARISON, state, at, plan, batch=found.batch, strategies=rows, **measured, notes=notes)


def _profile(state: LabState, at: str) -> Entry | None:
    job = state.profile_job
    if job is None:
        return None
    try:
        profile: Profile = job.outcome()
    except EsenError:  # nothing was measured, as whoever asked for it has been told
        return None
    points = (*profile.points, *profile.backend_points)
    fresh = [point for point in points if not point.reused]
    if not fresh:
        return None
    curves: dict[str, dict[int, float]] = {}
    for point in points:
        row = point.name if point.backend == "eager" else f"{point.name} by {point.backend}"
        curves.setdefault(row, {})[point.units] = point.median_s
    loads = [point.load for point in fresh if point.load is not None]
    return _entry(
        EntryKind.PROFILE,
        state,
        at,
        None,
        device=dict(profile.device),
        latency_s=curves,
        load=max(loads, default=None),
        notes=tuple(note[:1000] for note in profile.doubts[:20]),
    )


def _versions(plan: Plan | None) -> dict[str, str]:
    """Of this package, Python, torch, and the engines that a plan uses."""
    from esen_lab import __version__
    from esen_lab.lanes.backends import engine_version

    found = {"esen_lab": __version__, "python": platform.python_version()}
    with suppress(importlib.metadata.PackageNotFoundError):
        found["torch"] = importlib.metadata.version("torch")
    for lane in plan.lanes if plan is not None else ():
        for how in lane.backends:
            name = backend_parts(how)[0]
            with suppress(EsenError):
                if version := engine_version(name):
                    found[name] = version
    return found


QUIET_S = 0.5  # without a run
MOST_S = 10.0  # of waiting: runs may never end, and a kernel may be killed


class QuietMoments:
    """Says when nothing has run for a moment: work would take a core from a lane. May be used from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ran_s = float("-inf")
        self._hurry = threading.Event()

    def ran(self) -> None:
        """There was a run just now."""
        self._ran_s = self._clock()

    def hurry(self) -> None:
        """End the wait that is under way, and let none begin until `rest`."""
        self._hurry.set()

    def rest(self) -> None:
        """Let work wait again."""
        self._hurry.clear()

    def wait(self) -> None:
        """Return `QUIET_S` after the last run, or after `MOST_S`."""
        give_up_s = self._clock() + MOST_S
        while True:
            now_s = self._clock()
            left_s = min(self._ran_s + QUIET_S, give_up_s) - now_s
            if left_s <= 0 or self._hurry.wait(left_s):
                return
