"""How a network must be called so that it answers as it does in the notebook; found out when it is registered."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Grad: TypeAlias = Literal["inference", "off", "on"]
"""Gradients while it runs: `torch.inference_mode`, `torch.no_grad`, or recorded since it computes some itself."""

GRADS: tuple[Grad, ...] = ("inference", "off", "on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a lane must know of a network besides how to build it. Plain data.

    Attributes:
        grad: See `Grad`; the first of `GRADS` under which it answers as it does in the notebook.
        state: What a call changes in it, in words; empty when it keeps no state between calls.
        random: Whether a call draws random numbers.
        steady: Whether the same call, begun alike, gives the same answer.
        code: A digest of each function that it reaches and that a lane imports for itself (see `Reach.of_files`).
        replaced: Names in modules that a lane imports for itself, at which the session has put a function of its own.
    """

    grad: Grad = "inference"
    state: tuple[str, ...] = ()
    random: bool = False
    steady: bool = True
    code: Mapping[str, str] = field(default_factory=dict, repr=False)
    replaced: tuple[str, ...] = ()

    @property
    def keeps_state(self) -> bool:
        """Whether a call changes the network, so that the next answer depends on it."""
        return bool(self.state)

    def called(self) -> AbstractContextManager[Any]:
        """The context that it is called in."""
        return calling(self.grad)


def calling(grad: Grad) -> AbstractContextManager[Any]:
    """The context of torch that a way with gradients stands for."""
    import torch

    if grad == "inference":
        return torch.inference_mode()
    if grad == "off":
        return torch.no_grad()
    return torch.enable_grad()
