"""Lower bounds on the JCT that hold for any schedule, lanes or not.

    t[i, u]   seconds of item i at share u        C   capacity in units

Critical path: nobody is faster than alone at its best share. Area: by time T, at most C T unit-seconds have been
worked, and item i takes at least a_i(T) = min{u t[i, u] : t[i, u] <= T} of them. So T is possible only when
sum_i a_i(T) <= C T (the argument of Turek, Wolf and Yu, SPAA 1992). Since a_i falls and C T grows with T, the
smallest such T is the bound; a_i is a step function, so it is found exactly, without bisection.
"""

from __future__ import annotations

import numpy as np

from esen_lab.planner.problem import SearchProblem


def schedule_bound_s(problem: SearchProblem) -> float:
    """The smallest T that neither the critical path nor the area rules out, in seconds."""
    table = problem.table
    critical = float(table.min(axis=1).max())
    areas = table * np.arange(1, table.shape[1] + 1)
    start = np.where(table <= critical, areas, np.inf).min(axis=1, keepdims=True)
    # Along falling shares the latency grows: the least area among shares fast enough for T is a running minimum.
    deadlines, falling = table[:, ::-1], areas[:, ::-1]
    least = np.minimum.accumulate(np.concatenate((start, falling), axis=1), axis=1)
    saved = least[:, :-1] - least[:, 1:]  # the area that the item saves once T reaches this deadline
    later = np.isfinite(deadlines) & (deadlines > critical)
    order = np.argsort(deadlines[later], kind="stable")
    times = np.concatenate(([critical], deadlines[later][order]))
    total = start.sum() - np.concatenate(([0.0], np.cumsum(saved[later][order])))
    possible = np.maximum(times, total / problem.capacity)
    # Between two deadlines the area is constant: T is possible there from `possible` on, if that is before the next.
    following = np.concatenate((times[1:], [np.inf]))
    return float(possible[possible < following][0])
