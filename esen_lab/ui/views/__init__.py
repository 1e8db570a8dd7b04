"""Views: what is shown of each record, as plain rows. No HTML, no IPython, no torch, so tests compare strings.

A record of another part is read through its public attributes only; each function names the record it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from esen_lab.ui.views.blocks import (
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
from esen_lab.ui.views.measured import cost_model, cost_models, curves, failure, points, profile, progress
from esen_lab.ui.views.past import changes, forgotten_entries, one_entry, past
from esen_lab.ui.views.planned import (
    editor,
    editor_facts,
    editor_notes,
    editor_picture,
    exported,
    measured_text,
    plan,
    repository,
)
from esen_lab.ui.views.ran import backends, comparison, forgotten, load_table, numerics, precision, report
from esen_lab.ui.views.searched import (
    allocation,
    front,
    front_picture,
    history,
    placement,
    rate_plan,
    refined,
    searching,
    stages,
    thresholds,
)
from esen_lab.ui.views.served import server
from esen_lab.ui.views.setup import device, device_change, ensemble, left_gpu, offers, status, submodel

__all__ = [
    "RECORDS",
    "Block",
    "Details",
    "Progress",
    "Table",
    "View",
    "allocation",
    "backends",
    "changes",
    "comparison",
    "cost_model",
    "cost_models",
    "curves",
    "device",
    "device_change",
    "device_text",
    "editor",
    "editor_facts",
    "editor_notes",
    "editor_picture",
    "ensemble",
    "exported",
    "facts",
    "failure",
    "forgotten",
    "forgotten_entries",
    "front",
    "front_picture",
    "history",
    "left_gpu",
    "load_table",
    "measured_text",
    "numerics",
    "offers",
    "one_entry",
    "one_line",
    "past",
    "placement",
    "plan",
    "points",
    "precision",
    "profile",
    "progress",
    "rate_plan",
    "refined",
    "report",
    "repository",
    "searching",
    "server",
    "share",
    "stages",
    "status",
    "submodel",
    "thresholds",
]

RECORDS: Mapping[str, Callable[[Any], View]] = {
    "esen_lab.lab.lab.Lab": lambda lab: status(lab.status()),
    "esen_lab.lab.records.Status": status,
    "esen_lab.lab.records.DeviceChange": device_change,
    "esen_lab.ensemble.ensemble.Ensemble": ensemble,
    "esen_lab.ensemble.submodel.SubModel": submodel,
    "esen_lab.profiler.records.Profile": profile,
    "esen_lab.profiler.job.ProfileJob": lambda job: progress(job.snapshot()),
    "esen_lab.profiler.progress.ProfileProgress": progress,
    "esen_lab.cost_model.model.CostModel": cost_model,
    "esen_lab.planner.allocation.Allocation": allocation,
    "esen_lab.studies.adaptive_profiling.AdaptiveProfileJob": lambda job: progress(job.snapshot()),
    "esen_lab.studies.refinement.Refined": refined,
    "esen_lab.studies.rate.RatePlan": rate_plan,
    "esen_lab.studies.front.ParetoFront": front,
    "esen_lab.studies.placement.DevicePlacement": placement,
    "esen_lab.studies.cascade.Cascade": stages,
    "esen_lab.studies.thresholds.ThresholdState": thresholds,
    "esen_lab.planner.search_job.SearchJob": lambda job: searching(job.snapshot(), job),
    "esen_lab.planner.plan.Plan": plan,
    "esen_lab.planner.editor.state.EditorState": editor,
    "esen_lab.planner.editor.editor.PlanEditor": lambda plan_editor: editor(plan_editor.state),
    "esen_lab.run.report.RunReport": report,
    "esen_lab.run.comparison.Comparison": comparison,
    "esen_lab.load.records.LoadTable": load_table,
    "esen_lab.run.numerics.NumericsVerdict": numerics,
    "esen_lab.profiler.backends.BackendTable": backends,
    "esen_lab.studies.precision_table.PrecisionTable": precision,
    "esen_lab.export.export.Exported": exported,
    "esen_lab.serving.server.Server": lambda running: server(running.status()),
    "esen_lab.serving.status.ServerStatus": server,
    "esen_lab.export.triton.repository.TritonRepository": repository,
    "esen_lab.history.past.Past": past,
    "esen_lab.history.entry.Entry": one_entry,
    "esen_lab.history.changes.Changes": changes,
}
"""Full name of a class -> its view. A name and not the class, so that this imports none of their modules."""
