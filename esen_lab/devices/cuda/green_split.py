"""How the SMs of a GPU are cut into disjoint groups for green contexts: arithmetic only, no CUDA.

    S       SMs of the device
    g       grain: the fewest SMs of a group, which every other one is a multiple of
    s_i     share of lane i in units; it has s_i x g SMs
    layer   lanes whose groups come from one division of the device: disjoint among each other

Two divisions of the whole device would give two lanes the same SMs. So one division makes all groups, and each lane is
dealt s_i of them: a green context may have several groups, when all come from one division. Where a driver refuses such
sets, each lane is cut from what the last cut left over (a chain), though documented as discouraged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esen_lab.common.units import check_units


@dataclass(frozen=True, slots=True, kw_only=True)
class Grain:
    """In which groups of SMs a GPU is divided.

    Attributes:
        sms: SMs of the smallest group; every other one has a multiple of it.
        groups: How many such groups the GPU has.
    """

    sms: int
    groups: int


def layers_of(units: int, shares: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Lanes that can be disjoint together, as indices; more than one layer only where shares sum to more than `units`.

    Lanes of one layer are disjoint; lanes of different layers may have the same SMs. Large lanes are placed first,
    each into the first layer with room.

    Raises:
        UsageError: A share is not within 1..units.
    """
    for share in shares:
        check_units(share, units)
    layers: list[list[int]] = []
    for lane in sorted(range(len(shares)), key=lambda lane: (-shares[lane], lane)):
        for layer in layers:
            if sum(shares[other] for other in layer) + shares[lane] <= units:
                layer.append(lane)
                break
        else:
            layers.append([lane])
    return tuple(tuple(sorted(layer)) for layer in layers)
