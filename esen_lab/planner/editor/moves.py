"""Moves: a draft in, a draft out. Pure functions; a move that cannot be raises `UsageError` and changes nothing.

The total stays within the device, unless the draft may oversubscribe (then no other lane is ever touched):

    a lane grows     free units are used first; then others give one unit at a time: whoever gets no slower by it,
                     else the lane that is fastest after giving, so that the JCT suffers least;
    a lane shrinks   the units it frees go to the others, always to the slowest lane, as long as they make it faster;
                     what would help nobody stays free.

Pinned lanes neither give nor take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from esen_lab.common.units import check_units
from esen_lab.common.words import unknown
from esen_lab.errors import UsageError
from esen_lab.planner.editor.draft import Draft, DraftLane, LaneKey, Tables, lane_seconds
from esen_lab.planner.steps import members_of


def most_units(draft: Draft, index: int) -> int:
    """The largest share that a lane can be given: pinned ones keep theirs, all others at least one unit."""
    if draft.oversubscribe:
        return draft.units
    others = (lane.units if lane.pinned else 1 for at, lane in enumerate(draft.lanes) if at != index)
    return max(1, draft.units - sum(others))


def set_shares(
    draft: Draft,
    tables: Tables,
    shares: Mapping[LaneKey, int],
    *,
    pin: Iterable[LaneKey] = (),
    unpin: Iterable[LaneKey] = (),
) -> Draft:
    """Give lanes these shares, then fix or free some. Lanes named here keep what they are given; others make room.

    Raises:
        UsageError: An unknown lane, a share outside of the device, two shares for one lane, one that is pinned and
            freed, or no room.
    """
    wanted: dict[int, int] = {}
    for key, units in shares.items():
        index = draft.find(key)
        own = check_units(units, draft.units, f"the share of {key!r}")
        if wanted.get(index, own) != own:
            raise UsageError(
                "A lane has one share", given=f"{wanted[index]} and {own} for {_called(draft.lanes[index])}"
            )
        wanted[index] = own
    pinned, freed = {draft.find(key) for key in pin}, {draft.find(key) for key in unpin}
    if both := pinned & freed:
        raise UsageError("A lane is pinned or freed", given=f"both for {_called(draft.lanes[min(both)])}")
    lanes = [
        replace(
            lane,
            units=wanted.get(index, lane.units),
            pinned=(lane.pinned or index in pinned) and index not in freed,
        )
        for index, lane in enumerate(draft.lanes)
    ]
    moved = replace(draft, lanes=tuple(lanes))
    if not wanted:
        return moved
    return _fit_in(moved, tables, before=draft.total_units, fixed=set(wanted))


def move_member(draft: Draft, tables: Tables, name: str, to: LaneKey | None) -> Draft:
    """Put a sub-model at the end of another lane, or (None) in a lane of its own.

    A lane that is left empty goes, and its units go to the lane that the sub-model joins, unless that is pinned.

    Raises:
        UsageError: An unknown sub-model or lane, or no room for one more lane.
    """
    name = _step(draft, name)
    source = draft.find(name)
    if to is None:
        return split(draft, tables, [name]) if len(draft.lanes[source].members) > 1 else draft
    target = draft.find(to)
    if target == source:
        return draft
    lanes: list[DraftLane | None] = list(draft.lanes)
    here, there = draft.lanes[source], draft.lanes[target]
    rest = tuple(member for member in here.members if member != name)
    joined = replace(there, members=(*there.members, name))
    if rest:
        lanes[source] = replace(here, members=rest)
    else:
        lanes[source] = None
        if not there.pinned:
            joined = replace(joined, units=min(there.units + here.units, draft.units))
    lanes[target] = joined
    moved = replace(draft, lanes=tuple(lane for lane in lanes if lane is not None))
    return _fit_in(moved, tables, before=draft.total_units, fixed=set())


def split(draft: Draft, tables: Tables, members: Sequence[str]) -> Draft:
    """Part a lane in two: `members` get a lane of their own, right behind the old one.

    The two divide the old share so that the slower of them is as fast as can be. A lane of one unit gets another one
    from the others. A pinned lane loses its pin.

    Raises:
        UsageError: The members are not in one lane, or are all that is in it, or there is no room.
    """
    if not members:
        raise UsageError("A split names the sub-models that leave the lane", given="none")
    members = [_step(draft, name) for name in members]
    index = draft.find(members[0])
    lane = draft.lanes[index]
    elsewhere = [name for name in members if name not in lane.members]
    if elsewhere:
        raise UsageError("A split takes sub-models of one lane", given=f"{members[0]} and {elsewhere[0]}")
    leaving = tuple(name for name in lane.members if name in members)
    staying = tuple(name for name in lane.members if name not in members)
    if not staying:
        raise UsageError("A split leaves something in the lane", given=f"all of {_called(lane)}")
    if draft.oversubscribe:
        mine, theirs = lane.units, lane.units
    else:
        share = max(lane.units, 2)

        def slower_then_sum(k: int) -> tuple[float, float]:
            both = lane_seconds(tables, staying, k), lane_seconds(tables, leaving, share - k)
            return max(both), sum(both)

        mine = min(range(1, share), key=slower_then_sum)
        theirs = share - mine
    halves = (DraftLane(units=mine, members=staying), DraftLane(units=theirs, members=leaving))
    moved = replace(draft, lanes=(*draft.lanes[:index], *halves, *draft.lanes[index + 1 :]))
    return _fit_in(moved, tables, before=draft.total_units, fixed={index, index + 1})


def merge(draft: Draft, tables: Tables, keys: Sequence[LaneKey]) -> Draft:
    """Make one lane of several, in the place of the first named, with all their units (at most the device's).

    The new lane is pinned when one of them was.

    Raises:
        UsageError: Fewer than two different lanes are named.
    """
    chosen = list(dict.fromkeys(draft.find(key) for key in keys))
    if len(chosen) < 2:
        given = ", ".join(map(str, keys)) or "none"
        raise UsageError("A merge takes two or more lanes", given=f"{given}, all of one lane" if keys[1:] else given)
    parts = [draft.lanes[index] for index in chosen]
    whole = DraftLane(
        units=min(sum(lane.units for lane in parts), draft.units),
        members=tuple(name for lane in parts for name in lane.members),
        pinned=any(lane.pinned for lane in parts),
    )
    lanes = [whole if i == chosen[0] else lane for i, lane in enumerate(draft.lanes) if i not in chosen[1:]]
    return _fit_in(replace(draft, lanes=tuple(lanes)), tables, before=draft.total_units, fixed=set())


def allow_oversubscription(draft: Draft, tables: Tables, allowed: bool) -> Draft:
    """Whether shares may sum to more than the device; when that ends, unpinned lanes give back what is too much.

    Raises:
        UsageError: Pinned shares alone are too much.
    """
    return _fit_in(replace(draft, oversubscribe=allowed), tables, before=draft.units, fixed=set())


def _fit_in(draft: Draft, tables: Tables, *, before: int, fixed: set[int]) -> Draft:
    """Balance the lanes that are neither pinned nor in `fixed`, see the module's text."""
    if draft.oversubscribe:
        return draft
    shares = [lane.units for lane in draft.lanes]
    movable = [i for i, lane in enumerate(draft.lanes) if not lane.pinned and i not in fixed]

    def seconds(index: int, units: int) -> float:
        return lane_seconds(tables, draft.lanes[index].members, units)

    while sum(shares) > draft.units:
        givers = [i for i in movable if shares[i] > 1]
        if not givers:
            raise _no_room(draft, fixed)
        after = {i: seconds(i, shares[i] - 1) for i in givers}
        giver = min(givers, key=lambda i: (after[i] > seconds(i, shares[i]), after[i], i))
        shares[giver] -= 1
    free = min(before, draft.units) - sum(shares)
    waiting = set(movable)
    while free > 0 and waiting:
        slowest = max(waiting, key=lambda i: (seconds(i, shares[i]), -i))
        now, most = seconds(slowest, shares[slowest]), min(shares[slowest] + free, draft.units)
        wider = next((u for u in range(shares[slowest] + 1, most + 1) if seconds(slowest, u) < now), None)
        if wider is None:
            waiting.discard(slowest)
            continue
        free -= wider - shares[slowest]
        shares[slowest] = wider
    lanes = tuple(replace(lane, units=units) for lane, units in zip(draft.lanes, shares, strict=True))
    return replace(draft, lanes=lanes)


def _no_room(draft: Draft, fixed: set[int]) -> UsageError:
    held = sum(lane.units for lane in draft.lanes if lane.pinned)
    others = [i for i, lane in enumerate(draft.lanes) if not lane.pinned and i not in fixed]
    asked = sum(draft.lanes[i].units for i in fixed if not draft.lanes[i].pinned)
    parts = [f"{asked} units asked for"] if asked else []
    parts += [f"{held} pinned"] if held else []
    parts += [f"at least {len(others)} for the other lanes"] if others else []
    return UsageError(
        f"The shares sum to at most {draft.units} units, and every lane keeps at least 1",
        given=", ".join(parts),
        hint="Ask for less, unpin or merge lanes, or allow oversubscription.",
    )


def _step(draft: Draft, name: str) -> str:
    """What a lane runs under this name: a sub-model that is in a group moves with all of it.

    Raises:
        UsageError: Nothing, or several parts of its batch.
    """
    if name in draft.names:
        return name
    holding = [step for step in draft.names if name in members_of([step])]
    if len(holding) == 1:
        return holding[0]
    named = holding or draft.names
    raise unknown(
        "A part of a batch is moved by its own name" if holding else "A sub-model is named as in the lanes",
        name,
        () if holding else named,
        given=f"{name!r}",
        hint=f"It is one of {', '.join(named)}.",
    )


def _called(lane: DraftLane) -> str:
    return f"the lane of {' + '.join(lane.members)}"
