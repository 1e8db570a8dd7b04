"""What becomes of things that talk to other processes when this process is forked.

A child has copies of every socket: two processes that ask over one would get each other's answers, and a child that
tidies up would end the lanes of its parent. So whoever holds such things is told in the child, before any of its code
runs, and lets go of its copies.
"""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from typing import Protocol

from esen_lab.errors import UsageError
from esen_lab.lanes.openmp import before_fork


class Forked(Protocol):
    """Something that must be told when it is a copy in a forked child."""

    def let_go_in_child(self) -> None:
        """Called in the child, whose only thread this is: let go of what is the parent's, end nothing."""


@functools.cache
def _told() -> weakref.WeakSet[Forked]:
    known: weakref.WeakSet[Forked] = weakref.WeakSet()

    def before() -> None:
        with contextlib.suppress(Exception):  # whoever forks is not told of what we could not do
            before_fork()

    def after() -> None:
        for thing in list(known):
            with contextlib.suppress(Exception):  # a child goes on whatever happens to its copies
                thing.let_go_in_child()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_child=after)
    return known


def tell_when_forked(thing: Forked) -> None:
    """Have `thing.let_go_in_child` called in every child that this process forks, as long as `thing` lives."""
    _told().add(thing)


def not_here(what: str) -> UsageError:
    """The error of whatever is used in another process than the one that made it."""
    return UsageError(
        f"{what} is used in the process that made it",
        given=f"process {os.getpid()}, forked from that one",
        hint="Make one of its own in each process after the fork (gunicorn: in `post_fork`; uWSGI: `@postfork`; "
        "multiprocessing: in the worker's initializer), or fork before it is first used.",
    )
