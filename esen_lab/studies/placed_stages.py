"""The stages of a cascade over several devices or nodes: each is placed as an ensemble of its own would be.

One stage is at work at a time, so each may have all of every node, and the best placement of one has nothing to do with
that of another. What a stage is expected to take is that of `batch_times.py`, its transfers counted as those of the
whole batch, which is cautious: only rows that are open are sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from esen_lab.common.display import Shown
from esen_lab.errors import UsageError
from esen_lab.files.schemas import plain
from esen_lab.planner.plan import Plan
from esen_lab.run.stage_rows import sizes_for
from esen_lab.studies.batch_times import RowTimes, Times, expected_s, worst_s
from esen_lab.studies.cascade import Cascade
from esen_lab.studies.members import of_members, placed
from esen_lab.studies.placement import DevicePlacement, DeviceTables

_ABOUT_ROWS = ("asked in this order", "done at a confidence", "answers as all members", "accuracy ")
"""How those notes of a cascade begin that hold wherever its lanes are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedCascade(Shown):
    """A cascade whose stages are spread over several devices.

    Attributes:
        cascade: Who is asked in which stage, and when inputs are done.
        placements: For each stage, where its members run.
        expected_s: Expected JCT of a batch in seconds, transfers included.
        worst_s: Expected JCT of a batch of which nobody leaves early, in seconds.
        notes: Honest remarks for the reader.
    """

    cascade: Cascade
    placements: tuple[DevicePlacement, ...]
    expected_s: float
    worst_s: float
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Who is asked, stage by stage."""
        return tuple(name for stage in self.cascade.stages for name in stage.names)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        placements = [one.to_dict() for one in self.placements]
        return {**plain(self), "cascade": self.cascade.to_dict(), "placements": placements}


def place_stages(
    cascade: Cascade,
    devices: Sequence[DeviceTables],
    output_bytes: Mapping[str, int],
    row_times: RowTimes,
) -> PlacedCascade:
    """The best placement of each stage.

    Args:
        cascade: Its stages.
        devices: What is known of each device; all know the members of the cascade.
        output_bytes: As for `place`.
        row_times: How many rows a batch has, and what fewer take.

    Raises:
        UsageError: A device does not know a member, and as `place` does.
        InfeasibleError: As `place` does.
    """
    placements = tuple(
        placed(
            [_of(device, stage.names) for device in devices],
            {name: output_bytes[name] for name in stage.names if name in output_bytes},
        )
        for stage in cascade.stages
    )
    times = [_times(placement, row_times) for placement in placements]
    idle = [f"stage {number}: {note}" for number, one in enumerate(placements, 1) for note in one.notes]
    return PlacedCascade(
        cascade=cascade,
        placements=placements,
        expected_s=expected_s(times, [stage.reach for stage in cascade.stages]),
        worst_s=worst_s(times),
        notes=(*(note for note in cascade.notes if note.startswith(_ABOUT_ROWS)), *idle),
    )


def _of(device: DeviceTables, names: Sequence[str]) -> DeviceTables:
    """What is known of some members on a device."""
    missing = [name for name in names if name not in device.latencies]
    if missing:
        raise UsageError(
            "Every device knows every member of a cascade that is placed",
            given=f"{device.name!r} knows no {', '.join(missing)}",
            hint="Profile the missing ones there, or plan the cascade again.",
        )
    return replace(
        device,
        latencies={name: device.latencies[name] for name in names},
        models={name: device.models[name] for name in names if name in device.models},
    )


def _times(placement: DevicePlacement, row_times: RowTimes) -> Times:
    """The time of a stage by number of open rows: that of the device that is done last."""
    slowest: Times = np.max(
        [
            row_times.stage(own.plan, overhead_s=transfer_s, sizes=sizes_for(own.plan.lanes))
            for (_, own), transfer_s in zip(placement.devices, placement.transfers_s, strict=True)
            if own is not None
        ],
        axis=0,
    )
    return slowest


def plan_of_stages(found: PlacedCascade, **origin: Any) -> Plan:
    """The plan of a placed cascade; its JCT is the expected one."""
    stages, (first, *_) = found.cascade.stages, found.placements
    units = {name: size for (name, _), size in zip(first.devices, first.units, strict=True)}
    parts = [
        (number, name, own.plan)
        for number, placement in enumerate(found.placements)
        for name, own in placement.devices
        if own is not None
    ]
    several = len(stages) > 1
    return Plan(
        lanes=tuple(replace(lane, device=name, stage=number) for number, name, plan in parts for lane in plan.lanes),
        units=max(units.values()),
        searcher="placement",
        jct_s=found.expected_s,
        devices=units,
        reach=tuple(stage.reach for stage in stages) if several else (),
        threshold=found.cascade.threshold if several else None,
        worst_s=found.worst_s if several else None,
        notes=found.notes,
        **of_members(plan for _, _, plan in parts),
        **origin,
    )
