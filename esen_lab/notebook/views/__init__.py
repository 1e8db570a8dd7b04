"""Records -> plain rows. No HTML, no IPython, no torch: what is shown can be tested by comparing strings.

A record of another part is read through its public attributes only; each function names the record it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from esen_lab.notebook.views.blocks import (
    Block,
    Details,
    Progress,
    Table,
    View,
    device_text,
    facts,
    one_line,
    share,
)
from esen_lab.notebook.views.measured import cost_model, cost_models, curves, failure, points, profile, progress
from esen_lab.notebook.views.planned import (
    exported,
    measured_text,
    plan,
    tuning,
    tuning_facts,
    tuning_notes,
    tuning_picture,
)
from esen_lab.notebook.views.ran import comparison, forgotten, mechanisms, numerics, report
from esen_lab.notebook.views.searched import (
    allocation,
    front,
    front_picture,
    history,
    placement,
    refined,
    searching,
    stages,
)
from esen_lab.notebook.views.setup import device, device_change, ensemble, left_gpu, offers, status, submodel

__all__ = [
    "RECORDS",
    "Block",
    "Details",
    "Progress",
    "Table",
    "View",
    "allocation",
    "comparison",
    "cost_model",
    "cost_models",
    "curves",
    "device",
    "device_change",
    "device_text",
    "ensemble",
    "exported",
    "facts",
    "failure",
    "forgotten",
    "front",
    "front_picture",
    "history",
    "left_gpu",
    "measured_text",
    "mechanisms",
    "numerics",
    "offers",
    "one_line",
    "placement",
    "plan",
    "points",
    "profile",
    "progress",
    "refined",
    "report",
    "searching",
    "share",
    "stages",
    "status",
    "submodel",
    "tuning",
    "tuning_facts",
    "tuning_notes",
    "tuning_picture",
]

RECORDS: Mapping[str, Callable[[Any], View]] = {
    "esen_lab.lab.lab.Lab": lambda lab: status(lab.status()),
    "esen_lab.lab.records.Status": status,
    "esen_lab.lab.records.DeviceChange": device_change,
    "esen_lab.ensemble.ensemble.Ensemble": ensemble,
    "esen_lab.ensemble.submodel.SubModel": submodel,
    "esen_lab.profiling.records.Profile": profile,
    "esen_lab.profiling.job.ProfileJob": lambda job: progress(job.snapshot()),
    "esen_lab.profiling.progress.ProfileProgress": progress,
    "esen_lab.fitting.model.CostModel": cost_model,
    "esen_lab.search.allocation.Allocation": allocation,
    "esen_lab.choosing.adaptive.AdaptiveProfileJob": lambda job: progress(job.snapshot()),
    "esen_lab.choosing.refining.Refined": refined,
    "esen_lab.search.members.Front": front,
    "esen_lab.search.placement.Placement": placement,
    "esen_lab.search.cascade.Cascade": stages,
    "esen_lab.search.job.SearchJob": lambda job: searching(job.snapshot(), job),
    "esen_lab.planning.Plan": plan,
    "esen_lab.tuning.state.TuningState": tuning,
    "esen_lab.tuning.tuning.Tuning": lambda tuned: tuning(tuned.state),
    "esen_lab.runtime.report.RunReport": report,
    "esen_lab.runtime.comparison.Comparison": comparison,
    "esen_lab.runtime.gate.GateVerdict": numerics,
    "esen_lab.profiling.mechanisms.MechanismTable": mechanisms,
    "esen_lab.export.export.Exported": exported,
}
"""Class, by its full name -> its view. By name, because showing imports nothing."""
