"""What a process that makes lanes must not inherit from the notebook, whatever the notebook has done to itself.

environment     OpenMP's bindings and limits: a lane has its own cores and as many threads, and neither the places
                that OpenMP computed for the notebook nor a limit on threads may contradict that
CPUs            a notebook that OpenMP has bound to one CPU hands that down; lanes on a GPU pin nothing themselves
signals         an ignored SIGCHLD has the kernel forget how children ended; a blocked or ignored SIGTERM makes a
                process deaf to whoever ends it
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping

from esen_lab.devices.cpu.affinity import BINDING, allowed_cpus, allowed_now, cpus_in, ranges

_LIMITS = (
    "OMP_THREAD_LIMIT",
    "OMP_DYNAMIC",
    "OMP_MAX_ACTIVE_LEVELS",
    "KMP_ALL_THREADS",
    "KMP_MAX_THREADS",
    "KMP_TEAMS_THREAD_LIMIT",
)
_CPUS = "ESEN_LAB_CPUS"  # from this process to the one that it starts


def environment_of_lanes(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that makes lanes, from this process's own."""
    found = {name: value for name, value in environment.items() if name not in (*BINDING, *_LIMITS, _CPUS)}
    if sys.platform == "linux":
        allowed = allowed_cpus().cpus
        if allowed != allowed_now():
            found[_CPUS] = ranges(allowed)
    return found


def forget_inherited() -> None:
    """Called first in a process that makes lanes: signals as they are at the start of a program, and all its CPUs."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    cpus = os.environ.pop(_CPUS, "")
    if cpus and sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError):
            os.sched_setaffinity(0, cpus_in(cpus))
