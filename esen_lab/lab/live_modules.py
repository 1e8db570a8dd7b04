"""What the sub-models of a lab were made from: the user's own networks, for as long as the user holds them.

A live network is live: before a run the lab looks whether it changed, and its lane is given what it is now.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from esen_lab.ensemble import Registered
from esen_lab.ensemble.kinds.adapted import SourceWatch
from esen_lab.ensemble.sharing import sharing
from esen_lab.ensemble.watch import Watch, WatchedTogether

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, eq=False)
class Original:
    """What one sub-model was made from.

    Attributes:
        watch: Looks at it.
        again: Registers what the user holds again, as it is now; None where it is no live one.
        held: A module around it that is watched, and that nobody else holds.
        changes: See `Registered`.
        rebuilt: Registers a cell anew: see `Registered.again`.
    """

    watch: Watch | SourceWatch
    again: Callable[[Any], Registered] | None
    held: nn.Module | None = None
    changes: frozenset[Hashable] = frozenset()
    rebuilt: Callable[[], Registered] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Originals:
    """What sub-models were made from, by name. Networks may be freed all the same; anything else is kept alive."""

    known: Mapping[str, Original] = field(default_factory=dict)
    _looks: dict[tuple[str, ...], tuple[WatchedTogether, list[SourceWatch]]] = field(default_factory=dict, init=False)

    def kept(self, name: str, registered: Registered, again: Callable[[Any], Registered] | None) -> Originals:
        """With what a sub-model was made from; `again` must not hold it."""
        known = {other: original for other, original in self.known.items() if other != name}
        if registered.watch is not None:
            again_live = again if registered.live else None
            known[name] = Original(registered.watch, again_live, registered.held, registered.changes, registered.again)
        return Originals(known)

    def dropped(self, name: str) -> Originals:
        """Without what a sub-model was made from."""
        return Originals({other: original for other, original in self.known.items() if other != name})

    def module(self, name: str) -> nn.Module | None:
        """The user's own network, where there is one and the user still holds it."""
        known = self.known.get(name)
        if known is None or known.again is None or not isinstance(known.watch, Watch):
            return None
        return known.watch.module

    def sharing(self) -> dict[str, tuple[str, ...]]:
        """For each that shares state with others, which those are, by name."""
        modules = {name: module for name in self.known if (module := self.module(name)) is not None}
        return sharing(modules, {name: original.changes for name, original in self.known.items()})

    def changed(self, names: tuple[str, ...]) -> bool:
        """Whether anything may have changed in one of these; takes microseconds: see `WatchedTogether`."""
        if (looks := self._looks.get(names)) is None:
            watches = [self.known[name].watch for name in names if name in self.known]
            networks = WatchedTogether([watch for watch in watches if isinstance(watch, Watch)])
            others = [watch for watch in watches if not isinstance(watch, Watch)]
            looks = self._looks[names] = networks, others
        networks, others = looks
        return networks.changed() or any(watch.changed() for watch in others)

    def those_changed(self, names: Iterable[str], *, whole: bool = False) -> dict[str, Original]:
        """Those of these that may have changed; see `Watch.changed` for `whole`."""
        known = {name: self.known[name] for name in names if name in self.known}
        return {name: original for name, original in known.items() if original.watch.changed(whole=whole)}

    def leave_gpu(self) -> tuple[str, ...]:
        """Move them from GPUs to the CPU; returns the names of those that were moved."""
        import torch

        moved = []
        for name in self.known:
            module = self.module(name)
            if module is None:
                continue
            tensors = [*module.parameters(), *module.buffers()]
            if any(tensor.device.type == "cuda" for tensor in tensors):
                module.to("cpu")
                moved.append(name)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            gc.collect()
            torch.cuda.empty_cache()
        return tuple(moved)
