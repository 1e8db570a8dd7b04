"""The plan in force as a service, in the background."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from esen_lab.common.inputs import own_example
from esen_lab.common.trees import Tree
from esen_lab.common.words import unknown
from esen_lab.errors import EsenError
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages import run
from esen_lab.lab.stages.members import check_sample
from esen_lab.lab.stages.run_call import RunCall
from esen_lab.lanes.forks import tell_when_forked
from esen_lab.lanes.settings import with_threads_own
from esen_lab.run import Deadline, RunReport
from esen_lab.serving import ServeSettings, check_installed
from esen_lab.serving.served import RUN_TIMEOUT_S, AskedBatch
from esen_lab.serving.status import ENDED

if TYPE_CHECKING:
    from esen_lab.ensemble import Ensemble
    from esen_lab.planner.plan import Plan
    from esen_lab.serving.server import Server


class ServedLab:
    """A lab as a server sees it: its runs wait for their turns among all other calls. See `Served`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._anew = False  # lanes were started anew, and nobody was told yet

    @property
    def ensemble(self) -> Ensemble:
        """Its sub-models and combine rule."""
        return self._runtime.state.ensemble

    @property
    def stands_for(self) -> tuple[object, ...]:
        """What they are now, and the plan in force: a change puts others in their place."""
        state = self._runtime.state
        return (state.ensemble, state.plan, state.device)

    @property
    def plan(self) -> Plan:
        """The plan that its warm lanes run by."""
        executor = self._runtime.state.executor
        assert executor is not None  # `mend` comes first
        return executor.plan

    @property
    def begins_anew(self) -> bool:
        """Whether a member keeps state or draws random numbers."""
        executor = self._runtime.state.executor
        return executor is not None and executor.begins_anew

    @property
    def fallen_back(self) -> tuple[str, ...]:
        """The sub-models that are not executed as the plan says."""
        executor = self._runtime.state.executor
        return () if executor is None else tuple(executor.history.fallen_back)

    def run(self, x: Tree, asked: AskedBatch) -> tuple[Tree, RunReport | None]:
        """One run in its turn."""
        self._have_lanes()
        call = RunCall.of(self._runtime.state, x, RUN_TIMEOUT_S, asked.options)
        turn = self._runtime.turns.turn("a batch of requests", call.until, refused=False)
        return run.reported(self._runtime, call, turn, kept=not asked.trial)

    def mend(self) -> bool:
        """Start anew what has ended, unless another call has the lanes: that one sees to it."""
        self._have_lanes()
        anew, self._anew = self._anew, False
        return anew

    def _have_lanes(self) -> None:
        runtime = self._runtime
        executor = runtime.state.executor
        if executor is not None and (runtime.turns.locked or not executor.notice_ended()):
            return
        with runtime.turns.turn("lanes that are started for requests", Deadline(RUN_TIMEOUT_S), refused=False):
            run.ready_lanes(runtime)
        self._anew = self._anew or executor is not None

    def close(self) -> None:
        """The lanes are the lab's own."""


def serve(runtime: Runtime, settings: ServeSettings, x: Tree) -> Server:
    """See `Lab.serve`."""
    check_installed()
    from esen_lab.serving.server import begin

    example = None if x is None else own_example(x)
    if example is not None:
        check_sample(example)
    runtime.state.need_submodels("serve")
    session = runtime.fork_server.session_here()
    before = runtime.state.server
    try:
        server = begin(settings, lambda server: _keep(runtime, server), before)
        server.warm(ServedLab(runtime), with_threads_own(session), example)
    except BaseException as problem:
        if before is not None and runtime.state.server is before and before.state != ENDED:
            if isinstance(problem, EsenError):
                problem.add_note(f"The server before it goes on: {before.url}.")
            raise
        stop(runtime)
        if isinstance(problem, EsenError):
            problem.add_note("Nothing is served.")
        raise
    runtime.stir()
    return server


def _keep(runtime: Runtime, server: Server) -> None:
    stop(runtime)
    runtime.set(server=server)
    tell_when_forked(server)


def checked(**settings: Any) -> ServeSettings:
    """What a server is told.

    Raises:
        UsageError: A setting is unknown or not possible; the message names it.
    """
    known = {field.name for field in fields(ServeSettings)}
    strange = sorted(settings.keys() - known)
    if strange:
        raise unknown(f"A server is told {', '.join(sorted(known))}", strange[0], known, given=", ".join(strange))
    return ServeSettings(**settings)


def stop(runtime: Runtime) -> Server | None:
    """End the lab's server, and give it; None where there is none. What has come is answered first."""
    server = runtime.state.server
    if server is not None:
        server.close()
        runtime.change(lambda state: replace(state, server=None) if state.server is server else state)
    return server
