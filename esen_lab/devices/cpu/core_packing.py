"""Which cores each lane of a plan gets: inside one L3 domain where it fits, else inside one node, else where it can.

    domain      cores of one kind with one L3 in one node; a node here is its cores of one kind
    stays       inside a domain (0), inside a node (`_SPLIT`), over nodes (`_APART`), on slow cores although fast ones
                would do (`_SLOWER`): what a lane's place costs. What it costs where the lane is alone is no loss.
    claim       so many cores of a domain, for a lane

Where shares sum to at most the cores, the lanes' places are chosen for the least loss:

1. Lanes too large for any domain take whole ones, then the others the emptiest that holds them: lanes far from each
   other have caches and memory channels of their own, as when they were profiled.
2. If that loses something, each lane takes the fullest domain that holds it, and all other choices are tried (depth
   first, equal states once) until nothing is lost, or nothing better is left, or `_MOST_STEPS` have been taken.

Cores are then given out in the order of lanes. On one domain that is: the first lane has the first cores, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from esen_lab.devices.cpu.topology import Topology

_SPLIT, _APART, _SLOWER = 1, 100, 10_000
_MOST_STEPS = 5_000  # about 0.1 s

Claims = list[tuple[int, int]]
"""(domain, how many cores of it) of one lane."""
_NodeState = tuple[bool, int, tuple[int, ...]]
"""Whether it is of slow cores, how many are free, and how many of each domain: of equal nodes one is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Where lanes go.

    Attributes:
        cores: For each lane the positions of its cores in the topology, ascending.
        loss: What their places cost beyond those that each lane would have alone; 0: nothing.
        exact: Whether it is proven that no other places lose less.
    """

    cores: tuple[tuple[int, ...], ...]
    loss: int
    exact: bool


@dataclass(frozen=True, slots=True)
class _Choice:
    """Where one lane may go: a domain, else a node, else anywhere."""

    cost: int
    domain: int | None = None
    node: int | None = None


class Packer:
    """Packs lanes on the cores of a topology.

    Args:
        topology: Its fast cores are preferred, where it has both kinds.
    """

    def __init__(self, topology: Topology) -> None:
        domains: dict[tuple[bool, int, int], list[int]] = {}
        for position, core in enumerate(topology.cores):
            key = (core.kind == "slow", core.node or 0, -1 if core.l3 is None else core.l3)
            domains.setdefault(key, []).append(position)
        ordered = sorted(domains.items(), key=lambda pair: (pair[0][0], pair[1][0]))
        self.domains = [cores for _, cores in ordered]
        node_of = {key[:2]: 0 for key, _ in ordered}
        node_of = {key: number for number, key in enumerate(node_of)}
        self.node_of = [node_of[key[:2]] for key, _ in ordered]
        self.slow = [key[0] for key, _ in ordered]
        self.nodes = [[d for d, node in enumerate(self.node_of) if node == n] for n in range(len(node_of))]
        self.units = len(topology.cores)
        self.fast = sum(len(cores) for cores, slow in zip(self.domains, self.slow, strict=True) if not slow)

    def pack(self, shares: Sequence[int]) -> Packing:
        """Places for lanes of these shares, each 1 to all cores; disjoint while they last."""
        if sum(shares) > self.units:
            return self._overlapping(shares)
        if len(self.domains) == 1:
            claims: list[Claims] = [[(0, share)] for share in shares]
            return Packing(cores=self._cores(claims), loss=0, exact=True)
        spread = _Search(self, shares)
        spread.reserve_large()
        spread.run(emptiest=True, most_steps=len(shares) + 1)
        if spread.loss == 0:
            return Packing(cores=self._cores(spread.claims), loss=0, exact=True)
        tight = _Search(self, shares)
        tight.run(emptiest=False, most_steps=_MOST_STEPS)
        best = min(tight, spread, key=lambda one: one.loss)
        return Packing(cores=self._cores(best.claims), loss=best.loss, exact=best.loss == 0 or tight.exhausted)

    def alone(self, share: int) -> tuple[int, ...]:
        """The cores of a lane of this share that has the machine to itself."""
        return self.pack([share]).cores[0]

    def cost_alone(self, share: int) -> int:
        """The least that a place for this share can cost."""
        if share <= max((len(c) for c, slow in zip(self.domains, self.slow, strict=True) if not slow), default=0):
            return 0
        return min(self._stays(share, domain=d) for d in range(len(self.domains)))

    def _stays(self, share: int, domain: int) -> int:
        node = self.node_of[domain]
        slower = _SLOWER if self.slow[domain] and share <= self.fast else 0
        if share <= len(self.domains[domain]):
            return slower
        if share <= sum(len(self.domains[d]) for d in self.nodes[node]):
            return slower + _SPLIT
        return _APART + (_SLOWER if share > self.fast > 0 and any(self.slow) else 0)

    def _cores(self, claims: Sequence[Claims]) -> tuple[tuple[int, ...], ...]:
        given = [0] * len(self.domains)
        lanes = []
        for lane in claims:
            cores: list[int] = []
            for domain, count in lane:
                cores += self.domains[domain][given[domain] : given[domain] + count]
                given[domain] += count
            lanes.append(tuple(sorted(cores)))
        return tuple(lanes)

    def _overlapping(self, shares: Sequence[int]) -> Packing:
        """Lanes in their order, each on the cores that fewest have so far; of equals, those of one domain."""
        load = [0] * self.units
        lanes = []
        for share in shares:
            most = sorted(load)[share - 1]
            chosen = [core for core in range(self.units) if load[core] < most]
            equal = [[core for core in cores if load[core] == most] for cores in self.domains]
            near = {d for d, cores in enumerate(self.domains) if set(cores) & set(chosen)}
            left = share - len(chosen)
            order = sorted(
                range(len(equal)), key=lambda d: (d not in near, self.slow[d], len(equal[d]) < left, -len(equal[d]), d)
            )
            for domain in order:
                take = equal[domain][: share - len(chosen)]
                chosen += take
            for core in chosen:
                load[core] += 1
            lanes.append(tuple(sorted(chosen)))
        return Packing(cores=tuple(lanes), loss=0, exact=False)


class _Search:
    """One try at a packing. Lanes are looked at from the largest to the smallest."""

    def __init__(self, packer: Packer, shares: Sequence[int]) -> None:
        self.packer, self.shares = packer, list(shares)
        self.free = [len(cores) for cores in packer.domains]
        self.free_of_node = [sum(self.free[d] for d in domains) for domains in packer.nodes]
        self.order = sorted(range(len(shares)), key=lambda lane: (-shares[lane], lane))
        self.alone = [packer.cost_alone(share) for share in self.shares]
        self.reserved: dict[int, Claims] = {}
        self.chosen: list[_Choice | None] = [None] * len(shares)
        self.best: list[_Choice | None] = []
        self.loss = 1 << 60
        self.exhausted = False

    @cached_property
    def claims(self) -> list[Claims]:
        """What each lane gets of each domain. Called once, after `run`."""
        claims: list[Claims] = [self.reserved.get(lane, []) for lane in range(len(self.shares))]
        free = [len(cores) for cores in self.packer.domains]
        for lane, choice in enumerate(self.best):
            if choice is not None and choice.domain is not None:
                claims[lane] = [(choice.domain, self.shares[lane])]
        for domain, count in (claim for some in claims for claim in some):
            free[domain] -= count
        for inside_node in (True, False):
            for lane, choice in enumerate(self.best):
                if choice is not None and choice.domain is None and (choice.node is not None) == inside_node:
                    claims[lane] = self._take(self.shares[lane], choice.node, free)
        return claims

    def reserve_large(self) -> None:
        """Give lanes that no domain holds whole domains, before anybody else has some of their cores."""
        largest = max(map(len, self.packer.domains))
        for lane in self.order:
            share = self.shares[lane]
            if share > largest:
                nodes = [n for n, free in enumerate(self.free_of_node) if free >= share]
                node = min(nodes, key=lambda n: (self._is_slow(n), -self.free_of_node[n], n), default=None)
                self.reserved[lane] = self._take(share, node, self.free)
                for domain, count in self.reserved[lane]:
                    self.free_of_node[self.packer.node_of[domain]] -= count
        self.order = [lane for lane in self.order if lane not in self.reserved]

    def run(self, *, emptiest: bool, most_steps: int) -> None:
        """Look for the least loss.

        Args:
            emptiest: Whether the emptiest domain that holds a lane is tried first; else the fullest.
            most_steps: So many lanes are put somewhere at most.
        """
        lost = sum(max(0, self._cost_of(lane, claims) - self.alone[lane]) for lane, claims in self.reserved.items())
        self._steps, self._emptiest = most_steps, emptiest
        self._seen: dict[tuple[int, tuple[_NodeState, ...]], int] = {}
        self._place(0, lost)
        self.exhausted = self._steps > 0 and not self.reserved

    def _place(self, turn: int, lost: int) -> None:
        if lost >= self.loss:
            return
        if turn == len(self.order):
            self.loss, self.best = lost, list(self.chosen)
            return
        state = (turn, self._state())
        if self._seen.get(state, 1 << 60) <= lost:
            return
        self._seen[state] = lost
        lane = self.order[turn]
        share = self.shares[lane]
        for choice in self._choices(share):
            if self._steps <= 0 or self.loss == 0:
                return
            self._steps -= 1
            self._move(choice, -share)
            self.chosen[lane] = choice
            self._place(turn + 1, lost + max(0, choice.cost - self.alone[lane]))
            self._move(choice, share)
        self.chosen[lane] = None

    def _choices(self, share: int) -> Iterator[_Choice]:
        """Where a lane of this share can go now, the cheapest first; of equal ones one."""
        packer, sign = self.packer, -1 if self._emptiest else 1
        signature = [self._signature(n) for n in range(len(packer.nodes))]
        found: dict[tuple[int, int, int, _NodeState | None], _Choice] = {}
        for d, free in enumerate(self.free):
            node = packer.node_of[d]
            if share <= min(free, self.free_of_node[node]):
                cost = _SLOWER if packer.slow[d] and share <= packer.fast else 0
                key = (cost, sign * self.free_of_node[node], sign * free, signature[node])
                found.setdefault(key, _Choice(cost=cost, domain=d))
        for n, free in enumerate(self.free_of_node):
            if share <= free:
                cost = _SPLIT + (_SLOWER if self._is_slow(n) and share <= packer.fast else 0)
                found.setdefault((cost, sign * free, 0, signature[n]), _Choice(cost=cost, node=n))
        cost = _APART + (_SLOWER if any(packer.slow) else 0)
        found[cost, 0, 0, None] = _Choice(cost=cost)
        for _, choice in sorted(found.items(), key=lambda pair: pair[0][:3]):
            yield choice

    def _move(self, choice: _Choice, by: int) -> None:
        if choice.domain is not None:
            self.free[choice.domain] += by
            self.free_of_node[self.packer.node_of[choice.domain]] += by
        elif choice.node is not None:
            self.free_of_node[choice.node] += by

    def _signature(self, node: int) -> _NodeState:
        return (
            self._is_slow(node),
            self.free_of_node[node],
            tuple(sorted(self.free[d] for d in self.packer.nodes[node])),
        )

    def _state(self) -> tuple[_NodeState, ...]:
        return tuple(sorted(self._signature(n) for n in range(len(self.packer.nodes))))

    def _is_slow(self, node: int) -> bool:
        return self.packer.slow[self.packer.nodes[node][0]]

    def _cost_of(self, lane: int, claims: Claims) -> int:
        nodes = {self.packer.node_of[d] for d, _ in claims}
        slow = any(self.packer.slow[d] for d, _ in claims)
        cost = 0 if len(claims) == 1 else _SPLIT if len(nodes) == 1 else _APART
        return cost + (_SLOWER if slow and self.shares[lane] <= self.packer.fast else 0)

    def _take(self, share: int, node: int | None, free: list[int]) -> Claims:
        """Cores for a lane that no domain holds, in as few domains as possible; taken from `free`."""
        nodes = range(len(self.packer.nodes)) if node is None else [node]
        held = {n: sum(free[d] for d in self.packer.nodes[n]) for n in nodes}
        claims: Claims = []
        for n in sorted(nodes, key=lambda n: (self._is_slow(n), -held[n], n)):
            left = list(self.packer.nodes[n])
            while share and left:
                fitting = [d for d in left if free[d] >= share]
                # The last part goes where it leaves least behind.
                domain = min(fitting, key=lambda d: (free[d], d)) if fitting else max(left, key=lambda d: (free[d], -d))
                left.remove(domain)
                count = min(share, free[domain])
                if count:
                    claims.append((domain, count))
                    free[domain] -= count
                    share -= count
        return claims
