"""What a comparison compares with the chosen plan: baselines, peers, and what is the user's own, each by its name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from esen_lab.common.trees import Tree
from esen_lab.common.units import check_count
from esen_lab.common.words import listed, unknown
from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble
from esen_lab.errors import EsenError, UsageError
from esen_lab.planner.plan import Plan
from esen_lab.run.baselines import STRATEGIES, NotApplicable
from esen_lab.run.comparison import CHOSEN
from esen_lab.run.peers import PEERS, peer_of, peer_plans

Way: TypeAlias = "Callable[[Tree], Tree]"
"""A function of the user's own that gives the ensemble's answer to an input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why a strategy did not run, and whether it could have."""

    words: str
    applicable: bool

    @classmethod
    def of(cls, strategy: str, problem: EsenError) -> Why:
        """What an error says."""
        words = problem.rule.rstrip(".") + (f" ({problem.given})" if problem.given else "")
        # One batched call traces what it runs: a network that it cannot trace has not failed at anything.
        return cls(words=words, applicable=not isinstance(problem, NotApplicable) and strategy != "vmap")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """What is compared, by name.

    Attributes:
        plans: The reference first: of each the plan that it is; of a peer one for each of its settings.
        ways: The functions.
        failed: What cannot be compared, and what has failed since.
    """

    plans: Mapping[str, tuple[Plan, ...]]
    ways: Mapping[str, Way]
    failed: dict[str, Why]

    @property
    def order(self) -> tuple[str, ...]:
        """The order of rows: baselines, peers, what is the user's own, the chosen plan."""
        known = {*self.plans, *self.ways, *self.failed, CHOSEN}
        every = ("sequential", *STRATEGIES, *PEERS, *sorted(filter(peer_of, known)), *self.plans, *self.ways, CHOSEN)
        return tuple(name for name in dict.fromkeys(every) if name in known)


def check_asked(
    rounds: int,
    strategies: Sequence[str] | None,
    peers: Sequence[str],
    plans: Collection[str],
    ways: Mapping[str, Way],
) -> list[str]:
    """Refuse what `compare` cannot be asked for, before anything is started for it; `plans` are the names of those.

    Returns:
        The names of the strategies and peers that are asked for.

    Raises:
        UsageError: There is no round, a strategy is unknown, or what is the user's own has a name that is taken.
    """
    check_count(rounds, "A comparison has at least one round")
    asked = STRATEGIES if strategies is None else ["sequential", *listed(strategies)]
    names = [name for name in dict.fromkeys((*asked, *peers)) if name != CHOSEN]
    strange = [name for name in names if name not in STRATEGIES and not peer_of(name)]
    if strange:
        known = (*STRATEGIES, *PEERS)
        rule, given = f"A strategy is one of: {', '.join(known)}", ", ".join(map(repr, strange))
        raise unknown(rule, strange[0], known, given=given)
    for what, own in (("plan", plans), ("function", ways)):
        taken = [name for name in own if name in STRATEGIES or peer_of(name) or name == CHOSEN]
        if taken:
            told = f"A {what} to compare with has a name that no strategy has: {', '.join(taken)}"
            raise UsageError(told, given=taken[0])
    odd = [name for name, way in ways.items() if name in plans or not callable(way)]
    if odd:
        raise UsageError(
            "A function to compare with has a name of its own, and is called with the input",
            given=f"{odd[0]}: {ways[odd[0]]!r}",
        )
    return names


def entries_of(
    names: Sequence[str], plans: Mapping[str, Plan], ways: Mapping[str, Way], ensemble: Ensemble, device: Device
) -> Entries:
    """All that `compare` is to run: the strategies and peers of these names, and what is the user's own."""
    made: dict[str, tuple[Plan, ...]] = {}
    failed: dict[str, Why] = {}
    for name in names:
        try:
            if peer_of(name):
                made[name] = peer_plans(name, ensemble, device)
            else:
                made[name] = (STRATEGIES[name](ensemble, device.units),)
        except EsenError as problem:
            failed[name] = Why.of(name, problem)
    return Entries(plans={**made, **{name: (plan,) for name, plan in plans.items()}}, ways=ways, failed=failed)
