"""Sub-models on several nodes, which inputs have to reach and outputs have to leave (docs/nodes.md)."""

from __future__ import annotations

from esen_lab.planner.nodes.nodes_problem import NodeLink

__all__ = ["NodeLink"]
