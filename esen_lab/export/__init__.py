"""Plan -> script: an ensemble that runs without a notebook."""

from __future__ import annotations

from esen_lab.export.bundle import describe_bundle, load_bundle, open_bundle
from esen_lab.export.bundle_files import Graph
from esen_lab.export.command import run_command
from esen_lab.export.export import Exported, export_plan
from esen_lab.export.running import Running

__all__ = [
    "Exported",
    "Graph",
    "Running",
    "describe_bundle",
    "export_plan",
    "load_bundle",
    "open_bundle",
    "run_command",
]
