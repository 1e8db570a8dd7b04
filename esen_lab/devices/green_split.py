"""How the SMs of a GPU are cut into disjoint groups for green contexts: arithmetic only, no CUDA.

The driver cuts one group off a set of SMs and hands back the remainder; groups of unequal size therefore need a chain
of cuts, each on the remainder of the last. Cutting the whole device twice would give two groups of the same SMs.

    S       SMs of the device
    g       grain: the fewest SMs that a group grows by, S // g is the number of units
    s_i     share of lane i in units; its group has s_i x g SMs
    layer   lanes whose groups are cut from the device by one chain: disjoint among each other
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esen_lab.errors import DeviceError, UsageError
from esen_lab.units import check_units

FINE_GRAIN = 2  # with the flag that ignores co-scheduling, on compute capability 9.0


def grain_of(capability: str, *, fine: bool = False) -> int:
    """The SMs that a group grows by, for a compute capability such as "9.0".

    Args:
        capability: "major.minor".
        fine: Whether co-scheduling is ignored: groups may be smaller, but thread-block clusters may not fit into them.

    Raises:
        UsageError: It is not a compute capability.
        DeviceError: GPUs of that capability have no green contexts.
    """
    major, dot, minor = capability.partition(".")
    if not (dot and major.isdigit() and minor.isdigit()):
        raise UsageError('A compute capability is two numbers, like "9.0"', given=capability)
    if int(major) < 6:
        raise DeviceError("Green contexts exist from compute capability 6.0 on", given=capability)
    # As the driver's documentation lists them: the fewest SMs of a group, which is a multiple of its alignment.
    usual = {6: 1, 7: 2, 8: 4}.get(int(major), 8)
    return min(usual, FINE_GRAIN) if fine else usual


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One step of a chain.

    Attributes:
        lane: Whose group it cuts, as an index into the shares.
        sms: How many SMs the group is to have.
        left: How many SMs remain for the next step.
    """

    lane: int
    sms: int
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """All cuts of one layer, the largest group first.

    Attributes:
        sms: SMs before the first cut.
        cuts: The steps.
    """

    sms: int
    cuts: tuple[Cut, ...]

    @property
    def left_over(self) -> int:
        """SMs that belong to no group of this layer."""
        return self.cuts[-1].left if self.cuts else self.sms


def units_of(sms: int, grain: int) -> int:
    """How many units a device has.

    Raises:
        DeviceError: Not even one group fits.
    """
    if grain < 1 or sms < grain:
        raise DeviceError(
            "A green context has at least one whole group of SMs",
            given=f"{sms} SMs in groups of {grain}",
            hint="Choose another device.",
        )
    return sms // grain


def chain_of(sms: int, grain: int, shares: Sequence[int]) -> Chain:
    """Cut disjoint groups for lanes that run at the same time.

    Args:
        sms: SMs of the device.
        grain: SMs per unit.
        shares: Units per lane, each at least 1, together at most `units_of(sms, grain)`.

    Raises:
        UsageError: A share is not within the device, or they sum to more than it has.
    """
    units = units_of(sms, grain)
    for share in shares:
        check_units(share, units)
    if sum(shares) > units:
        raise UsageError(
            f"Disjoint groups have at most {units} units of {grain} SMs together",
            given=f"{' + '.join(map(str, shares))} = {sum(shares)}",
            hint="Make shares smaller, or let lanes overlap in several layers.",
        )
    left = sms
    cuts = []
    # The largest first: what is cut later has the more scattered SMs to choose from, which matters least to small ones.
    for lane in sorted(range(len(shares)), key=lambda lane: (-shares[lane], lane)):
        wanted = shares[lane] * grain
        left -= wanted
        cuts.append(Cut(lane=lane, sms=wanted, left=left))
    return Chain(sms=sms, cuts=tuple(cuts))


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
