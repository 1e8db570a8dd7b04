"""The warm lanes of a lab: started for the plan in force, swapped when another one takes its place, ended with it.

Whoever asks for them has the turn, so only one thread at a time is in here. The lock of the state is not held while
lanes start, so that status and sliders stay live.
"""

from __future__ import annotations

import contextvars
import math
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from esen_lab.common.resources import begin
from esen_lab.common.units import format_units
from esen_lab.ensemble import Ensemble, FitsTogether
from esen_lab.errors import Cancelled, EsenError
from esen_lab.lab.plan_checks import holds, made_before_changes, members_run_by, same_lanes
from esen_lab.lab.state import LabState
from esen_lab.planner.fits import check_fits, fits
from esen_lab.planner.plan import Plan, sequential_plan
from esen_lab.run import Deadline, Executor, ForkServer, Turns
from esen_lab.run.deadline import NEVER
from esen_lab.run.fidelity import AnswersDiffer
from esen_lab.run.start import GivenUp


class Owner(Protocol):
    """What holds a lab's state and its processes: see `Runtime`."""

    turns: Turns
    fork_server: ForkServer
    together: FitsTogether
    state: LabState

    def change(self, change: Callable[[LabState], LabState]) -> LabState:
        """See `Runtime.change`."""

    def set(self, **fields: Any) -> LabState:
        """See `Runtime.set`."""


class _ToRun(NamedTuple):
    """What is to run, as checks found it; it holds while the state has these very objects (`of`)."""

    of: tuple[object, ...]
    plan: Plan
    ensemble: Ensemble
    notes: tuple[str, ...]


class WarmLanes:
    """Starts and ends lanes; those in force are in the state."""

    def __init__(self, runtime: Owner) -> None:
        self._runtime = runtime
        self._to_end: deque[Executor] = deque()  # lanes that others have replaced
        self._checked: _ToRun | None = None
        self._warned: dict[str, Any] = {}  # what was said of lanes, and of which answer, so that it is said once
        self.starting: LaneStart | None = None
        """Lanes that start, or started when nobody waited any more."""

    def ready(self, deadline: Deadline = NEVER) -> tuple[Executor, tuple[str, ...]]:
        """Warm lanes for the plan in force, started or swapped in as needed, and remarks for the report.

        Raises:
            UsageError: The plan does not fit the registered sub-models, or they do not fit together.
            EsenError: Lanes could not start. The plan before it stays in force where its lanes are warm.
        """
        executor, notes = self._for_plan(deadline)
        self.warn_of(executor)
        return executor, notes

    def warn_of(self, executor: Executor) -> None:
        """Warn of lanes that answer otherwise than the notebook, each once until it is registered again."""
        if not executor.unlike and not self._warned:
            return
        get = executor.ensemble.get
        told = {str(item): get(name).answer for name, item in executor.unlike.items() if item.loud}
        for note, answer in told.items():
            if note not in self._warned or self._warned[note] is not answer:
                warnings.warn(note, AnswersDiffer, stacklevel=6)
        self._warned = told

    def _for_plan(self, deadline: Deadline) -> tuple[Executor, tuple[str, ...]]:
        _, plan, ensemble, notes = self._to_run(self._runtime.state)
        self._take_left_start(plan, ensemble)
        current = self._runtime.state.executor
        if current is not None:
            current.look_at_late()
        whole = None if current is None or current.broken else current
        if whole is None or whole.plan is not plan or whole.ensemble is not ensemble:
            # What is started or loaded now is compared with what this process answers now.
            self._runtime.fork_server.look_at_session()
        if whole is not None and same_lanes(whole, plan, ensemble):
            try:
                whole.at_rest(deadline)
                whole.keep_to(plan, ensemble, deadline=deadline)
                whole.history.doubts = self._doubts
                return whole, (*notes, *whole.history.take_news())
            except EsenError:  # lanes that could not take what changed are broken: started anew
                deadline.check(f"lanes that take what has changed of {', '.join(plan.names)}")
        try:
            started = self._start(plan, ensemble, deadline)
        except EsenError as problem:
            self._back_to_plan_before(plan, current, problem)
            raise
        started.history.doubts = self._doubts
        self._put_in_force(started)
        return started, (*notes, *started.history.take_news())

    def _to_run(self, state: LabState) -> _ToRun:
        """What is to run, checked; where nothing has changed since the last run, as it was found then."""
        plan, known, checked = state.plan, state.ensemble, self._checked
        if checked is not None:
            of = checked.of
            if of[0] is plan and of[1] is known and of[2] is state.device and of[3] is state.known:
                return checked
        self._checked = None
        to_run, ensemble, notes = _to_run(state)
        self._runtime.together.check(ensemble)
        self._checked = _ToRun((plan, known, state.device, state.known), to_run, ensemble, notes)
        return self._checked

    def _doubts(self, plan: Plan) -> tuple[str, ...]:
        """What is known against the measurements that a plan's prediction rests on, sentences."""
        state = self._runtime.state
        return state.here.doubts(plan, state.ensemble, state.device, self._runtime.fork_server.settings)

    def _put_in_force(self, started: Executor) -> None:
        def change(state: LabState) -> LabState:
            if state.executor is not None and state.executor is not started:
                self._to_end.append(state.executor)
            return replace(state, executor=started, previous_plan=None)

        self._runtime.change(change)
        self.starting = None
        self._end_old()

    def _end_old(self) -> None:
        """End the lanes that others have replaced: an interrupt leaves the rest of it to the next call."""
        while self._to_end:
            self._to_end[0].close()
            self._to_end.popleft()

    def _start(self, plan: Plan, ensemble: Ensemble, deadline: Deadline) -> Executor:
        """Start lanes in a thread of their own, and wait for them: see `LaneStart`."""
        runtime = self._runtime
        current, device = runtime.state.executor, runtime.state.device
        broken = current is not None and bool(current.broken)

        def start(given_up: GivenUp) -> Executor:
            if broken and current is not None:
                if same_lanes(current, plan, ensemble) and _revived(current, plan, ensemble, given_up):
                    return current
                current.close()  # its lanes' places are needed
            return Executor.start(plan, ensemble, device, runtime.fork_server, given_up=given_up)

        starting = self.starting = LaneStart(runtime.turns, start)
        starting.begin()
        try:
            return starting.result(deadline)
        finally:
            if starting.done and starting.executor is None:  # what it failed with holds the lanes that had started
                self.starting = None

    def _take_left_start(self, plan: Plan, ensemble: Ensemble) -> None:
        """Lanes that started when nobody waited for them any more: they are those in force, or end."""
        self._end_old()
        starting = self.starting
        started = None if starting is None else starting.executor
        if started is None or started is self._runtime.state.executor:
            self.starting = None
        elif not started.broken and same_lanes(started, plan, ensemble):
            self._put_in_force(started)
        else:
            self._end_left_start()

    def _end_left_start(self) -> None:
        starting = self.starting
        started = None if starting is None else starting.executor
        if started is not None and started is not self._runtime.state.executor:
            self._to_end.append(started)
        self.starting = None
        self._end_old()

    def _back_to_plan_before(self, plan: Plan, current: Executor | None, problem: EsenError) -> None:
        """Lanes of a new plan could not start: the one before it stays, where its lanes are warm."""
        starting = self.starting is not None and not self.starting.done

        def change(state: LabState) -> LabState:
            before, known = state.previous_plan, state.ensemble
            # Only where its lanes still run the registered sub-models, and no new ones may be there soon.
            if current is None or before is None or state.plan is not plan or current.plan is not before:
                return state
            if current.broken or starting or not fits(before, known, state.device):
                return state
            return replace(state, plan=before) if holds(current, before, members_run_by(before, known)) else state

        after = self._runtime.change(change)
        if current is not None and after.plan is current.plan is not plan:
            problem.add_note("The plan before it stays in force, its lanes warm.")

    def give_up_start(self) -> None:
        """End lanes that are starting, soon; returns at once."""
        starting = self.starting
        if starting is not None:
            starting.give_up()

    def end(self) -> None:
        """End all lanes, and those that started when nobody waited any more. The caller has the turn."""
        executor = self._runtime.state.executor
        self._runtime.set(executor=None)
        self._end_left_start()
        if executor is not None:
            executor.close()


def _revived(current: Executor, plan: Plan, ensemble: Ensemble, given_up: GivenUp) -> bool:
    """Start those lanes anew that have ended, where the others may stay; whether all run now.

    Raises:
        Cancelled: It was given up.
    """
    if not current.revivable:
        return False
    try:
        current.revive(given_up)
        current.keep_to(plan, ensemble)
    except Cancelled:
        raise
    except EsenError:  # another one has ended meanwhile, or a place is not to be had: all of them, then
        return False
    return not current.broken


def _to_run(state: LabState) -> tuple[Plan, Ensemble, tuple[str, ...]]:
    """The plan in force or the one that stands for it, the members that it runs, and remarks."""
    ensemble, plan = state.ensemble, state.plan
    if plan is None:
        plan = sequential_plan(ensemble.names, state.device.units)
        notes = ("No plan yet: the sub-models run one after another. Profile and search for a better one.",)
        return plan, ensemble, (*notes, *wrong_answers(state, plan))
    check_fits(plan, ensemble, state.device)
    remarks = (*made_before_changes(plan, ensemble), *wrong_answers(state, plan))
    return plan, members_run_by(plan, ensemble), remarks


def wrong_answers(state: LabState, plan: Plan) -> tuple[str, ...]:
    """For each sub-model that a plan gives a share at which its answers were found wrong, a sentence."""
    unit = state.device.identity.unit
    return tuple(
        f"WRONG ANSWERS were found for {name} with {format_units(units, unit)}: search again, or move it."
        for name, units in state.here.wrong_in(plan, state.ensemble)
    )


_SLICE_S = 0.25  # of a wait: an interrupt may reach another thread


class LaneStart:
    """One start under way, made by the call that has the turn, in a thread that has a turn beside it.

    While lanes start, nothing is measured and nothing else runs, also when that call has given up waiting.
    """

    def __init__(self, turns: Turns, start: Callable[[GivenUp], Executor]) -> None:
        self._turn = turns.beside("lanes that start")
        self._start = start
        self._given_up = GivenUp()
        self._over = threading.Event()
        self._executor: Executor | None = None
        self._problem: BaseException | None = None
        # What a network reads of context variables is what the call has set, when lanes are compared with it.
        work = contextvars.copy_context().run
        self._thread = threading.Thread(target=work, args=(self._work,), name="esen_lab start of lanes", daemon=True)

    def begin(self) -> None:
        """Start the thread.

        Raises:
            DeviceError: The system gives no more.
        """
        try:
            begin(self._thread)
        except BaseException:
            self._over.set()  # nothing is under way
            raise

    def give_up(self) -> None:
        """End it soon, whatever has been started; returns at once."""
        self._given_up.set()

    def result(self, deadline: Deadline) -> Executor:
        """Wait for the lanes. What interrupts the wait, such as Ctrl-C, gives the start up; a deadline does not.

        Raises:
            WorkerTimeout: The deadline passed. They go on starting.
            EsenError: They could not be started.
        """
        try:
            late = not self._wait(deadline)
        except BaseException:
            self.give_up()
            raise
        if late:
            raise deadline.passed(
                "its lanes, which are starting",
                hint="They go on starting, and the next call finds them. Allow more time with timeout_s.",
            )
        if self._problem is not None:
            raise self._problem
        assert self._executor is not None
        return self._executor

    def _wait(self, deadline: Deadline) -> bool:
        while not self._over.is_set():
            left_s = deadline.at_s - time.monotonic()
            if left_s <= 0:
                return False
            self._over.wait(_SLICE_S if math.isinf(left_s) else min(left_s, _SLICE_S))
        return True

    def _work(self) -> None:
        try:
            with self._turn:
                self._executor = self._start(self._given_up)
        except BaseException as problem:  # the caller's to see
            self._problem = problem
        finally:
            self._over.set()

    @property
    def done(self) -> bool:
        """Whether it is over, in whatever way."""
        return self._over.is_set()

    @property
    def executor(self) -> Executor | None:
        """The lanes of a start that is over and went well, else None."""
        return self._executor
