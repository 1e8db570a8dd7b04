"""State that networks share, such as one counter: in the notebook it is one, in lanes each network has its own."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

from esen_lab.common.trees import Tree, call_with, map_tensors
from esen_lab.ensemble.as_it_was import AsItWas
from esen_lab.ensemble.reach import Reach

if TYPE_CHECKING:
    from torch import nn

    from esen_lab.ensemble.traits import Traits


def changed_by_a_call(module: nn.Module, twin: nn.Module, example: Tree, traits: Traits) -> frozenset[Hashable]:
    """Which things of a network a call changes, found on a copy of it: see `Kept.thing`."""
    own, before = AsItWas(module, Reach()), AsItWas(twin, Reach())
    if len(own.things) != len(before.things):  # a copy of another make: nothing tells which is which
        return frozenset()
    # It has answered before; where it does not now, what it has changed until then counts.
    with contextlib.suppress(Exception), traits.called():
        call_with(twin, map_tensors(lambda leaf: leaf.clone(), example))
    changed = {kept.thing for kept in before.changed()}
    pairs = zip(own.things, before.things, strict=True)
    return frozenset(thing for thing, copied in pairs if copied in changed) - {None}


def sharing(
    networks: Mapping[str, nn.Module], changed: Mapping[str, frozenset[Hashable]]
) -> dict[str, tuple[str, ...]]:
    """For each network, the others that reach something which a call of it changes, or change what it reaches.

    Args:
        networks: By name.
        changed: What a call changes of each of them; those that keep no state may be missing.
    """
    if not any(changed.get(name) for name in networks):
        return {}
    reached = {name: frozenset(AsItWas(module).things) for name, module in networks.items()}
    # What a network has let go of since may have left its identity to another thing.
    moving = {name: changed.get(name, frozenset()) & reached[name] for name in networks}
    pairs = {
        name: tuple(
            other
            for other in networks
            if other != name and (moving[name] & reached[other] or moving[other] & reached[name])
        )
        for name in networks
    }
    return {name: others for name, others in pairs.items() if others}
