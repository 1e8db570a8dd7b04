"""Several devices or nodes: which sub-models run where, and in which lanes, so that the last node is done first.

A node has its part done at: input there + its slowest lane + outputs back (docs/nodes.md; `NodeLink`). One without a
link is where the caller is, where nothing travels.

Exact up to `MOST_EXACT` sub-models: deadlines are tried, each with a proof (`planner/nodes/subsets.py`). Beyond,
sub-models are packed and exchanged (`planner/nodes/deals.py`), and the gap to the bound of areas is told
(`planner/nodes/bound.py`). No placement that is found is slower than everything on the best single node.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from esen_lab.common.display import Shown
from esen_lab.common.units import check_name, format_seconds
from esen_lab.cost_model.model import CostModel
from esen_lab.errors import InfeasibleError, UsageError
from esen_lab.files.schemas import plain
from esen_lab.planner.allocation import Allocation
from esen_lab.planner.nodes import NodeLink
from esen_lab.planner.nodes.bound import AreaBound
from esen_lab.planner.nodes.deals import Deals
from esen_lab.planner.nodes.lane_bound import LaneBound
from esen_lab.planner.nodes.lane_plans import MOST_EXACT, LanePlans
from esen_lab.planner.nodes.nodes_problem import NodeProblem, node_problem
from esen_lab.planner.nodes.subsets import Subsets, memory_bytes
from esen_lab.planner.problem import Table
from esen_lab.planner.search_state import EXACTLY

_MOST_BYTES = 1 << 30
"""Proofs that take more memory are not begun: of 14 sub-models on dozens of unlike nodes of a hundred units."""
_FINDING = 0.5
"""The part of the time limit that is spent on finding placements; what is left sharpens the bound."""
_CLOSE = 0.002
"""A gap that no sharper bound is looked for."""
_MOST_UNITS = 512
"""Of all kinds together: beyond, the sharper bound takes too long."""
HERE = NodeLink()
"""The link of a node where the caller is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTables:
    """One device or node, and what its profile says.

    Attributes:
        name: Unlike any other device's.
        units: Its units.
        latencies: For each sub-model, seconds at 1..units units on this device.
        models: The cost models that these are the tables of, where they are known.
        link: What lies between it and whoever calls.
    """

    name: str
    units: int
    latencies: Mapping[str, Table]
    models: Mapping[str, CostModel] = field(default_factory=dict)
    link: NodeLink = HERE


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlacement(Shown):
    """Which sub-models run on which device, and how.

    Attributes:
        devices: (device name, its allocation); None for a device that stays idle.
        jct_s: Predicted JCT: that of the slowest device, with its transfers.
        bound_s: No placement is faster: proven.
        gap: jct_s / bound_s - 1.
        proven: Whether no placement is better, to a relative 1e-9.
        evaluations: How many placements or deadlines were examined.
        elapsed_s: Wall time.
        units: Each device's units.
        transfers_s: For each device, seconds of its JCT in which inputs and outputs travel; 0 where it stays idle.
        notes: Remarks, such as which nodes stay idle because of their transfers.
    """

    devices: tuple[tuple[str, Allocation | None], ...]
    jct_s: float
    bound_s: float
    gap: float
    proven: bool
    evaluations: int
    elapsed_s: float
    units: tuple[int, ...] = ()
    transfers_s: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        devices = [[name, None if own is None else own.to_dict()] for name, own in self.devices]
        return {**plain(self), "devices": devices}


def place(
    devices: Sequence[DeviceTables], *, output_bytes: Mapping[str, int] | None = None, time_limit_s: float = 3.0
) -> DevicePlacement:
    """Choose devices, lanes and shares for the shortest predicted JCT, transfers included.

    Args:
        devices: At least one; all know the same sub-models.
        output_bytes: How much each sub-model answers with; 0 for those not named. Counts where a link has `byte_s`.
        time_limit_s: With more than `MOST_EXACT` sub-models: wall time after which what is found has to do.

    Raises:
        UsageError: No device, two of one name, tables of different sub-models, bad latencies or sizes.
        InfeasibleError: A device cannot have a sub-model at any share, or no lanes can have them all.
    """
    started_s = time.perf_counter()
    problem = problem_of(devices, output_bytes)
    names = [device.name for device in devices]
    found = placement_of(problem, LanePlans(problem.names), names, time_limit_s=time_limit_s)
    notes = _about_idle(found, devices, output_bytes or {}, time_limit_s)
    return replace(found, notes=notes, elapsed_s=time.perf_counter() - started_s)


def problem_of(devices: Sequence[DeviceTables], output_bytes: Mapping[str, int] | None) -> NodeProblem:
    """The devices as a problem; arguments and errors as for `place`."""
    _check(devices)
    return node_problem([(one.units, one.latencies, one.link) for one in devices], output_bytes or {})


def placement_of(
    problem: NodeProblem, plans: LanePlans, names: Sequence[str], *, time_limit_s: float
) -> DevicePlacement:
    """The best placement of a problem over nodes of these names; `plans` keeps the lanes that are found on the way."""
    started_s = time.perf_counter()
    search = _PlacementSearch(problem, plans, time_limit_s)
    if len(problem.names) <= MOST_EXACT and memory_bytes(problem) <= _MOST_BYTES:
        search.prove()
    else:
        search.deal()
    jct_s = search.best_s
    if jct_s == float("inf"):
        raise InfeasibleError("Some lanes can have every sub-model", given="none were found")
    bound_s = min(search.bound_s, jct_s)
    kinds = [problem.kinds[k] for k in problem.kind_of]
    return DevicePlacement(
        devices=tuple(
            (name, plans.lanes(kind, mask)) for name, kind, mask in zip(names, kinds, search.best, strict=True)
        ),
        jct_s=jct_s,
        bound_s=bound_s,
        gap=max(0.0, jct_s / bound_s - 1),
        proven=jct_s <= bound_s * (1 + EXACTLY),
        evaluations=search.evaluations,
        elapsed_s=time.perf_counter() - started_s,
        units=tuple(kind.units for kind in kinds),
        transfers_s=tuple(kind.transfer_s(mask) for kind, mask in zip(kinds, search.best, strict=True)),
    )


def _check(devices: Sequence[DeviceTables]) -> None:
    if not devices:
        raise UsageError("A placement needs at least one device", given="none")
    device_names = [check_name(device.name, "device") for device in devices]
    if len(set(device_names)) < len(device_names):
        raise UsageError("Devices have different names", given=", ".join(device_names))
    names = tuple(devices[0].latencies)
    for device in devices:
        if set(device.latencies) != set(names):
            raise UsageError(
                "Every device knows every sub-model",
                given=f"{device.name!r} knows {', '.join(device.latencies) or 'none'} of {', '.join(names)}",
                hint="Profile the missing ones there.",
            )


class _PlacementSearch:
    """One search for a placement; `best` holds a subset per device, as bit masks over the sub-models."""

    def __init__(self, problem: NodeProblem, plans: LanePlans, time_limit_s: float) -> None:
        self.problem, self._plans, self._limit_s = problem, plans, time_limit_s
        self._area = AreaBound(problem)
        self.best: tuple[int, ...] = (0,) * problem.count
        self.best_s = float("inf")
        self.bound_s = 0.0
        self.evaluations = 0

    def offer(self, masks: tuple[int, ...]) -> bool:
        self.evaluations += 1
        jct_s = self._plans.jct_s(self.problem, masks)
        if not jct_s < self.best_s * (1 - EXACTLY):
            return False
        self.best, self.best_s = masks, jct_s
        return True

    def _on_one(self, k: int) -> tuple[int, ...]:
        masks = [0] * self.problem.count
        masks[self.problem.kinds[k].nodes[0]] = self.problem.everything
        return tuple(masks)

    def _offer_single_nodes(self) -> None:
        for k in range(len(self.problem.kinds)):
            if not self._too_slow(k):
                self.offer(self._on_one(k))

    def _too_slow(self, k: int) -> bool:
        """Whether everything on one node of a kind is surely not done before the best."""
        if self.best_s == float("inf"):
            return False
        sizes, room = self._area.sizes(self.best_s)
        return bool(sizes[k].sum() > room[k])

    def _in_turn_s(self) -> list[float]:
        """For each kind, when a node has everything done, one after another at the shares where that takes longest."""
        return [
            kind.transfer_s(self.problem.everything)
            + float(np.where(np.isfinite(kind.table), kind.table, 0).max(axis=1).sum())
            for kind in self.problem.kinds
        ]

    # --- with a proof ---------------------------------------------------------------------------------------------

    def prove(self) -> None:
        """Everything on one node first, then deadlines below the best, until there is a proof that none is possible."""
        travels = any(kind.travels for kind in self.problem.kinds)
        if not travels:
            self.offer(self._evenly())
        self._offer_single_nodes()
        subsets = Subsets(self.problem, self._plans.times)
        if self.best_s == float("inf"):  # no node can have everything, but some may together
            masks = subsets.placement(max(self._in_turn_s()))
            if masks is None or not self.offer(masks):
                return
        self.bound_s = self._area.within(self.best_s)
        halfway = True
        while self.best_s > self.bound_s * (1 + EXACTLY):
            just_below = self.best_s * (1 - EXACTLY)
            deadline_s = (self.bound_s + just_below) / 2 if halfway else just_below
            self.evaluations += 1
            masks = subsets.placement(deadline_s)
            if masks is None:
                self.bound_s = deadline_s if halfway else self.best_s
                halfway = False
            else:
                halfway = True
                if not self.offer(masks):
                    break  # a lane search ran into its time limit, so the deadline stays unreached
        if travels:
            self._leave_out(subsets)

    def _evenly(self) -> tuple[int, ...]:
        """Longest first, each onto the node where the area then ends first."""
        masks, ends_s = [0] * self.problem.count, [0.0] * self.problem.count
        by_kind = [(kind.table * np.arange(1, kind.units + 1)).min(axis=1) / kind.units for kind in self.problem.kinds]
        for i in np.argsort(-np.min(by_kind, axis=0), kind="stable"):
            parts = [float(by_kind[k][i]) for k in self.problem.kind_of]
            node = min(range(len(masks)), key=lambda node: ends_s[node] + parts[node])
            ends_s[node] += parts[node]
            masks[node] |= 1 << int(i)
        return tuple(masks)

    def _leave_out(self, subsets: Subsets) -> None:
        """Leave a node idle that something has to travel to, where the others are as fast without it."""
        as_fast_s = self.best_s * (1 + EXACTLY / 2)  # times are sums, and the same in another order may be later
        left_out = True
        while left_out:
            left_out = False
            used = [0] * len(self.problem.kinds)
            for node, mask in enumerate(self.best):
                used[self.problem.kind_of[node]] += mask != 0
            for k in reversed(range(len(used))):  # those with the longest way first
                fewer = [count - (k == own) for own, count in enumerate(used)]
                possible = used[k] and sum(used) > 1 and self.problem.kinds[k].travels
                masks = subsets.placement(as_fast_s, fewer) if possible else None
                if masks is not None and self._plans.jct_s(self.problem, masks) <= as_fast_s:
                    self.best, left_out = masks, True
                    self.best_s = self._plans.jct_s(self.problem, masks)
                    break

    # --- without ----------------------------------------------------------------------------------------------

    def deal(self) -> None:
        """Pack, exchange, gather; then the lanes of what was found, as well as they are found."""
        ends_s = time.perf_counter() + self._limit_s
        deals = Deals(self.problem, self._plans, self._area, _FINDING * self._limit_s)
        most_s = min(self._in_turn_s())
        self.bound_s = self._area.within(most_s)
        deals.pack(self.bound_s, most_s)
        if deals.best:
            deals.improve()
            deals.gather()
            self.offer(deals.best)
        self._offer_single_nodes()
        if self.best_s < float("inf"):
            self.bound_s = self._area.within(self.best_s, self.bound_s)
            self._sharpen(ends_s)
        self.evaluations += deals.evaluations

    def _sharpen(self, ends_s: float) -> None:
        """Raise the bound by what lanes rule out, where areas leave a gap and there is time."""
        units = sum(kind.units for kind in self.problem.kinds)
        if self.best_s > self.bound_s * (1 + _CLOSE) and units <= _MOST_UNITS:
            self.bound_s = LaneBound(self.problem, ends_s).within(self.best_s, self.bound_s)


def _about_idle(
    found: DevicePlacement, devices: Sequence[DeviceTables], output_bytes: Mapping[str, int], time_limit_s: float
) -> tuple[str, ...]:
    """Which devices stay idle, and whether that is for their transfers: whether they would be used without any."""
    idle = [name for name, own in found.devices if own is None]
    if not idle:
        return ()
    told = f"idle: {', '.join(idle)}"
    if all(device.link.is_free for device in devices if device.name in idle):
        return (told,)
    free = [replace(device, link=HERE) if device.name in idle else device for device in devices]
    problem = problem_of(free, output_bytes)
    names = [device.name for device in free]
    without = placement_of(problem, LanePlans(problem.names), names, time_limit_s=time_limit_s / 4)
    used = [name for name, own in without.devices if own is not None and name in idle]
    if not used or without.jct_s >= found.jct_s * (1 - EXACTLY):
        return (told,)
    return (
        told,
        f"idle because of transfer: {', '.join(used)}, which would help if nothing had to travel "
        f"({format_seconds(without.jct_s)} in the place of {format_seconds(found.jct_s)})",
    )
