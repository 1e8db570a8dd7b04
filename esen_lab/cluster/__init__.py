"""Several machines: a plan whose devices are nodes of a cluster of Ray, each with our lanes inside (docs/ray.md)."""

from __future__ import annotations

from esen_lab.cluster.node_messages import NodeSettings
from esen_lab.cluster.node_readings import NodeReadings, NodesMeter, key_of
from esen_lab.cluster.nodes import ClusterNode, ClusterStatus, NodeReach, sizes
from esen_lab.cluster.parts import check_nodes
from esen_lab.cluster.plan_on_nodes import PlanOnNodes
from esen_lab.cluster.profiling import measure_transfers, profile_kinds
from esen_lab.cluster.ray_reach import RayReach

__all__ = [
    "ClusterNode",
    "ClusterStatus",
    "NodeReach",
    "NodeReadings",
    "NodeSettings",
    "NodesMeter",
    "PlanOnNodes",
    "RayReach",
    "check_nodes",
    "key_of",
    "measure_transfers",
    "profile_kinds",
    "sizes",
]
