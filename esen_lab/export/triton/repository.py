"""The folder: bundle, models, and how to start the server.

bundle/                       plan, sub-models and weights, as beside an exported script
models/NAME/config.pbtxt      what clients ask: the lanes, side by side, then the combine rule
models/NAME/1/                (Triton wants a version)
models/NAME_lane_1/           a model per lane: config.pbtxt, 1/model.py
models/NAME_combine/          the combine rule: config.pbtxt, 1/model.py; not of a cascade, whose models/NAME
                              asks the lanes stage by stage (business logic scripting)
start.sh, README.md           how it is started and asked
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.surroundings import step
from esen_lab.common.trees import TreeSpec
from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError
from esen_lab.export.bundle_files import Graph
from esen_lab.export.elsewhere import notes_on_own_modules, notes_on_switches
from esen_lab.export.script import MARK
from esen_lab.export.server_folders import ServerFolder, bundle_inside, check_for_cpu, name_from
from esen_lab.export.triton.config import ensemble_model, python_model
from esen_lab.export.triton.ports import PlanPorts, plan_ports, written
from esen_lab.export.triton.programs import LaneCores, combine_program, lane_program, staged_program, start_script
from esen_lab.export.triton.readme import readme
from esen_lab.files import as_path, write_folder
from esen_lab.planner.fits import check_runnable
from esen_lab.planner.plan import Plan

_SERVED_FROM = re.compile(r"[A-Za-z0-9_./@%+=:,-]*")
_FOLDER = ServerFolder(server="Triton", marked="start.sh", mark=MARK, names=frozenset({"models"}))


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonRepository(Shown):
    """What an export for Triton wrote.

    Attributes:
        folder: The folder.
        name: The model that clients ask.
        models: All models, that one last.
        files: Every file.
        notes: What does not hold in the server: lanes without cores of their own.
    """

    folder: Path
    name: str
    models: tuple[str, ...]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What there is, and how it is started."""
        said = (
            f"{len(self.models)} models in {self.folder}; {shlex.quote(str(self.folder / 'start.sh'))} starts them, "
            f"{self.name!r} answers"
        )
        return "\n".join([said, *self.notes])


def export_triton(
    plan: Plan,
    ensemble: Ensemble,
    folder: str | os.PathLike[str],
    *,
    steps: Ensemble,
    output: TreeSpec,
    cores: Sequence[Sequence[Sequence[int]]],
    graphs: Sequence[Graph] = (),
    switches: Mapping[str, Any] | None = None,
) -> TritonRepository:
    """Write `plan` as a model repository for Triton; one that is there already is replaced, whole.

    The model that clients ask is called as the folder is, as far as Triton's names go.

    Args:
        plan: What to run, on a CPU; its sub-models are those of `ensemble`, unchanged.
        ensemble: The sub-models and the combine rule.
        folder: Where to write.
        steps: What the lanes load, by the names of the plan's steps.
        output: What the ensemble's answer to its example looks like.
        cores: For each lane its cores, each as its logical CPUs.
        graphs: What engines have made of sub-models.
        switches: Switches of torch that the session has set, as `Settings.named` has them; a server sets none of them.

    Raises:
        UsageError: The plan is only planned or not for a CPU, a tensor has a type that Triton does not, a sub-model
            cannot be saved, or the folder holds something else.
        StoreError: It cannot be written; what was there is as it was.
    """
    path = as_path(folder)
    check_runnable(plan)
    check_for_cpu(plan, "A repository for Triton is of a plan for a CPU, whose lanes get cores by host policies")
    if len(cores) != len(plan.lanes):
        first = step("lab.use_device('cpu')", "%esen device cpu")
        raise UsageError(
            "A repository for Triton is exported where the lanes have cores: by a lab on the CPU",
            given=f"cores for {len(cores)} of {len(plan.lanes)} lanes",
            hint=f"Choose that device first: {first}.",
        )
    _FOLDER.check_free(path)
    name = name_from(path)
    ports = plan_ports(plan, ensemble, steps, output)
    bundle, digest = bundle_inside(path, plan, ensemble, graphs)
    lanes = [_range(f"lane_{number}", own) for number, own in enumerate(cores, start=1)]
    notes = tuple(
        f"Lane {number} is on cores that are no range, which Triton does not take: it gets no cores of its own."
        for number, found in enumerate(lanes, start=1)
        if found is None
    )
    if not _SERVED_FROM.fullmatch(str(path.absolute())):
        notes += (
            "Triton serves from a path of letters, digits and _ . / - only: move the folder before it is started.",
        )
    notes += (*notes_on_own_modules(bundle), *notes_on_switches(switches or {}, set_there=False))
    models = model_files(plan, ports, name, lanes, digest)
    files = {
        **bundle,
        **{f"models/{file}": data for file, data in models.items()},
        "start.sh": start_script(lanes),
        "README.md": readme(name, plan, ports, notes),
    }
    paths = write_folder(path, files, programs=("start.sh",))
    combines = () if plan.staged else (f"{name}_combine",)
    names = (*(f"{name}_lane_{number}" for number in range(1, len(lanes) + 1)), *combines, name)
    return TritonRepository(folder=path, name=name, models=names, files=paths, notes=notes)


def model_files(
    plan: Plan, ports: PlanPorts, name: str, lanes: Sequence[LaneCores | None], digest: str
) -> Mapping[str, bytes]:
    """The content of the files in `models`, by their paths there."""
    files: dict[str, bytes] = {}
    scheduled, asked = [], []
    for number, cores in enumerate(lanes):
        model = f"{name}_lane_{number + 1}"
        taken, answers = ports.lane_inputs[number], ports.of_lane(plan, number)
        given = [port for answer in answers for port in answer.ports]
        policy = "" if cores is None else cores.policy
        files[f"{model}/config.pbtxt"] = python_model(model, taken.ports, given, host_policy=policy)
        files[f"{model}/1/model.py"] = lane_program(number, written([taken], answers), digest)
        scheduled.append((model, [port.name for port in taken.ports], [port.name for port in given]))
        asked.append((model, written([taken], answers)))
    if plan.staged:
        files[f"{name}/config.pbtxt"] = python_model(name, ports.input.ports, ports.output.ports)
        files[f"{name}/1/model.py"] = staged_program(written([ports.input], [ports.output]), asked, digest)
        return files
    model = f"{name}_combine"
    every = [port for answer in ports.steps for port in answer.ports]
    files[f"{model}/config.pbtxt"] = python_model(model, every, ports.output.ports)
    files[f"{model}/1/model.py"] = combine_program(written(ports.steps, [ports.output]), digest)
    scheduled.append((model, [port.name for port in every], [port.name for port in ports.output.ports]))
    files[f"{name}/config.pbtxt"] = ensemble_model(name, ports.input.ports, ports.output.ports, scheduled)
    files[f"{name}/1/README"] = b"Triton schedules this model itself; see ../config.pbtxt.\n"
    return files


def _range(policy: str, cores: Sequence[Sequence[int]]) -> LaneCores | None:
    """The cores of a lane as a range of logical CPUs: all of each core, else the first of each, else none."""
    for cpus in (sorted(cpu for core in cores for cpu in core), sorted(core[0] for core in cores)):
        if cpus == list(range(cpus[0], cpus[-1] + 1)):
            return LaneCores(policy=policy, first=cpus[0], last=cpus[-1])
    return None
