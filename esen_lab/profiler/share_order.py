"""Which shares to measure when nobody says, and in which order: useful answers first."""

from __future__ import annotations

import math
from collections.abc import Sequence

ALL_UP_TO = 16


def default_shares(units: int, steps: Sequence[int] = ()) -> tuple[int, ...]:
    """The shares to measure on a device with `units` units, ascending.

    All of them up to 16 units. Beyond, 1, 2, 3, 4, 6, 8, 12, 16, 24, ... (powers of two and one and a half times
    those) and `units` itself: latency is close to linear in 1/share, so shares are dense where 1/share changes fast,
    and the fit interpolates between them. A step closer than a tenth to `units` is left out. Where latency may jump
    between two shares (`steps`: the lower ones, see `Device.steps`), both are measured.
    """
    if units <= ALL_UP_TO:
        return tuple(range(1, units + 1))
    shares = [1]
    power = 2
    while power < units:
        shares += [power, power * 3 // 2]
        power *= 2
    at_steps = {share for step in steps for share in (step, step + 1) if 1 <= share <= units}
    return tuple(sorted({*(share for share in shares if share <= 0.9 * units), units, *at_steps}))


def measuring_order(shares: Sequence[int]) -> tuple[int, ...]:
    """`shares` in the order to measure them: the largest, the smallest, then always the one farthest from all before.

    Far is meant in log(share), in which scaling curves bend evenly. However early somebody stops, what was measured
    spans the range and a curve can be drawn through it. The largest comes first because it is the fastest one, shows
    most failures soonest and is what running without sharing costs.
    """
    remaining = sorted(set(shares), reverse=True)
    order: list[int] = []
    while remaining:
        if not order:
            share = remaining[0]
        elif len(order) == 1:
            share = remaining[-1]
        else:
            share = max(remaining, key=lambda s: (min(abs(math.log(s / done)) for done in order), s))
        order.append(share)
        remaining.remove(share)
    return tuple(order)
