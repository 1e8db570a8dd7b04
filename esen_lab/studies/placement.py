"""Several devices: which sub-models run where, and in which lanes, so that the slowest device is done first.

    D   devices, alike or different          U_d, t_d   units and tables of device d
    T   deadline                             a_id(T)    least area of item i on device d by T, see `bounds`

Exact up to `MOST_EXACT` sub-models: the cover test lists, for each device, the subsets it can do by T; T is possible
when one subset per device unite to all sub-models. Beyond, sub-models are dealt by area, then moved and swapped
between devices while that helps. The bound for both: by T the devices can work off D T device-seconds, and item i
takes at least the smallest of a_id(T) / U_d of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esen_lab.common.display import Shown
from esen_lab.common.units import check_name
from esen_lab.cost_model.model import CostModel
from esen_lab.errors import UsageError
from esen_lab.files.schemas import plain
from esen_lab.planner.allocate import allocate
from esen_lab.planner.allocation import Allocation
from esen_lab.planner.exact.cover import SubsetCover, unions
from esen_lab.planner.problem import Array, SearchProblem, Table, make_problem
from esen_lab.planner.search_state import EXACTLY

MOST_EXACT = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTables:
    """One device and what its profile says.

    Attributes:
        name: Unlike any other device's.
        units: Its units.
        latencies: For each sub-model, seconds at 1..units units on this device.
        models: The cost models that these are the tables of, where they are known.
    """

    name: str
    units: int
    latencies: Mapping[str, Table]
    models: Mapping[str, CostModel] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlacement(Shown):
    """Which sub-models run on which device, and how.

    Attributes:
        devices: (device name, its allocation); None for a device that stays idle.
        jct_s: Predicted JCT: that of the slowest device.
        bound_s: No placement is faster: proven.
        gap: jct_s / bound_s - 1.
        proven: Whether no placement is better, to a relative 1e-9.
        evaluations: How many placements or deadlines were examined.
        elapsed_s: Wall time.
        units: Each device's units.
    """

    devices: tuple[tuple[str, Allocation | None], ...]
    jct_s: float
    bound_s: float
    gap: float
    proven: bool
    evaluations: int
    elapsed_s: float
    units: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        devices = [[name, None if own is None else own.to_dict()] for name, own in self.devices]
        return {**plain(self), "devices": devices}


def place(devices: Sequence[DeviceTables]) -> DevicePlacement:
    """Choose devices, lanes and shares for the shortest predicted JCT.

    Args:
        devices: At least one; all know the same sub-models.

    Raises:
        UsageError: No device, two of one name, tables of different sub-models, or bad latencies.
    """
    started_s = time.perf_counter()
    names = _check(devices)
    search = _Search(names, devices)
    search.deal()
    if len(names) <= MOST_EXACT:
        search.prove()
    else:
        search.improve()
    jct_s = search.best_s
    bound_s = min(search.bound_s, jct_s)
    return DevicePlacement(
        devices=tuple(
            (device.name, search.plan(d, mask))
            for d, (device, mask) in enumerate(zip(devices, search.best, strict=True))
        ),
        jct_s=jct_s,
        bound_s=bound_s,
        gap=max(0.0, jct_s / bound_s - 1),
        proven=jct_s <= bound_s * (1 + EXACTLY),
        evaluations=search.evaluations,
        elapsed_s=time.perf_counter() - started_s,
        units=tuple(device.units for device in devices),
    )


def _check(devices: Sequence[DeviceTables]) -> tuple[str, ...]:
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
    return names


class _Search:
    """Masks name subsets of `names`; `best` holds one per device."""

    def __init__(self, names: tuple[str, ...], devices: Sequence[DeviceTables]) -> None:
        self.names, self.devices = names, devices
        self.problems = [make_problem({name: d.latencies[name] for name in names}, d.units) for d in devices]
        self.tables = [_in_order(problem) for problem in self.problems]
        self.plans: dict[tuple[int, int], Allocation] = {}
        self.evaluations = 0
        self.best: tuple[int, ...] = ()
        self.best_s = float("inf")
        self.bound_s = self.area_bound_s()

    def plan(self, device: int, mask: int) -> Allocation | None:
        """The best lanes for a subset on a device; alike devices share the answer."""
        if not mask:
            return None
        alike = next(d for d in range(device + 1) if np.array_equal(self.tables[d], self.tables[device]))
        if (alike, mask) not in self.plans:
            mine = {n: self.devices[device].latencies[n] for i, n in enumerate(self.names) if mask >> i & 1}
            quick: dict[str, Any] = {} if len(self.names) <= MOST_EXACT else {"time_limit_s": 0.5, "steps": 60}
            units = self.devices[device].units
            self.plans[alike, mask] = allocate(mine, units, sequential_within=0.0, **quick)
        return self.plans[alike, mask]

    def device_s(self, device: int, mask: int) -> float:
        plan = self.plan(device, mask)
        return 0.0 if plan is None else plan.jct_s

    def offer(self, masks: tuple[int, ...]) -> bool:
        self.evaluations += 1
        jct_s = 0.0
        for device, mask in enumerate(masks):
            jct_s = max(jct_s, self.device_s(device, mask))
            if jct_s >= self.best_s * (1 - EXACTLY):
                return False
        self.best, self.best_s = masks, jct_s
        return True

    def area_bound_s(self) -> float:
        """The smallest T that areas and critical paths allow, by bisection from below: what it returns is proven."""
        low, high = 0.0, float(sum(np.where(np.isfinite(table), table, 0).max(axis=1).sum() for table in self.tables))
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (low, middle) if self._is_possible(middle) else (middle, high)
        return low

    def _is_possible(self, deadline_s: float) -> bool:
        parts = []
        for table in self.tables:
            areas = np.where(table <= deadline_s, table * np.arange(1, table.shape[1] + 1), np.inf)
            parts.append(areas.min(axis=1) / table.shape[1])
        return bool(np.min(parts, axis=0).sum() <= len(self.tables) * deadline_s)

    def deal(self) -> None:
        """Longest first, each onto the device where the area then ends first; and everything on one device."""
        masks, ends_s = [0] * len(self.tables), [0.0] * len(self.tables)
        parts = [(t * np.arange(1, t.shape[1] + 1)).min(axis=1) / t.shape[1] for t in self.tables]
        for i in sorted(range(len(self.names)), key=lambda i: -min(part[i] for part in parts)):
            device = min(range(len(masks)), key=lambda d: ends_s[d] + parts[d][i])
            ends_s[device] += float(parts[device][i])
            masks[device] |= 1 << i
        self.offer(tuple(masks))
        for device in range(len(masks)):
            everything = [0] * len(masks)
            everything[device] = (1 << len(self.names)) - 1
            self.offer(tuple(everything))

    def prove(self) -> None:
        covers = [SubsetCover(problem) for problem in self.problems]
        orders = [_masks_in_order(problem) for problem in self.problems]
        halfway = False
        while self.best_s > self.bound_s * (1 + EXACTLY):
            just_below = self.best_s * (1 - EXACTLY)
            deadline_s = (self.bound_s + just_below) / 2 if halfway else just_below
            self.evaluations += 1
            within = [cover.within(deadline_s)[order] for cover, order in zip(covers, orders, strict=True)]
            masks = _unite(within)
            if masks is None:
                self.bound_s = deadline_s if halfway else self.best_s
                halfway = False
            else:
                halfway = True
                if not self.offer(masks):
                    return  # a lane search ran into its time limit, so the deadline stays unreached

    def improve(self) -> None:
        """Move a sub-model off the slowest device, or swap it for another, while that helps."""
        helped = True
        while helped:
            helped = False
            slowest = max(range(len(self.best)), key=lambda d: self.device_s(d, self.best[d]))
            for i in _bits(self.best[slowest]):
                for device in range(len(self.best)):
                    if device == slowest:
                        continue
                    swaps = [0, *(1 << j for j in _bits(self.best[device]))]
                    for back in swaps:
                        masks = list(self.best)
                        masks[slowest] = masks[slowest] & ~(1 << i) | back
                        masks[device] = masks[device] & ~back | 1 << i
                        if self.offer(tuple(masks)):
                            helped = True
                            break
                    if helped:
                        break
                if helped:
                    break


def _in_order(problem: SearchProblem) -> Array:
    """The running-minimum tables in the order of names."""
    table = np.empty_like(problem.table)
    for row, (i,) in zip(problem.table, problem.items, strict=True):
        table[i] = row
    return table


def _masks_in_order(problem: SearchProblem) -> NDArray[np.intp]:
    """For each mask over names, the same subset as a mask over the problem's items."""
    masks = np.arange(1 << len(problem.names))
    places: NDArray[np.intp] = np.zeros_like(masks)
    for place_of, (i,) in enumerate(problem.items):
        places |= ((masks >> i) & 1) << place_of
    return places


def _unite(within: Sequence[NDArray[np.bool_]]) -> tuple[int, ...] | None:
    """One subset per device, disjoint, that make up everything, or None: there are none."""
    reached = [within[0]]
    for more in within[1:]:
        reached.append(unions(reached[-1], more))
    rest = len(within[0]) - 1
    if not reached[-1][rest]:
        return None
    chosen = [0] * len(within)
    for device in range(len(within) - 1, 0, -1):
        masks = np.arange(rest + 1)
        masks = masks[masks & ~rest == 0]
        # Both families hold every subset of their sets, so the rest of a union is in the other one.
        fits = within[device][masks] & reached[device - 1][rest ^ masks]
        chosen[device] = int(masks[int(fits.argmax())])
        rest ^= chosen[device]
    chosen[0] = rest
    return tuple(chosen)


def _bits(mask: int) -> list[int]:
    return [i for i in range(mask.bit_length()) if mask >> i & 1]
