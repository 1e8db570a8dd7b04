"""Helpers that fork lanes, kept from one lab to the next: importing torch in each takes two seconds of a core.

A helper runs no code of users, and has nothing of a lab whose lanes have ended. One that is let go of in good order is
the next one's that begins in the same surroundings. `own_helper` marks the tests whose labs start and end theirs.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from typing import Any

import leaks

from esen_lab.common.children import child_environment, interpreter_flags
from esen_lab.lanes import fork_server
from esen_lab.lanes.backends import end_trials
from esen_lab.lanes.inheritance import environment_of_lanes
from esen_lab.lanes.messages import End, Ended, Started
from esen_lab.lanes.openmp import lane_environment

_MOST = 2
_ANSWER_S = 5.0
_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
_changing = threading.Lock()


class Kept(fork_server._Process):
    """See the module. One that was not let go of in good order is ended as always."""

    keeps = False  # whether the test that runs has what is let go of kept
    free: list[Kept]  # the last one last
    of = 0  # the process that keeps them: a forked child has none

    def __init__(self, method: str) -> None:
        self.surroundings = _surroundings(method)
        self.lanes: set[int] = set()
        super().__init__(method)

    def ask(self, record: object, fds: list[int], deadline: float) -> tuple[Any, tuple[int, ...]]:
        """As always, and note who was forked and who has ended."""
        answer, passed = super().ask(record, fds, deadline)
        if isinstance(answer, Started):
            self.lanes.add(answer.pid)
        elif isinstance(record, End) and isinstance(answer, Ended) and (record.kill or answer.exit_code is not None):
            self.lanes.discard(record.pid)
        return answer, passed

    def stop(self, grace_s: float = 0.0) -> str:
        """Keep it, if that can be."""
        if grace_s or not Kept.keeps or os.getpid() != Kept.of or not self._let_go_of():
            return super().stop(grace_s)
        with _changing:
            leaks.KEPT_PIDS.add(self.popen.pid)
            Kept.free.append(self)
            too_many = Kept.free.pop(0) if len(Kept.free) > _MOST else None
        if too_many is not None:
            _end(too_many)
        return ""

    def _let_go_of(self) -> bool:
        """End its lanes; False: it is not as it was at its beginning."""
        if self.popen.poll() is not None or self.asking.cut or self._child.gentle or self._child.must_end:
            return False
        try:
            for pid in sorted(self.lanes):
                ended, _ = self.ask(End(pid=pid, grace_s=0.0), [], time.monotonic() + _ANSWER_S)
                if ended.exit_code is not None and ended.exit_code < 0:
                    end_trials(pid)
        except (OSError, EOFError, fork_server.wire.Closed, fork_server.NotPlain):
            return False
        return not self.lanes


def _surroundings(method: str) -> object:
    """What a process takes from the one that starts it."""
    environment = child_environment(lane_environment(environment_of_lanes(os.environ)))
    environment.pop("PYTEST_CURRENT_TEST", None)
    limits = [resource.getrlimit(limit) for limit in _LIMITS]
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return method, environment, os.getcwd(), os.geteuid(), sys.executable, interpreter_flags(), limits, cpus


def _one(method: str) -> Kept:
    """A helper that is free and would begin as a new one does, or a new one."""
    if Kept.keeps and os.getpid() == Kept.of:
        wanted = _surroundings(method)
        with _changing:
            for one in reversed(Kept.free):
                if one.surroundings == wanted and one.popen.poll() is None:
                    Kept.free.remove(one)
                    leaks.KEPT_PIDS.discard(one.popen.pid)
                    return one
    return Kept(method)


def _end(one: Kept) -> None:
    leaks.KEPT_PIDS.discard(one.popen.pid)
    super(Kept, one).stop()


def keep(wanted: bool) -> None:
    """Whether helpers are kept from now on."""
    if Kept.of != os.getpid():
        Kept.of, Kept.free = os.getpid(), []
        fork_server._Process = _one  # type: ignore[assignment, misc]
    Kept.keeps = wanted


def end_all() -> None:
    """End those that are kept."""
    while Kept.of == os.getpid() and Kept.free:
        _end(Kept.free.pop())
