"""What the stages of a lab work with: its state and the bell, the device's turns, its processes, its store.

There is one way to change the state: `change`, which puts a new record in the place of the old one, by one assignment,
and rings. An interrupt leaves the one or the other in force.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from esen_lab.common.bell import Bell, Listeners, dropped
from esen_lab.common.locks import Lock, Place
from esen_lab.common.trees import Tree
from esen_lab.common.units import check_count, format_units
from esen_lab.devices import MarkLog
from esen_lab.ensemble import Ensemble, FitsTogether, SeenKinds
from esen_lab.errors import Cancelled
from esen_lab.files import fixed_path
from esen_lab.lab.async_runs import AwaitedRuns
from esen_lab.lab.knowledge import Fits
from esen_lab.lab.readings import Readings
from esen_lab.lab.recorder import Recorder
from esen_lab.lab.state import LabState
from esen_lab.lab.warm_lanes import WarmLanes
from esen_lab.lanes.forks import not_here, tell_when_forked
from esen_lab.lanes.settings import left_as_set
from esen_lab.profiler import ProfileStore, default_store_path
from esen_lab.run import ForkServer, NotebookAnswers, Turns
from esen_lab.run.turns import Turn
from esen_lab.studies import LaneRuns

if TYPE_CHECKING:
    from torch import nn


class Runtime:
    """One per lab. Safe for several threads.

    Args:
        state: How it begins.
        most_waiting: How many calls may wait for their turn.
        store: Where measured points are kept; None: the user's cache folder.
        run: The stage that makes a run in its turn, for those that asyncio awaits.

    Raises:
        UsageError: `most_waiting` is no whole number above 0, or `store` cannot name a file.
    """

    def __init__(
        self,
        state: LabState,
        most_waiting: int,
        store: str | os.PathLike[str] | None,
        run: Callable[[Runtime, Any, Turn], Tree],
    ) -> None:
        check_count(most_waiting, "most_waiting is a whole number of calls above 0")
        self.state = state  # what is so now; only `change` gives it another one
        self._run = run
        self.store_path = None if store is None else fixed_path(store)
        self.together = FitsTogether()
        self.fits = Fits()
        self.seen_kinds = SeenKinds(left_as_set)
        self.marks = MarkLog()
        self._closings = 0
        self.fork_server = ForkServer()  # starts nothing yet
        self.own_answers = NotebookAnswers(self._module)
        self.fork_server.own_answers = self.own_answers
        self._begin(most_waiting)
        tell_when_forked(self)

    def _module(self, name: str) -> nn.Module | None:
        return self.state.originals.module(name)

    def _begin(self, most_waiting: int) -> None:
        self.turns = Turns(most_waiting)  # of the device: a measured point and a run exclude each other
        self.awaited = AwaitedRuns(partial(self._run, self))
        self.lock = Lock()
        self.bell: Bell[LabState] = Bell()
        self.followers: Listeners[LabState] = Listeners()  # what must know before whoever made the change goes on
        self.followers.add(ChangeMarks(self.marks))
        self.recorder = Recorder(self.store_path, lambda: [pid for _, pid in self.fork_server.processes])
        self.followers.add(self.recorder)
        self.lanes = WarmLanes(self)
        self.readings = Readings(
            lambda: self.state.device,
            lambda: self.fork_server.processes,
            self.marks,
            lambda: self.state.server,
            lambda: None if self.state.on_nodes is None else self.state.on_nodes.readings,
        )
        self._store: ProfileStore | None = None

    def let_go_in_child(self) -> None:
        """Called in a forked child. A lab that had nothing at work can be used there; any other refuses everything."""
        state = self.state
        working = (state.executor, state.profile_job, state.search_job, state.server, state.reach)
        at_work = any(thing is not None for thing in working)
        if at_work or self.turns.locked or self.readings.watched is not None:
            self.__class__ = RuntimeOfAnotherProcess
            return
        self._begin(self.turns.most_waiting)  # threads of the parent may hold what was made there
        self.state = replace(state, editor=None)

    def check_here(self) -> None:
        """Nothing to refuse.

        Raises:
            UsageError: In a forked child, where the lab was at work before: as everything else there does.
        """

    def describe(self) -> str:
        """Which lab it is, in short."""
        identity = self.state.device.identity
        names = ", ".join(self.state.ensemble.names) or "no sub-models yet"
        return f"on {identity.name} ({format_units(identity.units, identity.unit)}): {names}"

    def close(self) -> None:
        """See `Lab.close`."""
        self._closings += 1
        self.fork_server.closing = Place()  # until this has the turn, or has been left
        self.readings.close()
        state = self.state
        if state.server is not None:
            state.server.close()  # while there are lanes to answer with
            self.set(server=None)
        jobs = [job for job in (state.profile_job, state.search_job) if job is not None and not job.done]
        for job in jobs:
            job.cancel()
        self.lanes.give_up_start()
        self.fork_server.close()  # a run that is under way in another thread fails now and lets go of the device
        for job in jobs:
            job.wait(timeout=5.0)  # what became of it is for `job.result` to say
        self.awaited.close()
        with self.turns.turn("the end of the lab", refused=False):
            self.lanes.end()
            self._end_on_nodes()
            self._close_store()
            self.fork_server.closing = None
        self.recorder.close()
        self.fork_server.close()  # whatever was being started meanwhile
        self.state.device.close()

    def _end_on_nodes(self) -> None:
        """End what runs on the nodes of a cluster, and leave it; a later run connects again."""
        on_nodes, reach = self.state.on_nodes, self.state.reach
        self.set(on_nodes=None)
        if on_nodes is not None:
            on_nodes.close()
        if reach is not None:
            reach.close()

    # --- the state -----------------------------------------------------------------------------------------------

    def change(self, change: Callable[[LabState], LabState]) -> LabState:
        """The one way to change the state: ring, where `change` gives another one than it is given.

        Args:
            change: Called once, with the lock held; it looks at nothing but the state.

        Returns:
            The state after it.
        """
        with self.lock:
            before = self.state
            after = change(before)
            if after is before:
                return after
            self.state = after
            self.bell.ring(after)  # under the lock, so that states are heard in their order; nobody is waited for
        self._tell_followers(after)
        return after

    def set(self, **fields: Any) -> LabState:
        """Change fields, whatever the state is."""
        return self.change(lambda state: replace(state, **fields))

    def stir(self, job: object = None) -> None:  # noqa: ARG002  a job tells itself to those who listen
        """Ring with the state as it is: a job in it has got further."""
        with self.lock:
            state = self.state
            self.bell.ring(state)
        self._tell_followers(state)

    def _tell_followers(self, state: LabState) -> None:
        for problem in self.followers.tell(state):
            dropped("a lab", problem)

    # --- what is shared ------------------------------------------------------------------------------------------

    def store(self) -> ProfileStore:
        """The store of measured points, opened."""
        with self.lock:
            if self._store is None:
                self._store = ProfileStore(self.store_path or default_store_path())
            return self._store

    def _close_store(self) -> None:
        with self.lock:
            store, self._store = self._store, None
        if store is not None:
            store.close()

    def lane_runs(self, ensemble: Ensemble, x: Tree, runs: int) -> LaneRuns:
        """What runs plans to measure them, as nothing else runs; none after the lab was closed."""
        closings = self._closings

        def turn() -> Turn:
            if self._closings != closings:
                raise Cancelled("The lab was closed while plans were measured")
            return self.measured_plan()

        settings = self.fork_server.session_here()  # plans are run in other threads too, and between other calls
        return LaneRuns(ensemble, self.state.device, self.fork_server, turn, x=x, runs=runs, settings=settings)

    def measured_plan(self) -> Turn:
        """The turn of a plan that is measured."""
        return self.turns.turn("a plan that is measured", refused=False)


class RuntimeOfAnotherProcess(Runtime):
    """What the runtime of a lab that was at work is in a forked child: whatever is asked of the lab is refused."""

    def __getattribute__(self, name: str) -> Any:
        """Refuse.

        Raises:
            UsageError: Always, but for what Python itself asks.
        """
        if name in ("close", "describe", "let_go_in_child") or name.startswith("__"):
            return object.__getattribute__(self, name)
        raise not_here("A lab")

    def let_go_in_child(self) -> None:
        """It has let go already."""

    def describe(self) -> str:
        """Which lab it is."""
        return "of the process that this one was forked from"

    def close(self) -> None:
        """The lab is its own process's to close."""


class ChangeMarks:
    """The marks beside readings of the device that follow from states: another plan, a profile's begin and end.

    Called with each new state.
    """

    def __init__(self, marks: MarkLog) -> None:
        self._marks = marks
        self._lock = Lock()
        self._plan: object = None
        self._job: object = None
        self._job_ended = True

    def __call__(self, state: LabState) -> None:
        """Add what is new since the last state."""
        plan, job = state.plan, state.profile_job
        if plan is self._plan and job is self._job and self._job_ended:  # as after most runs
            return
        with self._lock:
            if plan is not self._plan:
                self._plan = plan
                if plan is not None:
                    self._marks.add("plan")
            if job is not self._job:
                self._job, self._job_ended = job, False
                if job is not None:
                    self._marks.add("profile", "begin")
            if job is not None and not self._job_ended and job.state.over:
                self._job_ended = True
                self._marks.add("profile", "end")
