"""What sub-models were made from is looked at before runs, and pieces of large tensors in turns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esen_lab.ensemble.watch import Watch
from esen_lab.lab.live_modules import Original, Originals

LARGE = 200_000
NAMES = ("a", "b", "c")


class Large(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(LARGE))


@pytest.mark.parametrize("which", ["a", "b", "c"])
def test_a_hidden_change_within_a_large_tensor_of_any_network_is_seen_after_some_looks(which: str) -> None:
    networks = {name: Large() for name in NAMES}
    originals = Originals({name: Original(Watch(network), None) for name, network in networks.items()})
    assert not originals.changed(NAMES)
    networks[which].weights.data[LARGE // 3] = 1.0
    pieces = -(-LARGE * 4 // (1 << 16))
    assert any(originals.changed(NAMES) for _ in range(len(networks) * pieces))


@pytest.mark.parametrize("which", ["a", "b", "c"])
def test_a_change_that_is_counted_is_seen_by_the_next_look_whoever_has_the_turn(which: str) -> None:
    networks = {name: Large() for name in NAMES}
    originals = Originals({name: Original(Watch(network), None) for name, network in networks.items()})
    for _ in range(4):
        with torch.no_grad():
            networks[which].weights[LARGE // 3] += 1.0
        assert originals.changed(NAMES)
        originals.known[which].watch.renew()  # type: ignore[union-attr]
        assert not originals.changed(NAMES)


def test_nothing_to_look_at_has_not_changed() -> None:
    assert not Originals().changed(NAMES)
