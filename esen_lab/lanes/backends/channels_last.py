"""Eagerly, with the channels of images innermost in memory: some convolutions are faster so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from esen_lab.common.trees import Tree, flatten, unflatten
from esen_lab.lanes.backends._protocol import BackendSettings, Call, Example, Refused
from esen_lab.lanes.backends.eager import Eager, autocast

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class ChannelsLast(Eager):
    """The module with its weights laid out so; inputs on the way in, and answers back as they were."""

    def __init__(self, module: nn.Module, settings: BackendSettings) -> None:
        weights = [weight for weight in module.parameters() if weight.dim() in _FORMATS]
        if not weights:
            raise Refused("it has no weights of four or five dimensions, which alone can be laid out so")
        for weight in weights:  # only their layout changes, so that the module answers as before
            weight.data = weight.data.contiguous(memory_format=_FORMATS[weight.dim()])
        super().__init__(module, settings)

    def prepare(self, example: Example) -> Call:
        """The same for every look."""
        module, structure = self._module, example.structure
        plain = [answer.is_contiguous() for answer in example.answer]

        def call(leaves: Sequence[torch.Tensor], _: Sequence[Any], __: Mapping[str, Any]) -> Tree:
            args, kwargs = unflatten(structure, [_laid_out(leaf) for leaf in leaves])
            answers, form = flatten(module(*args, **kwargs))
            return unflatten(form, [a.contiguous() if was else a for a, was in zip(answers, plain, strict=True)])

        return autocast(call, example, self._settings)


def _laid_out(leaf: torch.Tensor) -> torch.Tensor:
    wanted = _FORMATS.get(leaf.dim())
    return leaf if wanted is None else leaf.contiguous(memory_format=wanted)


BACKEND = ChannelsLast
