"""A lane as a part of one graph of the whole plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from esen_lab.common.trees import Tree
from esen_lab.lanes.stream import Compute


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphLane:
    """A lane as a part of one graph.

    Attributes:
        compute: Its stream.
        members: Its sub-models in order; each takes the ensemble's input on the GPU.
    """

    compute: Compute
    members: Mapping[str, Callable[[Tree], Tree]]
