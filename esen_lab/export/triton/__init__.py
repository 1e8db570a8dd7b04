"""Plan -> a model repository for NVIDIA Triton: a model per lane, one that combines, one over all (docs/triton.md)."""

from __future__ import annotations

from esen_lab.export.triton.answering import ModelAnswers, StagedAnswers
from esen_lab.export.triton.ports import PlanPorts, Port, Ports, plan_ports
from esen_lab.export.triton.repository import TritonRepository, export_triton

__all__ = [
    "ModelAnswers",
    "PlanPorts",
    "Port",
    "Ports",
    "StagedAnswers",
    "TritonRepository",
    "export_triton",
    "plan_ports",
]
