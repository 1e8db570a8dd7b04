"""What `make gpu-check` measures, section by section; each runs in a process of its own.

facts        what exists here
limits       which limit is really in force in a worker at several shares of NVIDIA MPS
proof        unequal green contexts: their SMs, and that no SM is in two of them
gate         the numerics gate for each dtype on each mechanism
transport    where outputs are combined, and who brings the input, by size
one-graph    what the host spends on a replay
NAME@BATCH/MECHANISM   one ensemble: profile, plans, every way to run it, utilization, goals
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from gpu_models import BATCHES, ENSEMBLES, Passes, Product, models_of
from gpu_steps import Steps, or_why

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
    if name in simple:
        simple[name](steps)
    else:
        which, _, mechanism = name.partition("/")
        ensemble, _, batch = which.partition("@")
        one_ensemble(ensemble, int(batch), mechanism, steps)


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
        "mps_programs": {
            name: shutil.which(name) or next((p for p in (f"/usr/bin/{name}",) if os.path.exists(p)), None)
            for name in ("nvidia-cuda-mps-control", "nvidia-cuda-mps-server")
        },
        "cxx": shutil.which(os.environ.get("CXX", "g++")),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def _machine() -> dict[str, Any]:
    """Driver, GPUs, whether SM activity can be read (GPM), compute mode, MIG."""
    from esen_lab.devices import this_machine

    return asdict(this_machine().machine)


def _doctor() -> list[str]:
    """What a user would be told, self-tests of every mechanism included."""
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
    from esen_lab.devices.green_driver import GreenDriver

    return bool(GreenDriver())


def limits(steps: Steps) -> None:
    """Which limit is really in force in a worker at several shares."""
    from esen_lab.workers import Nursery

    with _device("mps", steps.rehearse) as device:
        steps.found["device"] = device.identity.to_dict()
        shares = MPS_SHARES if not steps.rehearse else tuple(range(1, device.units + 1))
        nursery = Nursery()

        def in_force(share: int) -> str:
            began = time.perf_counter()
            worker = nursery.worker(device.place([share])[0], label=f"limit {share}")
            took = time.perf_counter() - began
            told = worker.in_force.description
            worker.close()
            return f"{told} (started in {took:.2f} s)"

        try:
            for share in shares:
                steps.do(f"in_force.{share}", partial(in_force, share))
        finally:
            nursery.close()


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
    """The numerics gate for each dtype on each mechanism: half of the sub-models beside the other half, twice over."""
    from esen_lab.runtime import Nursery

    for mechanism in _mechanisms(steps):
        with contextlib.ExitStack() as held:
            device = _enter(held, mechanism, steps)
            if device is None:
                continue
            nursery = Nursery()
            held.callback(nursery.close)
            for name in DTYPES:
                steps.do(f"{mechanism}.{name}", partial(_gated, name, device, nursery, steps.rehearse))


def _gated(dtype_name: str, device: Any, nursery: Any, rehearse: bool) -> dict[str, Any]:
    from esen_lab.ensemble import Ensemble, make_combine, make_submodel
    from esen_lab.planning import Lane, Plan
    from esen_lab.runtime.gate import check_numerics

    width = 32 if rehearse else 4096
    dtype = torch.float32 if dtype_name == "tf32" else getattr(torch, dtype_name)
    torch.manual_seed(0)
    x = torch.randn(8 if rehearse else 1024, width).to(dtype)
    models = [Product(width, dtype, tf32=dtype_name == "tf32").eval() for _ in range(2)]
    submodels = tuple(make_submodel(who, model, x) for who, model in zip("ab", models, strict=True))
    a, b = _unequal(device.units)[:2]
    lanes = (Lane(units=a, members=("a",)), Lane(units=b, members=("b",)))
    plan = Plan(lanes=lanes, units=device.units)
    ensemble = Ensemble(submodels=submodels, combine=make_combine("mean"))
    return check_numerics(plan, ensemble, device, nursery, runs=3).to_dict()


# --- what crosses ------------------------------------------------------------------------------------------------


def transport(steps: Steps) -> None:
    """By size: outputs combined on the CPU and on the GPU, and an input that one lane or every lane brings."""
    from esen_lab.runtime import Nursery

    for mechanism in _mechanisms(steps):
        with contextlib.ExitStack() as held:
            device = _enter(held, mechanism, steps)
            if device is None:
                continue
            nursery = Nursery()
            held.callback(nursery.close)
            for size in SIZES[:2] if steps.rehearse else SIZES:
                steps.do(f"{mechanism}.outputs of {size} bytes", partial(_outputs, size, device, nursery), needs_s=3)
            if mechanism != "green":  # lanes of one process read one input anyway
                for size in SIZES[:2] if steps.rehearse else SIZES:
                    steps.do(f"{mechanism}.input of {size} bytes", partial(_inputs, size, device, nursery), needs_s=3)


def _four_lanes(inputs: int, outputs: int, device: Any, nursery: Any) -> Any:
    from esen_lab.ensemble import Ensemble, make_combine, make_submodel
    from esen_lab.planning import Lane, Plan
    from esen_lab.runtime import Executor

    x = torch.randn(max(1, inputs // 4))
    names = "abcd" if device.units >= 4 else "ab"
    submodels = tuple(make_submodel(name, Passes(outputs // 4, seed), x) for seed, name in enumerate(names))
    lanes = tuple(Lane(units=device.units // len(names), members=(name,)) for name in names)
    ensemble = Ensemble(submodels=submodels, combine=make_combine("mean"))
    return Executor.start(Plan(lanes=lanes, units=device.units), ensemble, device, nursery), x


def _outputs(size: int, device: Any, nursery: Any) -> dict[str, Any]:
    executor, x = _four_lanes(1 << 10, size, device, nursery)
    try:
        for _ in range(12):
            notes = executor.run(x)[1].notes
        trial = executor.combine_trial
        return {
            "on_cpu_s": _median(trial.on_cpu_s),
            "on_gpu_s": _median(trial.on_gpu_s),
            "refused": trial.refused,
            "notes": list(notes),
        }
    finally:
        executor.close()


def _inputs(size: int, device: Any, nursery: Any) -> dict[str, Any]:
    from esen_lab.runtime import executor as module

    found: dict[str, Any] = {}
    usual = module._WORTH_SHARING_BYTES
    try:
        for word, least in (("every lane", 1 << 60), ("one lane", 0)):
            module._WORTH_SHARING_BYTES = least
            executor, x = _four_lanes(size, 1 << 10, device, nursery)
            try:
                executor.run(x + 1)
                times = [executor.run(x)[1].jct_s for _ in range(30)]
                found[word] = {"median_s": _median(times), "shared": executor.input_shared}
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
    """Two figures of the host: what queueing takes, and a whole call less what the GPU took of it."""
    from esen_lab.ensemble import Ensemble, make_combine, make_submodel
    from esen_lab.planning import Lane, Plan
    from esen_lab.runtime import Executor, Nursery
    from esen_lab.runtime.executor import AS_ONE_GRAPH

    models, x = models_of(ensemble, batch, False)
    submodels = {name: make_submodel(name, module, x) for name, module in models.items()}
    count = min(4, len(models))
    # The largest first, round robin: a plan needs a profile, which the other sections make.
    largest = sorted(models, key=lambda name: -sum(p.numel() for p in models[name].parameters()))
    nursery = Nursery()
    with _device("green", False) as device:
        lanes = tuple(
            Lane(
                units=device.units // count,
                members=tuple(largest[number::count]),
                mechanisms=("graph",) * len(largest[number::count]),
            )
            for number in range(count)
        )
        rule = make_combine("mean")
        plan = Plan(lanes=lanes, units=device.units)
        ensemble_of = Ensemble(submodels=tuple(submodels.values()), combine=rule)
        executor = Executor.start(plan, ensemble_of, device, nursery)
        try:
            jct, calls, host = [], [], []
            for _ in range(100):
                began = time.perf_counter()
                report = executor.run(x)[1]
                called = time.perf_counter() - began
                on_gpu = max(lane.end_s for lane in report.lanes) - min(lane.start_s for lane in report.lanes)
                jct.append(report.jct_s)
                calls.append(called)
                host.append(called - on_gpu)
            return {
                "lanes": [list(lane.members) for lane in lanes],
                "one_graph": AS_ONE_GRAPH in report.notes,
                "notes": list(report.notes),
                "jct_median_s": _median(jct),
                "call_median_s": _median(calls),
                "host_median_s": _median(host),
                "host_goal_met": statistics.median(host) < GOAL_HOST_S,
            }
        finally:
            executor.close()
            nursery.close()


# --- an ensemble -------------------------------------------------------------------------------------------------


def one_ensemble(ensemble: str, batch: int, mechanism: str, steps: Steps) -> None:
    """Profile, plan, compare every way to run it in the same rounds, read utilization, check answers."""
    from esen_lab import Lab

    rehearse = steps.rehearse
    models, x = models_of(ensemble, batch, rehearse)
    steps.found |= {"ensemble": ensemble, "batch": batch, "mechanism": mechanism, "members": list(models)}
    with (
        _device(mechanism, rehearse) as device,
        tempfile.TemporaryDirectory() as folder,
        Lab(device=device, store=f"{folder}/profiles.sqlite") as lab,
    ):
        steps.found["device"] = device.identity.to_dict()

        def registered() -> float:
            began = time.perf_counter()
            for name, module in models.items():
                lab.register(name, module, example=x)
            return time.perf_counter() - began

        if steps.do("registering_s", registered) is None:
            return
        if steps.do("profile", partial(_profiled, lab, device, rehearse)) is None:
            return
        if steps.do("plan", lambda: lab.search().to_dict()) is None:
            return
        plan = lab.plan
        assert plan is not None
        shares = or_why(lambda: lab.search(limits={"one_each": True}))
        lab.plan = plan
        own = {"our shares": shares} if not isinstance(shares, dict) else {}
        steps.found["our shares"] = shares if isinstance(shares, dict) else shares.to_dict()
        steps.do("compared", partial(_compared, lab, x, plan, own, steps), needs_s=8)
        graphed = plan.with_mechanisms(dict.fromkeys(plan.names, "graph"))
        if steps.do("plan as graphs", partial(_timed, lab, graphed, x, rehearse), needs_s=4) is not None:
            steps.do("utilization.plan + graphs", partial(_utilization, lab, graphed, x, rehearse), needs_s=3)
        for word, other in {"plan": plan, **_usual(lab, device), **own}.items():
            steps.do(f"utilization.{word}", partial(_utilization, lab, other, x, rehearse), needs_s=6)
        lab.plan = plan
        steps.do("gate", lambda: lab.check_numerics(x, runs=3).to_dict(), needs_s=6)
        rows = steps.found.get("compared", {}).get("rows", {})
        met = goals(rows, steps.found.get("utilization", {}), plan.gap)
        # Computed all the same, so that a rehearsal tests it; but a goal is met on a GPU or not at all.
        steps.found["goals"] = dict.fromkeys(met) if rehearse else met


def _profiled(lab: Any, device: Any, rehearse: bool) -> dict[str, Any]:
    # A few shares: what is between is interpolated, and what the plan takes is measured by the comparison.
    shares = sorted({max(1, device.units * part // 16) for part in (1, 2, 4, 8, 12, 16)})
    profile = lab.profile(shares=shares, budget_s=0.02 if rehearse else 0.1, fresh=True).result(timeout=200)
    # What `FakeDevice.load` reads, to plan with on any machine.
    return {**profile.to_dict(), "recorded": profile.recorded()}


def _usual(lab: Any, device: Any) -> dict[str, Any]:
    """The usual ways whose utilization is read, the one that ours is held against first."""
    from esen_lab.runtime.strategies import STRATEGIES

    made = {word: or_why(partial(STRATEGIES[word], lab.ensemble, device.units)) for word in ("unlimited", "equal")}
    made["sequential"] = STRATEGIES["sequential"](lab.ensemble, device.units)
    return {word: plan for word, plan in made.items() if not isinstance(plan, dict)}


def _compared(lab: Any, x: Any, plan: Any, own: Mapping[str, Any], steps: Steps) -> dict[str, Any]:
    """Every way to run it in the same rounds, each also with its sub-models as CUDA graphs."""
    eager = {"plan": plan, **_usual(lab, lab.device), **own}
    graphs = {f"{w} + graphs": p.with_mechanisms(dict.fromkeys(p.names, "graph")) for w, p in eager.items()}
    rounds = 3 if steps.rehearse else 15
    compared = lab.compare(x, rounds=rounds, budget_s=max(2.0, steps.left_s * 0.3), plans={**own, **graphs})
    fell_back = {note.partition(": ")[0] for note in compared.notes if "but eagerly" in note}
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
                "failed": row.failed,
                "fell_back": row.strategy in fell_back,
            }
            for row in compared.rows
        },
        "rounds": compared.rounds,
        "verdict": compared.verdict,
        "notes": list(compared.notes),
    }


def _timed(lab: Any, plan: Any, x: Any, rehearse: bool) -> dict[str, Any]:
    """A plan run by itself, with what its report remarks: a graph that fell back is no graph."""
    from esen_lab.runtime.executor import AS_ONE_GRAPH

    lab.plan = plan
    times, overheads = [], []
    for _ in range(3 if rehearse else 30):
        lab.run(x)
        times.append(lab.report.jct_s)
        overheads.append(lab.report.overhead_s)
    return {
        "median_s": _median(times),
        "spread_s": sorted(times)[3 * len(times) // 4] - sorted(times)[len(times) // 4],
        "overhead_s": _median(overheads),
        "notes": list(lab.report.notes),
        "one_graph": AS_ONE_GRAPH in lab.report.notes,
        "fell_back": any("runs eagerly" in note for note in lab.report.notes),
    }


def _utilization(lab: Any, plan: Any, x: Any, rehearse: bool) -> dict[str, Any]:
    """Mean of every channel in percent while a plan runs in a loop: SM activity where GPM can be read."""
    lab.plan = plan
    lab.run(x)
    sampler = lab.watch(interval_s=0.2)
    try:
        after = len(sampler.samples())
        until = time.monotonic() + (0.5 if rehearse else 1.5)
        while time.monotonic() < until:
            lab.run(x)
        samples = sampler.samples()[after:]
    finally:
        lab.unwatch()
    means = {}
    for channel in sampler.channels:
        if channel.unit == "%":
            read = [sample.values[channel.key] for sample in samples if channel.key in sample.values]
            means[channel.label] = statistics.mean(read) if read else None
    return {"percent": means, "samples": len(samples)}


def goals(rows: Mapping[str, Any], utilization: Mapping[str, Any], gap: float | None) -> dict[str, Any]:
    """The goals as numbers and whether they are met; None where something was not measured."""

    def median(word: str) -> float | None:
        row = rows.get(word, {})
        wrong = row.get("failed") or row.get("fell_back") or row.get("agrees") is False
        return None if wrong else row.get("median_s")

    def active(word: str) -> float | None:
        percent = utilization.get(word, {}).get("percent", {})
        return next((value for label, value in percent.items() if "SM activity" in label), None)

    base, ours, graphed = median("unlimited"), median("plan"), median("plan + graphs")
    lower = 1 - ours / base if ours and base else None
    lower_graphs = 1 - graphed / base if graphed and base else None
    busy, before = active("plan"), active("unlimited")
    more = busy / before - 1 if busy is not None and before else None
    to_bound = rows.get("plan", {}).get("ratio_to_bound") if ours else None
    measured = None if to_bound is None else to_bound - 1
    return {
        "jct_lower_than_unlimited": lower,
        "jct_goal_met": None if lower is None else lower >= GOAL_JCT,
        "jct_lower_with_graphs": lower_graphs,
        "graphs_goal_met": None if lower_graphs is None else lower_graphs >= GOAL_JCT_GRAPHS,
        "sm_activity_more_than_unlimited": more,
        "sm_activity_goal_met": None if more is None else more >= GOAL_UTILIZATION,
        "gap_to_bound": gap,
        "gap_goal_met": None if gap is None else gap <= GOAL_GAP,
        "measured_gap_to_bound": measured,
        "measured_gap_goal_met": None if measured is None else measured <= GOAL_GAP,
    }


# --- what sections share -----------------------------------------------------------------------------------------


def _mechanisms(steps: Steps) -> tuple[str, ...]:
    return ("cpu",) if steps.rehearse else ("mps", "green")  # the one first that wants no CUDA in this process


def _enter(held: contextlib.ExitStack, mechanism: str, steps: Steps) -> Any:
    """A device until `held` ends; None where there is none, and what was found says why."""
    opened: list[Any] = []

    def opening() -> dict[str, Any]:
        opened.append(held.enter_context(_device(mechanism, steps.rehearse)))
        found: dict[str, Any] = opened[0].identity.to_dict()
        return found

    steps.do(f"{mechanism}.device", opening)
    return opened[0] if opened else None


@contextlib.contextmanager
def _device(mechanism: str, rehearse: bool) -> Iterator[Any]:
    device = _opened(mechanism, rehearse)
    try:
        yield device
    finally:
        device.close()


def _opened(mechanism: str, rehearse: bool) -> Any:
    if rehearse:
        from esen_lab.devices import CpuDevice

        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        return CpuDevice(cores=[(cores[0],), (cores[-1],)])
    from esen_lab.devices import open_device

    return open_device(f"cuda:0 {mechanism}")


def _unequal(units: int) -> tuple[int, ...]:
    return (max(1, units // 2), max(1, units // 4), max(1, units // 8)) if units >= 8 else (1,) * min(2, units)


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
