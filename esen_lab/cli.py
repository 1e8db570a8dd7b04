"""The command line: what this machine offers, and exported plans without a notebook.

    python -m esen_lab doctor                        what is here, what is in force, what is missing
    python -m esen_lab run plan_files --repeat 100   an exported plan; its options are those of the exported script
    python -m esen_lab run their_files --trust       one that somebody else exported: it is code, and runs when trusted
    python -m esen_lab serve plan_files --port 8000  the same as a service over HTTP (docs/serving.md)
    python -m esen_lab deploy plan_files             files for Docker and KServe beside it

Exit status: 0 done, 1 it could not be done (one line on standard error says why), 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from esen_lab import __version__
from esen_lab.common.command_line import CommandParser
from esen_lab.common.units import format_bytes
from esen_lab.errors import EsenError, StoreError, UsageError
from esen_lab.files import read_head
from esen_lab.serving.serve_options import serve_options
from esen_lab.terminal import tell, visible_line

if TYPE_CHECKING:
    from esen_lab.export import Running

# What each part of the package needs; the notebook's are optional.
REQUIRED = ("torch", "numpy", "safetensors", "cloudpickle", "msgspec")
OPTIONAL = ("ipython", "ipykernel", "jupyterlab", "bokeh", "ipywidgets", "anywidget", "optuna", "psutil")
ENGINES = ("openvino", "onnxruntime", "scikit-learn", "xgboost", "xgboost-cpu", "lightgbm")
_LEAST_SHARED_BYTES = 64_000_000  # inputs and outputs of all lanes live there


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Args:
        argv: Arguments without the program's name; None takes the process's.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except EsenError as problem:
        tell(f"{_program()}: {' '.join(str(problem).split())}", sys.stderr)
        return 2 if isinstance(problem, UsageError) else 1
    except KeyboardInterrupt:
        tell(f"{_program()}: interrupted", sys.stderr)
        return 1


def _program() -> str:
    """What this was started as: a message names what can be typed again."""
    started = Path(sys.argv[0])
    return "python -m esen_lab" if started.parent.name == "esen_lab" else "esen-lab"


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog=_program(), description="Share one device between the sub-models of an ensemble.")
    parser.add_argument("--version", action="version", version=f"esen_lab {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    doctor = commands.add_parser("doctor", help="what this machine offers, what is in force, what is missing")
    doctor.add_argument("--device", metavar="NAME", help="which device to look at (default: the best one)")
    doctor.add_argument("--no-worker", action="store_true", help="do not start a worker to see a share in force")
    doctor.set_defaults(command=_doctor)
    run = commands.add_parser(
        "run",
        help="run and time an exported plan",
        add_help=False,
        description="Run and time an exported plan. What follows PLAN are options of the exported script. An exported "
        "plan is code, as a script is: one that you did not export here is described, and run only with --trust.",
    )
    run.add_argument("plan", metavar="PLAN", nargs="?", help="an exported folder, its plan.json, or its script")
    run.add_argument("rest", metavar="OPTION", nargs=argparse.REMAINDER, help="for the exported script")
    run.add_argument("--trust", action="store_true", help="run the code in PLAN although you did not export it here")
    run.add_argument("-h", "--help", action="store_true", help="this help, and the options of the exported script")
    run.set_defaults(command=_run, parser=run)
    serve = commands.add_parser(
        "serve",
        help="serve an exported plan over HTTP",
        description="Serve an exported plan over HTTP, by the Open Inference Protocol, until SIGTERM or Ctrl-C. An "
        "exported plan is code, as a script is: one that you did not export here is described, and run only with "
        "--trust. A token for clients is read from the file --token-file, or from the environment: ESEN_LAB_TOKEN.",
    )
    serve_options(serve)
    serve.set_defaults(command=_serve)
    deploy = commands.add_parser(
        "deploy",
        help="write a Dockerfile and an InferenceService of KServe beside an exported plan",
        description="Write a Dockerfile and an InferenceService of KServe beside an exported folder: templates, to be "
        "looked through. Nothing of the folder is run.",
    )
    deploy.add_argument("plan", metavar="PLAN", help="an exported folder, its plan.json, or its script")
    deploy.add_argument("--name", help="the model's name in addresses (default: the plan's)")
    deploy.set_defaults(command=_deploy)
    return parser


def _deploy(options: argparse.Namespace) -> int:
    from esen_lab.planner.plan import Plan
    from esen_lab.serving.deployment import write_deployment
    from esen_lab.serving.serve_options import name_of

    folder = bundle_folder(Path(options.plan)).resolve()  # "." has no name
    written = write_deployment(folder, Plan.load(folder / "plan.json"), options.name or name_of(folder))
    tell(f"Written: {written}")
    return 0


# --- serve -----------------------------------------------------------------------------------------------------------


def _serve(options: argparse.Namespace) -> int:
    from esen_lab.serving import check_installed

    check_installed()
    from esen_lab.serving.serve_command import serve_folder

    return serve_folder(bundle_folder(Path(options.plan)), options)


# --- run -------------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from esen_lab.export import run_command

    program = f"{_program()} run {shlex.quote(options.plan or 'PLAN')}"
    if options.help:
        options.parser.print_help()
        tell("\nOptions of the exported script:")
        return run_command(lambda device=None: _start(Path(), device), ["--help"], program=program)
    if options.plan is None:
        raise UsageError(f"`{_program()} run` takes an exported plan", hint="Name its folder, such as plan_files.")
    folder = bundle_folder(Path(options.plan))
    rest = ["--trust", *options.rest] if options.trust else options.rest
    return run_command(lambda device=None, trust=False: _start(folder, device, trust=trust), rest, program=program)


def _start(folder: Path, device: str | None, *, trust: bool = False) -> Running:
    from esen_lab.devices import name_for, open_device
    from esen_lab.export import Running, open_bundle
    from esen_lab.run import Executor, ForkServer, Switched

    found = open_bundle(folder, trust=trust)
    chosen = open_device(device or name_for(found.plan.device))
    start = partial(Executor.start, graphs=found.graphs, exported_under=found.switches)
    under = Switched(found.switches)
    return Running.start(found.plan, found.ensemble, chosen, fork_server=ForkServer(), start=start, under=under)


def bundle_folder(given: Path) -> Path:
    """The folder of an exported plan: itself, the one around its plan.json, or the one beside its script.

    Raises:
        StoreError: There is none.
    """
    if not given.exists():
        raise StoreError(
            "A plan is run from the folder that was exported with it", given=f"{str(given)!r}, which is not there"
        )
    folder = given
    if given.is_file() and given.suffix in (".json", ".py"):
        folder = given.parent if given.suffix == ".json" else _folder_of_script(given)
    if not (folder / "bundle.json").is_file():
        missing = given.suffix == ".py" and not folder.exists()
        raise StoreError(
            "A plan is run from the folder that was exported with it: a plan alone holds no networks",
            given=f"{str(given)!r}, beside which there is no {folder.name!r}" if missing else str(given),
            hint="Copy that folder, too." if missing else "Make one in Python with lab.export('plan.py').",
        )
    return folder


def _folder_of_script(script: Path) -> Path:
    """The folder that an exported script names: both may have been renamed since. Runs nothing."""
    script = Path(os.path.realpath(script))
    named = re.search(rb"^FILES = .* / ('.*'|\".*\")$", read_head(script), re.MULTILINE)
    with contextlib.suppress(ValueError, SyntaxError):
        name = ast.literal_eval(named[1].decode("ascii")) if named else ""
        if name and Path(name).name == name:
            return script.with_name(name)
    return script.with_name(f"{script.stem}_files")


# --- doctor ----------------------------------------------------------------------------------------------------------


def _doctor(options: argparse.Namespace) -> int:
    missing: list[str] = []
    for label, text in _findings(options, missing):
        tell(f"{visible_line(label):20}{visible_line(text)}")
    for name in missing:
        tell(f"{'MISSING':20}{visible_line(name)}")
    tell("Something needed is missing." if missing else "Ready.")
    return 1 if missing else 0


def _findings(options: argparse.Namespace, missing: list[str]) -> Iterator[tuple[str, str]]:
    """(label, text) line by line; what is needed and not there goes to `missing`."""
    yield "esen_lab", f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    for name in (*REQUIRED, *OPTIONAL):
        version = _version(name)
        if version is None and name in REQUIRED:
            missing.append(f"{name}: pip install {name}")
        yield name, version or ("-" if name in REQUIRED else "- (only the notebook needs it)")
    engines = [f"{name} {found}" for name in ENGINES if (found := _version(name))]
    yield "engines", ", ".join(engines) or "none besides torch"
    yield from _limits(missing)
    yield "profile store", _store_state()
    yield from _gpus()
    if not missing:
        yield from _offers(options)
        yield from _device(options, missing)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _limits(missing: list[str]) -> Iterator[tuple[str, str]]:
    """CPU time and memory that this process may use, and where lanes share their inputs and outputs."""
    from esen_lab.common.control_groups import ControlGroups
    from esen_lab.devices.cpu.affinity import allowed_cpus

    allowed = len(allowed_cpus().cpus) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield "logical CPUs", f"{allowed} allowed of {os.cpu_count()}"
    groups = ControlGroups()
    cpus, memory_bytes = groups.cpus(), groups.memory_bytes()
    yield "CPU time limit", "no limit of a control group" if cpus is None else f"{cpus:g} CPUs"
    yield "memory limit", "no limit of a control group" if memory_bytes is None else format_bytes(memory_bytes)
    if hasattr(os, "memfd_create"):
        yield "shared memory", f"memory files, from {_available()} of free memory"
        return
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    yield "shared memory", f"temporary files, {format_bytes(free)} free in {folder}"
    if free < _LEAST_SHARED_BYTES:
        missing.append(f"shared memory: less than {format_bytes(_LEAST_SHARED_BYTES)} free in {folder}")


def _available() -> str:
    from esen_lab.common.free_memory import available_bytes

    found = available_bytes()
    return "an unknown amount" if found is None else format_bytes(found)


def _store_state() -> str:
    """Where measured points are kept, and whether that works; changes nothing."""
    from esen_lab.profiler import default_store_path

    path = default_store_path()
    if not path.exists():
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        can = "will be made" if os.access(folder, os.W_OK) else f"cannot be made: {folder} is read-only"
        return f"{path} ({can})"
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)
        try:
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error as problem:
        verdict = str(problem)
    state = "sound" if verdict == "ok" else f"damaged or unreadable: {verdict}; it will be moved aside"
    writable = "" if os.access(path, os.W_OK) else ", read-only: new points stay in memory"
    return f"{path} ({format_bytes(path.stat().st_size)}, {state}{writable})"


def _gpus() -> Iterator[tuple[str, str]]:
    """The driver, each GPU, and the state of NVIDIA MPS; starts no CUDA."""
    from esen_lab.devices import this_machine
    from esen_lab.devices.cuda.mps import DEFAULT_PIPE_FOLDER
    from esen_lab.devices.cuda.mps_control import daemon_state, find_programs

    machine = this_machine().machine
    yield "NVIDIA driver", machine.driver + (f", CUDA {machine.cuda_driver}" if machine.cuda_driver else "") or "-"
    if machine.torch_cuda is not None:
        yield "torch built for", f"CUDA {machine.torch_cuda}" if machine.torch_cuda else "no CUDA"
    if not machine.gpus:
        yield "GPUs", f"none: {machine.why_no_gpu}"
        return
    for gpu in machine.gpus:
        parts = [gpu.name, f"{gpu.sms} SMs", f"compute capability {gpu.capability}", format_bytes(gpu.memory_bytes)]
        parts += ["MIG mode"] if gpu.mig else []
        parts += [f"compute mode {gpu.compute_mode}"] if gpu.compute_mode else []
        yield f"GPU {gpu.index}", ", ".join(parts)
        if gpu.used_bytes is not None:
            others = f"; {gpu.processes} processes of others compute on it" if gpu.processes else ""
            yield "  in use", f"{format_bytes(gpu.used_bytes)} of its memory{others}"
        yield "  SM activity (GPM)", {True: "can be read", None: "not known"}.get(gpu.gpm, f"no: {gpu.gpm}")  # type: ignore[arg-type]
    try:
        programs = find_programs()
    except EsenError as problem:
        yield "MPS programs", f"- ({problem.given})"
        return
    yield "MPS programs", f"{programs.control}, {programs.server}"
    folder = os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or DEFAULT_PIPE_FOLDER
    yield "MPS daemon", daemon_state(folder, programs=programs)


def _offers(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    from esen_lab.devices import offers

    for offer in offers(test=not options.no_worker):
        state = "can be had" if offer.available else "not here"
        if offer.passed is not None:
            state = "passed its self-test" if offer.passed else "fails its self-test"
        said = "; ".join(offer.missing) or offer.verdict
        default = ", the default" if offer.chosen else ""
        yield f"offer {offer.name}", f"{state}{default}: {said}"
        if offer.how:
            yield "", offer.how


def _device(options: argparse.Namespace, missing: list[str]) -> Iterator[tuple[str, str]]:
    from esen_lab.devices import open_device

    device = open_device(options.device)
    identity = device.identity
    yield "device", f"{identity.kind}: {identity.name}"
    yield "units", f"{device.units} x {identity.unit}"
    for key, value in identity.details.items():
        yield f"  {key.replace('_', ' ')}", str(value)
    bandwidth = None if options.no_worker else device.interference(measure=True)  # which `describe` then says
    for label, text in device.describe():
        yield f"  {label}", text
    if bandwidth is None and len(device.cores) > 1 and not options.no_worker:
        yield "  memory bandwidth", "not measured: these cores are busy, or memory is short"
    for note in device.notes:
        yield "note", note
    if options.no_worker:
        return
    from esen_lab.run import ForkServer

    fork_server = ForkServer()
    try:
        found = fork_server.worker(device.place([1])[0], label="doctor").in_force
        yield "share in force", f"a worker that asked for 1 {identity.unit} found {found.description}"
        if found.units != 1:
            missing.append(f"limits: a worker that was given 1 {identity.unit} found {found.units}")
    except EsenError as problem:
        missing.append(f"workers: {' '.join(str(problem).split())}")
    finally:
        fork_server.close()
        device.close()
