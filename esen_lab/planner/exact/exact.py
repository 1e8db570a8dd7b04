"""The default searcher: a good plan at once, then the best plan of lanes, with a proof that none is better.

0. Small cases are solved directly (see `direct`), and nothing is left to improve or prove.
1. Starts: one lane with everything, and longest-first deals over 1..max lanes, each with its exact shares.
2. Tabu search improves the best of them, for a number of steps that depends on the problem's size and the options.
3. Where the subsets of sub-models can be listed, the cover test (see `cover`) asks for a plan faster than the best: it
   finds one, and the search goes on below it, or proves that there is none, and the search is over.

Every step is a function of the problem and the options, so the result does not depend on the machine's speed, as long
as the time limit is not reached.
"""

from __future__ import annotations

from dataclasses import dataclass

from esen_lab.common.units import check_count, check_number, check_seed, format_percent
from esen_lab.errors import UsageError
from esen_lab.planner.exact import direct
from esen_lab.planner.exact.cover import MOST_ITEMS, Cover, CutShort, cost
from esen_lab.planner.exact.tabu import improve, starts
from esen_lab.planner.exact.within_limits import Undecided, lanes_within, with_the_rest
from esen_lab.planner.problem import SearchProblem
from esen_lab.planner.search_state import EXACTLY, Groups, SearchWatch
from esen_lab.planner.shares import best_shares

_NUMBERS_PER_SECOND = 4e8
"""How many numbers a cover test gets through per second, cautiously: decides whether a proof is begun at all."""
_FAST_S = 2.0
"""The time limit for which the number of steps was chosen; what may take longer may take more of them."""
_MOST_TIMES = 1000.0
"""So many times as many steps at most, however long the search may take: an endless time limit ends too."""
_DIRECT = 4e5
"""A direct solution that touches so few numbers takes a few ms: less than a first deadline and its neighbours."""
_CHEAP = 1e7
"""A cover test of so few numbers takes some 10 ms: then it searches by itself, faster than tabu search would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """Options of the exact searcher.

    Attributes:
        time_limit_s: Wall time for everything. A proof that would take longer is left out or cut short, and the notes
            say so: 2 s prove up to 16 sub-models on 16 units, a minute up to 16 on 132 or 20 on 16.
        proof: Whether to prove; without, the answer is the fast one.
        steps: Steps of the tabu search; None chooses by size and, where nothing can be proven, by the time limit.
        seed: Of the tabu search.
        sequential_within: One lane with everything is chosen when it is at most this fraction slower than the best plan
            found: less is not worth several lanes, nor told apart by measuring.
    """

    time_limit_s: float = 2.0
    proof: bool = True
    steps: int | None = None
    seed: int = 0
    sequential_within: float = 0.01

    def __post_init__(self) -> None:
        """Check the options."""
        check_seed(self.seed)
        check_number(self.time_limit_s, "A time limit is a positive number of seconds", above=0.0)
        check_number(self.sequential_within, "sequential_within is a fraction from 0 up to 1", least=0.0, below=1.0)
        if not isinstance(self.proof, bool):
            raise UsageError("Whether to prove is true or false", given=f"proof={self.proof!r}")
        if self.steps is not None:
            steps = check_count(self.steps, "A number of steps is a whole one, at least 0", least=0)
            object.__setattr__(self, "steps", steps)

    def __call__(self, problem: SearchProblem, watch: SearchWatch) -> None:
        """See `Searcher`."""
        watch.limit(self.time_limit_s)
        n = len(problem.items)
        together: Groups = (tuple(range(n)),)
        sequential = None if problem.conflicts.any() else best_shares(problem, together)
        if sequential is not None:
            watch.offer(together, *sequential)
            if self._is_as_good(sequential[1], watch.bound_s, watch):
                watch.notes.append(self._verdict(sequential[1], watch.bound_s, "the lower bound"))
                return
        if problem.one_each:
            self._best_of(problem, watch, tuple((i,) for i in range(len(problem.items))))
            return
        self._search(problem, watch)
        several = watch.best is not None and len(watch.best.groups) > 1
        if sequential is not None and several and self._is_as_good(sequential[1], watch.jct_s, watch):
            watch.notes.append(self._verdict(sequential[1], watch.jct_s, "the best plan found"))
            watch.prefer(together, *sequential)

    def _best_of(self, problem: SearchProblem, watch: SearchWatch, groups: Groups | None) -> None:
        """Offer groups that are proven to be the best ones, with their best shares."""
        watch.evaluations += 1
        solution = None if groups is None else best_shares(problem, groups)
        if groups is not None and solution is not None:
            watch.offer(groups, *solution)
            watch.raise_bound(solution[1])

    def _search(self, problem: SearchProblem, watch: SearchWatch) -> None:
        if self.proof and direct.cost(problem) <= _DIRECT:
            self._best_of(problem, watch, direct.best_groups(problem))
            return
        watch.report("trying longest-first deals")
        for groups in starts(problem):
            watch.evaluations += 1
            solution = best_shares(problem, groups)
            if solution is not None:
                watch.offer(groups, *solution)
        provable = self.proof and self._is_provable(problem, watch)
        if watch.best is None:
            _keep_the_limits(problem, watch)
        if not (provable and cost(problem) < _CHEAP):
            watch.report("improving by moves and swaps")
            improve(problem, watch, steps=self._steps(len(problem.items), provable), seed=self.seed)
        if provable and watch.best is not None:
            self._prove(problem, watch)

    def _steps(self, n: int, provable: bool) -> int:
        if self.steps is not None:
            return self.steps
        if provable:
            return 100 + 10 * n
        return int((100 + 40 * n) * min(max(1.0, self.time_limit_s / _FAST_S), _MOST_TIMES))

    def _is_as_good(self, sequential_s: float, other_s: float, watch: SearchWatch) -> bool:
        within = sequential_s <= other_s * (1 + max(self.sequential_within, EXACTLY))
        return within and sequential_s <= watch.slowest_s

    def _verdict(self, sequential_s: float, other_s: float, other: str) -> str:
        loss = format_percent(max(0.0, sequential_s / other_s - 1))
        tolerance = format_percent(self.sequential_within)
        return f"sequential is as good: one lane is within {loss} of {other} (up to {tolerance} counts as equal)"

    def _is_provable(self, problem: SearchProblem, watch: SearchWatch) -> bool:
        if len(problem.items) > MOST_ITEMS:
            watch.notes.append(f"not proven to be the best: proofs go up to {MOST_ITEMS} sub-models")
            return False
        if 3 * cost(problem) > self.time_limit_s * _NUMBERS_PER_SECOND:
            watch.notes.append(
                f"not proven to be the best: that needs more than the time limit of {self.time_limit_s:g} s"
            )
            return False
        return True

    def _prove(self, problem: SearchProblem, watch: SearchWatch) -> None:
        if watch.proven:
            return
        watch.report("looking for a faster plan, or a proof that there is none")
        cover = Cover(problem, lambda: watch.over)
        halfway = False  # after a success a deadline halfway to the bound; after a failure one just below the best
        while not watch.proven and not watch.over:
            just_below = watch.jct_s * (1 - EXACTLY)
            deadline_s = (watch.bound_s + just_below) / 2 if halfway else just_below
            watch.evaluations += 1
            try:
                groups = cover.plan(deadline_s)
            except CutShort:
                break
            if groups is None:
                watch.raise_bound(deadline_s if halfway else watch.jct_s)
                halfway = False
                continue
            solution = best_shares(problem, groups)
            assert solution is not None
            watch.offer(groups, *solution)
            halfway = True
        if not watch.proven:
            watch.notes.append(f"not proven to be the best within the time limit of {self.time_limit_s:g} s")


def _keep_the_limits(problem: SearchProblem, watch: SearchWatch) -> None:
    """Offer a plan that keeps the limits, however slow, if there is one."""
    try:
        few = lanes_within(problem)
    except Undecided:
        return
    if few is not None:
        groups = with_the_rest(problem, few)
        solution = best_shares(problem, groups)
        assert solution is not None  # they keep the limits
        watch.offer(groups, *solution)
