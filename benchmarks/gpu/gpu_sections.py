"""What `make gpu-check` measures, section by section; each runs in a process of its own.

facts        what exists here
limits       which limit is really in force in a worker at several shares of NVIDIA MPS
proof        unequal green contexts: their SMs, and that no SM is in two of them
gate         the numerics check for each dtype on each backend
transport    where outputs are combined, and who brings the input, by size
one-graph    what the host spends on a replay
NAME@BATCH/SHARING-MODE   one ensemble: profile, plan, the ways that goals are held against in the same rounds,
                          utilization, every way to run it

Clocks and throttle reasons of the GPU are noted at the begin and the end of each.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_models import BATCHES, ENSEMBLES, Passes, Product, models_of
from gpu_steps import OutOfTime, Steps, or_why

from esen_lab.devices.cuda.mps_control import find_programs
from esen_lab.errors import DeviceError, InfeasibleError, WorkerTimeout

DTYPES = ("float32", "tf32", "float16", "bfloat16")
MPS_SHARES = (10, 25, 50, 75)
SIZES = (1 << 12, 1 << 18, 1 << 20, 1 << 22, 1 << 24)  # bytes
GOAL_JCT = 0.1784
GOAL_UTILIZATION = 0.2809
GOAL_JCT_GRAPHS = 0.30
GOAL_GAP = 0.15
GOAL_HOST_S = 30e-6


def run_section(name: str, steps: Steps) -> None:
    """Run one section; what it finds is in `steps`.

    Args:
        name: See above.
        steps: Where it goes.
    """
    simple = {
        "facts": facts,
        "limits": limits,
        "proof": proof,
        "gate": gate,
        "transport": transport,
        "one-graph": one_graph,
    }
    from esen_lab.devices.cuda.nvml import nvml_states

    # Goals are of eager plans against eager plans, and of graphs where it says so; compilers would take all the time.
    os.environ["ESEN_LAB_BACKENDS"] = "eager"
    # What a GPU's clocks were says whether two sections can be compared.
    steps.do("gpu_before", nvml_states, needs_s=-10.0, always=True)
    if name in simple:
        simple[name](steps)
    else:
        which, _, backend = name.partition("/")
        ensemble, _, batch = which.partition("@")
        one_ensemble(ensemble, int(batch), backend, steps)
    steps.do("gpu_after", nvml_states, needs_s=-10.0, always=True)


# --- the machine -------------------------------------------------------------------------------------------------


def facts(steps: Steps) -> None:
    """What exists here. Uses CUDA in this section's own process only."""
    steps.do("versions", _versions)
    steps.do("machine", _machine)
    steps.do("doctor", _doctor)
    if not steps.rehearse:
        steps.do("torch_sees", _torch_sees)
        steps.do("green_contexts", _green_contexts)


def _versions() -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "python": platform.python_version(),
        "mps_programs": _mps_programs(),
        "cxx": shutil.which(os.environ.get("CXX", "g++")),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def _mps_programs() -> dict[str, str] | str:
    """Where they are, as lanes would find them, or what is missing."""
    try:
        return {name: str(path) for name, path in asdict(find_programs()).items()}
    except DeviceError as problem:
        return str(problem.given)


def _machine() -> dict[str, Any]:
    """Driver, GPUs, whether SM activity can be read (GPM), compute mode, MIG."""
    from esen_lab.devices import this_machine

    return asdict(this_machine().machine)


def _doctor() -> list[str]:
    """What a user would be told, self-tests of every backend included."""
    command = [sys.executable, "-m", "esen_lab", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return [*done.stdout.splitlines(), *done.stderr.splitlines()[-5:]]


def _torch_sees() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "sms": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
    }


def _green_contexts() -> bool:
    from esen_lab.devices.cuda.green_driver import GreenDriver

    return bool(GreenDriver())


def limits(steps: Steps) -> None:
    """Which limit is really in force in a worker at several shares."""
    from esen_lab.lanes import ForkServer

    with _device("mps", steps.rehearse) as device:
        steps.found["device"] = device.identity.to_dict()
        shares = MPS_SHARES if not steps.rehearse else tuple(range(1, device.units + 1))
        fork_server = ForkServer()

        def in_force(share: int) -> str:
            began = time.perf_counter()
            worker = fork_server.worker(device.place([share])[0], label=f"limit {share}")
            took = time.perf_counter() - began
            told = worker.in_force.description
            worker.close()
            return f"{told} (started in {took:.2f} s)"

        try:
            for share in shares:
                steps.do(f"in_force.{share}", partial(in_force, share))
        finally:
            fork_server.close()


def proof(steps: Steps) -> None:
    """Unequal green contexts: their SMs, and that no SM is in two of them."""
    if steps.rehearse:
        steps.found["skipped"] = "green contexts have no CPU stand-in; tests use a fake driver"
        return
    with _device("green", steps.rehearse) as device:
        shares = _unequal(device.units)

        def proven() -> dict[str, Any]:
            seen = device.prove(shares)
            return {"shares": list(shares), "sms": list(seen.sms), "disjoint": seen.disjoint, "told": str(seen)}

        steps.do("contexts", proven)


# --- answers -----------------------------------------------------------------------------------------------------


def gate(steps: Steps) -> None:
    """The numerics check for each dtype on each backend: half of the sub-models beside the other half, twice over."""
    for backend, device, fork_server in _each_backend(steps):
        for name in DTYPES:
            steps.do(f"{backend}.{name}", partial(_gated, name, device, fork_server, steps.rehearse))


def _gated(dtype_name: str, device: Any, fork_server: Any, rehearse: bool) -> dict[str, Any]:
    from esen_lab.ensemble import Ensemble, make_combine, make_submodel
    from esen_lab.planner.plan import Lane, Plan
    from esen_lab.run.numerics import check_numerics

    width = 32 if rehearse else 4096
    dtype = torch.float32 if dtype_name == "tf32" else getattr(torch, dtype_name)
    torch.manual_seed(0)
    x = torch.randn(8 if rehearse else 1024, width).to(dtype)
    models = [Product(width, dtype, tf32=dtype_name == "tf32").eval() for _ in range(2)]
    # Of a few rows: it is called several times on the CPU, which may have no fast product of half precision.
    submodels = tuple(make_submodel(who, model, x[:8]) for who, model in zip("ab", models, strict=True))
    a, b = _unequal(device.units)[:2]
    lanes = (Lane(units=a, members=("a",)), Lane(units=b, members=("b",)))
    plan = Plan(lanes=lanes, units=device.units)
    ensemble = Ensemble(submodels=submodels, combine=make_combine("mean"))
    return check_numerics(plan, ensemble, device, fork_server, x=x, runs=3).to_dict()


# --- what crosses ------------------------------------------------------------------------------------------------


def transport(steps: Steps) -> None:
    """By size: outputs combined on the CPU and on the GPU, and an input that one lane or every lane brings."""
    sizes = SIZES[:2] if steps.rehearse else SIZES
    for backend, device, fork_server in _each_backend(steps):
        for size in sizes:
            steps.do(f"{backend}.outputs of {size} bytes", partial(_outputs, size, device, fork_server), needs_s=3)
        for size in () if backend == "green" else sizes:  # lanes of one process read one input anyway
            steps.do(f"{backend}.input of {size} bytes", partial(_inputs, size, device, fork_server), needs_s=3)


def _four_lanes(inputs: int, outputs: int, device: Any, fork_server: Any) -> Any:
    from esen_lab.ensemble import Ensemble, make_combine, make_submodel
    from esen_lab.planner.plan import Lane, Plan
    from esen_lab.run import Executor

    x = torch.randn(max(1, inputs // 4))
    names = "abcd" if device.units >= 4 else "ab"
    submodels = tuple(make_submodel(name, Passes(outputs // 4, seed), x) for seed, name in enumerate(names))
    lanes = tuple(Lane(units=device.units // len(names), members=(name,)) for name in names)
    ensemble = Ensemble(submodels=submodels, combine=make_combine("mean"))
    return Executor.start(Plan(lanes=lanes, units=device.units), ensemble, device, fork_server), x


def _outputs(size: int, device: Any, fork_server: Any) -> dict[str, Any]:
    executor, x = _four_lanes(1 << 10, size, device, fork_server)
    try:
        for _ in range(12):
            notes = executor.run(x).report.notes
        trial = executor.lanes.where.trial
        return {
            "on_cpu_s": _median(trial.on_cpu_s),
            "on_gpu_s": _median(trial.on_gpu_s),
            "refused": trial.refused,
            "notes": list(notes),
        }
    finally:
        executor.close()


def _inputs(size: int, device: Any, fork_server: Any) -> dict[str, Any]:
    from esen_lab.run import lane_input as module

    found: dict[str, Any] = {}
    usual = module._WORTH_SHARING_BYTES
    try:
        for word, least in (("every lane", 1 << 60), ("one lane", 0)):
            module._WORTH_SHARING_BYTES = least
            executor, x = _four_lanes(size, 1 << 10, device, fork_server)
            try:
                executor.run(x + 1)
                times = [executor.run(x).report.jct_s for _ in range(30)]
                found[word] = {"median_s": _median(times), "shared": executor.lanes.input.shared}
            finally:
                executor.close()
    finally:
        module._WORTH_SHARING_BYTES = usual
    return found


# --- one graph ---------------------------------------------------------------------------------------------------


def one_graph(steps: Steps) -> None:
    """Each ensemble as one graph over green-context lanes of equal share: time per call, and what the host spends."""
    if steps.rehearse:
        steps.found["skipped"] = "CUDA graphs have no CPU stand-in; tests use a double of torch.cuda"
        return
    for batch in sorted(BATCHES):
        for ensemble in ENSEMBLES:
            steps.do(f"{ensemble}@{batch}", partial(_one_graph, ensemble, batch), needs_s=5)
            torch.cuda.empty_cache()


def _one_graph(ensemble: str, batch: int) -> dict[str, Any]:
    """What the host spends: on a replay alone, and on a whole call less what the GPU took of it (copies, combining)."""
    from esen_lab.ensemble import Ensemble, make_combine, make_submodel
    from esen_lab.planner.plan import Lane, Plan
    from esen_lab.run import Executor, ForkServer
    from esen_lab.run.graph_runner import AS_ONE_GRAPH

    models, x = models_of(ensemble, batch, False)
    submodels = {name: make_submodel(name, module, x) for name, module in models.items()}
    count = min(4, len(models))
    # The largest first, round robin: a plan needs a profile, which the other sections make.
    largest = sorted(models, key=lambda name: -sum(p.numel() for p in models[name].parameters()))
    fork_server = ForkServer()
    with _device("green", False) as device:
        lanes = tuple(
            Lane(
                units=device.units // count,
                members=tuple(largest[number::count]),
                backends=("cuda-graph",) * len(largest[number::count]),
            )
            for number in range(count)
        )
        rule = make_combine("mean")
        plan = Plan(lanes=lanes, units=device.units)
        ensemble_of = Ensemble(submodels=tuple(submodels.values()), combine=rule)
        executor = Executor.start(plan, ensemble_of, device, fork_server)
        try:
            jct, calls, host = [], [], []
            for _ in range(100):
                began = time.perf_counter()
                report = executor.run(x).report
                called = time.perf_counter() - began
                on_gpu = max(lane.end_s for lane in report.lanes) - min(lane.start_s for lane in report.lanes)
                jct.append(report.jct_s)
                calls.append(called)
                host.append(called - on_gpu)
            replays = _replays_host_s(executor, ensemble_of, x)
            return {
                "lanes": [list(lane.members) for lane in lanes],
                "one_graph": AS_ONE_GRAPH in report.notes,
                "notes": list(report.notes),
                "jct_median_s": _median(jct),
                "call_median_s": _median(calls),
                "call_less_gpu_median_s": _median(host),
                "host_median_s": _median(replays),
                "host_goal_met": statistics.median(replays) < GOAL_HOST_S if replays else None,
            }
        finally:
            executor.close()
            fork_server.close()


def _replays_host_s(executor: Any, ensemble: Any, x: Any, *, cuda: Any = None) -> list[float]:
    """The host's own time around a replay, the GPU idle before each; [] where the plan runs as no graph."""
    from esen_lab.run.plan_graph import PlanGraph

    runner = executor._graph
    made = None if runner is None else runner.graphs.find(ensemble, x)
    if not isinstance(made, PlanGraph):
        return []
    cuda = torch.cuda if cuda is None else cuda
    graph, stream = made._graph._graph, made._graph._main
    times = []
    with cuda.stream(stream):
        for _ in range(200):
            stream.synchronize()
            began = time.perf_counter()
            graph.replay()
            times.append(time.perf_counter() - began)
        stream.synchronize()
    return times


# --- an ensemble -------------------------------------------------------------------------------------------------


BASE = "MPS default"
"""Clients of MPS without any limit set: what the plan is held against, under green contexts too."""


def one_ensemble(ensemble: str, batch: int, backend: str, steps: Steps) -> None:
    """Profile and plan; the ways that goals are held against, in the same rounds; utilization; every way to run it."""
    from esen_lab import Lab

    rehearse = steps.rehearse
    models, x = models_of(ensemble, batch, rehearse)
    steps.found |= {"ensemble": ensemble, "batch": batch, "backend": backend, "members": list(models)}
    with contextlib.ExitStack() as held:
        device = held.enter_context(_device(backend, rehearse))
        folder = steps.folder or Path(held.enter_context(tempfile.TemporaryDirectory()))
        name = f"{ensemble}-{batch}-{backend}.sqlite"  # points stay: a later call measures what is missing
        lab = held.enter_context(Lab(device=device, store=str(folder / name)))
        steps.found["device"] = device.identity.to_dict()

        def registered() -> float:
            began = time.perf_counter()
            for name, module in models.items():
                lab.register(name, module, example=x)
            return time.perf_counter() - began

        if steps.do("registering_s", registered, always=True) is None:
            return
        if steps.do("profile", partial(_profiled, lab, device, steps), always=True) is None:
            return
        if steps.do("plan", lambda: lab.search().to_dict(), always=True) is None:
            return
        plan = lab.plan
        assert plan is not None
        steps.do("our shares", partial(_lane_for_each, lab))
        lab.plan = plan
        _against_the_base(lab, x, plan, steps)
        steps.do("gate", lambda: lab.check_numerics(x, runs=3).to_dict(), needs_s=6)
        steps.do("compared", partial(_compared, lab, x, plan, steps), needs_s=8)
        met = goals(steps.found.get("paired", {}), steps.found.get("utilization", {}), plan.gap, plan.bound_s)
        # Computed all the same, so that a rehearsal tests it; but a goal is met on a GPU or not at all.
        steps.found["goals"] = dict.fromkeys(met) if rehearse else met


def _lane_for_each(lab: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = lab.search(limits={"one_each": True}).to_dict()
    except InfeasibleError as problem:
        return {"why_none": str(problem)}
    return found


def _profiled(lab: Any, device: Any, steps: Steps) -> dict[str, Any]:
    # A few shares: what is between is interpolated, and what the plan takes is measured by the comparison.
    shares = sorted({max(1, device.units * part // 16) for part in (1, 2, 4, 8, 12, 16)})
    job = lab.profile(shares=shares, budget_s=0.02 if steps.rehearse else 0.1)
    try:
        profile = job.result(timeout=max(1.0, steps.left_s - 2.0))
    except WorkerTimeout as problem:
        raise OutOfTime from problem  # its points are stored
    finally:
        job.cancel()
    # What `FakeDevice.load` reads, to plan with on any machine.
    return {**profile.to_dict(), "recorded": profile.recorded()}


def _against_the_base(lab: Any, x: Any, plan: Any, steps: Steps) -> None:
    """The plan, eagerly and as graphs, and one process with streams, each in the same rounds as MPS without limits."""
    from esen_lab.run import Executor, ForkServer
    from esen_lab.run.baselines import STRATEGIES

    device, ensemble = lab.device, lab.ensemble
    if not {"paired", *(f"utilization.{way}" for way in (BASE, "plan"))} - _done(steps):
        return
    with contextlib.ExitStack() as held:
        fork_server = ForkServer()
        held.callback(fork_server.close)
        base = device
        if device.identity.kind == "cuda green":
            base = held.enter_context(_device("mps", steps.rehearse))
        ways = {
            BASE: (base, STRATEGIES["unlimited"](ensemble, base.units)),
            "plan": (device, plan),
            "plan + graphs": (device, plan.with_backends(dict.fromkeys(plan.names, "graph"))),
            "one process with streams": (device, STRATEGIES["threads"](ensemble, device.units)),
        }
        running: dict[str, Any] = {}
        for way, (where, how) in ways.items():

            def opening(way: str = way, where: Any = where, how: Any = how) -> list[str]:
                running[way] = Executor.start(how, ensemble, where, fork_server)
                held.callback(running[way].close)
                report = running[way].run(x).report
                return [*report.notes, *running[way].run(x).report.notes]

            steps.do(f"started.{way}", opening, needs_s=5, always=True)
        started = steps.found.get("started", {})
        eagerly = {way for way in running if any("eagerly" in note for note in started.get(way, ()))}
        rounds = 3 if steps.rehearse else 40
        budget_s = max(1.0, steps.left_s * 0.4)
        steps.do("paired", lambda: paired({w: running[w] for w in running}, x, rounds, budget_s, eagerly), needs_s=3)
        for way, executor in running.items():
            steps.do(f"utilization.{way}", partial(_utilization, lab, executor, x, steps.rehearse), needs_s=3)


def _done(steps: Steps) -> set[str]:
    groups = {f"utilization.{way}" for way in steps.found.get("utilization", {})}
    return {*groups, *(key for key in steps.found if key != "utilization")}


def paired(running: Mapping[str, Any], x: Any, rounds: int, budget_s: float, eagerly: set[str]) -> dict[str, Any]:
    """Each round runs every way once, in an order drawn anew; a ratio is one of the same round.

    Args:
        running: Executors by name.
        x: The input.
        rounds: How many, if `budget_s` allows; five at least.
        budget_s: Seconds after which no further round begins.
        eagerly: Those that were to run as graphs and did not.
    """
    from esen_lab.common.answers import difference

    order, draw = list(running), random.Random(0)
    times: dict[str, list[float]] = {way: [] for way in running}
    answers = {way: executor.run(x).output for way, executor in running.items()}
    began = time.monotonic()
    for number in range(rounds):
        if number >= 5 and time.monotonic() - began > budget_s:
            break
        draw.shuffle(order)
        for way in order:
            times[way].append(running[way].run(x).report.jct_s)
    found = {}
    for way, measured in times.items():
        ratios = sorted(own / base for own, base in zip(measured, times.get(BASE, ()), strict=False))
        found[way] = {
            "median_s": _median(measured),
            "ratio_to_base": _median(ratios),
            "ratio_quartiles": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]] if ratios else None,
            "agrees": difference(answers[way], answers[BASE]).agrees if BASE in answers else None,
            "fell_back": way in eagerly,
            "rounds": len(measured),
        }
    return found


def _usual(lab: Any, device: Any) -> dict[str, Any]:
    """The usual ways that are also run with their sub-models as graphs."""
    from esen_lab.run.baselines import STRATEGIES

    made = {word: or_why(partial(STRATEGIES[word], lab.ensemble, device.units)) for word in ("unlimited", "equal")}
    made["sequential"] = STRATEGIES["sequential"](lab.ensemble, device.units)
    return {word: plan for word, plan in made.items() if not isinstance(plan, dict)}


def _compared(lab: Any, x: Any, plan: Any, steps: Steps) -> dict[str, Any]:
    """Every way to run it in the same rounds, each also with its sub-models as CUDA graphs."""
    shares = or_why(lambda: lab.search(limits={"one_each": True}))
    lab.plan = plan
    own = {} if isinstance(shares, dict) else {"our shares": shares}
    eager = {"plan": plan, **_usual(lab, lab.device), **own}
    graphs = {f"{w} + graphs": p.with_backends(dict.fromkeys(p.names, "graph")) for w, p in eager.items()}
    rounds = 3 if steps.rehearse else 15
    compared = lab.compare(x, rounds=rounds, budget_s=max(2.0, steps.left_s * 0.3), plans={**own, **graphs})
    return {
        "rows": {
            row.strategy: {
                "lanes": row.lanes,
                "median_s": _number(row.median_s),
                "spread_s": _number(row.spread_s),
                "ratio_to_unlimited": row.ratio_to.get("unlimited"),
                "ratio_to_bound": row.ratio_to_bound,
                "agrees": row.agrees,
                "agreement": row.agreement,
                "why_none": row.failed,
                "fell_back": bool(row.fallen_back),
            }
            for row in compared.rows
        },
        "rounds": compared.rounds,
        "verdict": compared.verdict,
        "notes": list(compared.notes),
    }


def _utilization(lab: Any, executor: Any, x: Any, rehearse: bool) -> dict[str, Any]:
    """Mean of every channel in percent while a plan runs in a loop: SM activity where GPM can be read."""
    sampler = lab.readings.watch(interval_s=0.2)
    try:
        # The sample in which the loop begins covers idle time too: it comes, the loop under way, and is left out.
        seen = len(sampler.samples())
        until = time.monotonic() + 5.0
        while len(sampler.samples()) == seen and time.monotonic() < until:
            executor.run(x)
        after = len(sampler.samples())
        until = time.monotonic() + (0.5 if rehearse else 1.5)
        while time.monotonic() < until:
            executor.run(x)
        samples = sampler.samples()[after:]
    finally:
        lab.readings.unwatch()
    means = {}
    for channel in sampler.channels:
        if channel.unit == "%":
            read = [sample.values[channel.key] for sample in samples if channel.key in sample.values]
            means[channel.label] = statistics.mean(read) if read else None
    return {"percent": means, "samples": len(samples)}


def goals(
    ways: Mapping[str, Any], utilization: Mapping[str, Any], gap: float | None, bound_s: float | None = None
) -> dict[str, Any]:
    """The goals as numbers and whether they are met; None where something was not measured.

    Args:
        ways: What `paired` made.
        utilization: What was read while each way ran.
        gap: Of the plan to its bound, as predicted.
        bound_s: That bound.
    """

    def lower(word: str) -> float | None:
        way = ways.get(word, {})
        wrong = way.get("fell_back") or way.get("agrees") is False or way.get("ratio_to_base") is None
        return None if wrong else 1 - way["ratio_to_base"]

    def active(word: str) -> float | None:
        percent = utilization.get(word, {}).get("percent", {})
        return next((value for label, value in percent.items() if "SM activity" in label), None)

    ours, graphed = lower("plan"), lower("plan + graphs")
    busy, before = active("plan"), active(BASE)
    more = busy / before - 1 if busy is not None and before else None
    own_s = ways.get("plan", {}).get("median_s")
    measured = None if ours is None or not bound_s or own_s is None else own_s / bound_s - 1
    return {
        "jct_lower_than_mps_default": ours,
        "jct_goal_met": None if ours is None else ours >= GOAL_JCT,
        "jct_lower_with_graphs": graphed,
        "graphs_goal_met": None if graphed is None else graphed >= GOAL_JCT_GRAPHS,
        "streams_lower_than_mps_default": lower("one process with streams"),
        "sm_activity_more_than_mps_default": more,
        "sm_activity_goal_met": None if more is None else more >= GOAL_UTILIZATION,
        "gap_to_bound": gap,
        "gap_goal_met": None if gap is None else gap <= GOAL_GAP,
        "measured_gap_to_bound": measured,
        "measured_gap_goal_met": None if measured is None else measured <= GOAL_GAP,
    }


# --- what sections share -----------------------------------------------------------------------------------------


def _each_backend(steps: Steps) -> Iterator[tuple[str, Any, Any]]:
    """Each way to share this machine, with its device and a fork server; where one can't be had, the steps say why."""
    from esen_lab.run import ForkServer

    for backend in ("cpu",) if steps.rehearse else ("mps", "green"):  # first what wants no CUDA in this process
        with contextlib.ExitStack() as held:
            opened: list[Any] = []

            def opening(backend: str = backend, held: Any = held, opened: list[Any] = opened) -> dict[str, Any]:
                opened.append(held.enter_context(_device(backend, steps.rehearse)))
                found: dict[str, Any] = opened[0].identity.to_dict()
                return found

            steps.do(f"{backend}.device", opening, always=True)
            if opened:
                fork_server = ForkServer()
                held.callback(fork_server.close)
                yield backend, opened[0], fork_server


@contextlib.contextmanager
def _device(backend: str, rehearse: bool) -> Iterator[Any]:
    device = _opened(backend, rehearse)
    try:
        yield device
    finally:
        device.close()


def _opened(backend: str, rehearse: bool) -> Any:
    if rehearse:
        from esen_lab.devices import CpuDevice

        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        return CpuDevice(cores=[(cores[0],), (cores[-1],)])
    from esen_lab.devices import open_device

    return open_device(f"cuda:0 {backend}")


def _unequal(units: int) -> tuple[int, ...]:
    return (max(1, units // 2), max(1, units // 4), max(1, units // 8)) if units >= 8 else (1,) * min(2, units)


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
