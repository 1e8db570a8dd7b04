"""What `make gpu-check` runs on a machine with an NVIDIA GPU: everything the package claims there, as JSON.

    python benchmarks/gpu/gpu_check.py [--out gpu_check.json] [--seconds 470] [--only NAME ...] [--rehearse]

Each section runs in a process of its own with a deadline, so that a crash or a hang costs one section and no section
holds a CUDA context while another measures. Needs torch, numpy and the package.

--rehearse runs the same program with tiny sizes on the CPU device, to test the program itself. Nothing in its output
is a figure of a GPU, and every part of it says so.

Exit code: 0 all sections ran; 1 one failed or was cut off; 3 there is no GPU, and nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

NO_GPU = 3
ROOT = Path(__file__).parents[2]
ENSEMBLES = ("mixed-cnns", "transformers", "one-heavy", "eight-equal")
BATCHES = (1, 16)
DTYPES = ("float32", "tf32", "float16", "bfloat16")
MPS_SHARES = (10, 25, 50, 75)
SECTIONS = (
    "facts",
    "limits",
    "proof",
    "gate",
    "one-graph",
    *(f"{ensemble}@{batch}" for ensemble in ENSEMBLES for batch in BATCHES),
)
GOAL_JCT = 0.1784
GOAL_UTILIZATION = 0.2809
GOAL_JCT_GRAPHS = 0.30
GOAL_GAP = 0.15
GOAL_HOST_S = 30e-6
REHEARSAL = "REHEARSAL on the CPU with tiny sizes: no figure here is a GPU's"


# --- ensembles ---------------------------------------------------------------------------------------------------


def models_of(ensemble: str, batch: int, tiny: bool) -> tuple[dict[str, Any], Any]:
    """Seeded networks and an input for all of them."""
    torch.manual_seed(0)

    def cnn(width: int, depth: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, stride=2), nn.ReLU()]
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)).eval()

    def transformer(width: int, depth: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(width, max(1, width // 64), 4 * width, batch_first=True, dropout=0.0)
        into, out = nn.Linear(64, width), nn.Linear(width, 10)
        return nn.Sequential(into, nn.TransformerEncoder(layer, depth, enable_nested_tensor=False), out).eval()

    def mlp(width: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, width), nn.ReLU(), nn.Linear(width, 10)).eval()

    if ensemble == "mixed-cnns":
        sizes = [(4, 1), (8, 1)] if tiny else [(32, 4), (64, 6), (128, 8), (256, 8), (96, 16)]
        side = 16 if tiny else 224
        return {f"cnn{w}x{d}": cnn(w, d) for w, d in sizes}, torch.randn(batch, 3, side, side)
    if ensemble == "transformers":
        sizes = [(64, 1), (128, 1)] if tiny else [(128, 2), (256, 4), (512, 6), (768, 12)]
        return {f"encoder{w}x{d}": transformer(w, d) for w, d in sizes}, torch.randn(batch, 4 if tiny else 128, 64)
    if ensemble == "one-heavy":
        heavy = cnn(8, 2) if tiny else cnn(512, 12)
        light = 2 if tiny else 7
        side = 16 if tiny else 128
        return {"heavy": heavy, **{f"light{n}": cnn(4 if tiny else 32, 1) for n in range(light)}}, torch.randn(
            batch, 3, side, side
        )
    width = 8 if tiny else 4096
    return {f"member{n}": mlp(width) for n in range(2 if tiny else 8)}, torch.randn(batch, 64, 64)


# --- sections ----------------------------------------------------------------------------------------------------


def facts(rehearse: bool) -> dict[str, Any]:
    """What exists here. Uses CUDA in this section's own process only."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "python": platform.python_version(),
        "mps_programs": {
            name: shutil.which(name) or next((p for p in (f"/usr/bin/{name}",) if os.path.exists(p)), None)
            for name in ("nvidia-cuda-mps-control", "nvidia-cuda-mps-server")
        },
        "cxx": shutil.which(os.environ.get("CXX", "g++")),
    }
    if not rehearse:
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "name": properties.name,
            "sms": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
        }
        from esen_lab.devices.green_driver import GreenDriver

        found["green_contexts"] = _or_why(lambda: bool(GreenDriver()))
    return found


def limits(rehearse: bool) -> dict[str, Any]:
    """Which limit is really in force in a worker at several shares."""
    from esen_lab.workers import Nursery

    device = _device("mps", rehearse)
    shares = MPS_SHARES if not rehearse else tuple(range(1, device.units + 1))
    nursery = Nursery()
    found = {}
    try:
        for share in shares:
            worker = nursery.worker(device.place([share])[0], label=f"limit {share}")
            found[str(share)] = worker.in_force.description
            worker.close()
    finally:
        nursery.close()
        _close(device)
    return {"device": device.identity.to_dict(), "in_force": found}


def proof(rehearse: bool) -> dict[str, Any]:
    """Unequal green contexts: their SMs, and that no SM is in two of them."""
    if rehearse:
        return {"skipped": "green contexts have no CPU stand-in; tests use a fake driver"}
    device = _device("green", rehearse)
    shares = _unequal(device.units)
    try:
        seen = device.prove(shares)
        return {"shares": list(shares), "sms": list(seen.sms), "disjoint": seen.disjoint, "told": str(seen)}
    finally:
        _close(device)


def gate(rehearse: bool) -> dict[str, Any]:
    """The numerics gate for each dtype on each mechanism: half of the sub-models beside the other half, twice over."""
    from esen_lab.ensemble import Ensemble, make_combine, make_submodel
    from esen_lab.planning import Lane, Plan
    from esen_lab.runtime import Nursery

    width = 32 if rehearse else 4096
    found: dict[str, Any] = {}
    for mechanism in ("cpu",) if rehearse else ("mps", "green"):
        try:
            device = _device(mechanism, rehearse)
        except Exception as problem:
            found[mechanism] = {"failed": str(problem)}
            continue
        nursery = Nursery()
        verdicts: dict[str, Any] = {}
        try:
            for name in DTYPES:
                dtype = torch.float32 if name == "tf32" else getattr(torch, name)
                torch.manual_seed(0)
                x = torch.randn(8 if rehearse else 1024, width).to(dtype)
                models = [Product(width, dtype, tf32=name == "tf32").eval() for _ in range(2)]
                ensemble = Ensemble(
                    submodels=tuple(make_submodel(who, m, x) for who, m in zip("ab", models, strict=True)),
                    combine=make_combine("mean"),
                )
                a, b = _unequal(device.units)[:2]
                lanes = (Lane(units=a, members=("a",)), Lane(units=b, members=("b",)))
                plan = Plan(lanes=lanes, units=device.units)
                told = _or_why(partial(_gated, plan, ensemble, device, nursery))
                verdicts[name] = told
        finally:
            nursery.close()
            _close(device)
        found[mechanism] = verdicts
    return found


def _gated(plan: Any, ensemble: Any, device: Any, nursery: Any) -> dict[str, Any]:
    from esen_lab.runtime.gate import check_numerics

    return check_numerics(plan, ensemble, device, nursery, runs=3).to_dict()


class Product(nn.Module):
    """Two matrix products in one dtype; float32 either with TF32 or without."""

    def __init__(self, width: int, dtype: torch.dtype, *, tf32: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width).to(dtype) / width**0.5)
        self.tf32 = tf32

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X W W."""
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        return (x @ self.weight) @ self.weight


def one_graph(rehearse: bool) -> dict[str, Any]:
    """Each ensemble as one graph over green-context lanes of equal share: time per call, and what the host spends."""
    if rehearse:
        return {"skipped": "CUDA graphs have no CPU stand-in; tests use a double of torch.cuda"}
    found: dict[str, Any] = {}
    for ensemble in ENSEMBLES:
        for batch in BATCHES:
            found[f"{ensemble}@{batch}"] = _or_why(partial(_one_graph, ensemble, batch))
            torch.cuda.empty_cache()
    return found


def _one_graph(ensemble: str, batch: int) -> dict[str, Any]:
    from esen_lab.runtime.one_graph import OneGraph
    from esen_lab.workers.agreement import difference

    models, x = models_of(ensemble, batch, False)
    modules = {name: module.cuda() for name, module in models.items()}
    x = x.cuda()
    device = _device("green", False)
    try:
        count = min(4, len(modules))
        places = device.place([device.units // count] * count)
        for place in places:
            place.apply()
        lanes: list[tuple[Any, dict[str, Any]]] = [(place.stream, {}) for place in places]
        # The largest first, round robin: a plan needs a profile, which the other sections make.
        largest = sorted(modules, key=lambda name: -sum(p.numel() for p in modules[name].parameters()))
        for number, name in enumerate(largest):
            lanes[number % count][1][name] = modules[name]

        def mean(outputs: dict[str, Any]) -> Any:
            return torch.stack([outputs[name] for name in modules]).mean(0)

        with torch.inference_mode():
            reference = mean({name: module(x) for name, module in modules.items()})
            graph = OneGraph(lanes, mean, x)
            host, whole = [], []
            for _ in range(50):
                torch.cuda.synchronize()
                began = time.perf_counter()
                graph.run(x)
                host.append(time.perf_counter() - began)
                assert graph.wait(60)
                whole.append(time.perf_counter() - began)
            agreed = difference(graph.output, reference)
            del graph  # before the streams that it was captured on
        return {
            "lanes": [list(members) for _, members in lanes],
            "median_s": statistics.median(whole),
            "host_median_s": statistics.median(host),
            "host_goal_met": statistics.median(host) < GOAL_HOST_S,
            **agreed.to_dict(),
        }
    finally:
        torch.cuda.synchronize()
        device.close()


def ensemble_section(which: str, rehearse: bool) -> dict[str, Any]:
    """One ensemble and batch under every mechanism: profile, plan, compare, graphs, utilization, goals."""
    name, _, batch = which.partition("@")
    models, x = models_of(name, int(batch), rehearse)
    found: dict[str, Any] = {"ensemble": name, "batch": int(batch), "members": list(models)}
    for mechanism in ("cpu",) if rehearse else ("green", "mps"):
        found[mechanism] = _or_why(partial(_on_device, mechanism, models, x, rehearse))
    return found


def _on_device(mechanism: str, models: dict[str, Any], x: Any, rehearse: bool) -> dict[str, Any]:
    from esen_lab import Lab
    from esen_lab.runtime.strategies import STRATEGIES

    device = _device(mechanism, rehearse)
    with tempfile.TemporaryDirectory() as folder, Lab(device=device, store=f"{folder}/profiles.sqlite") as lab:
        for name, module in models.items():
            lab.register(name, module, example=x)
        # A few shares: what is between is interpolated, and what the plan takes is measured by the comparison.
        shares = sorted({max(1, device.units * part // 16) for part in (1, 2, 4, 8, 12, 16)})
        profile = lab.profile(shares=shares, budget_s=0.02 if rehearse else 0.1, fresh=True).result(timeout=200)
        plan = lab.search()
        compared = lab.compare(x, rounds=3 if rehearse else 15, budget_s=5 if rehearse else 20)
        rows = {
            row.strategy: {
                "median_s": _number(row.median_s),
                "spread_s": _number(row.spread_s),
                "agrees": row.agrees,
                "agreement": row.agreement,
                "ratio_to_bound": row.ratio_to_bound,
                "failed": row.failed,
            }
            for row in compared.rows
        }
        plans = {"plan": plan}
        for word, make in STRATEGIES.items():
            made = _or_why(lambda make=make: make(lab.ensemble, device.units))
            if not isinstance(made, dict):
                plans[word] = made
        for word, made in list(plans.items()):
            if word in {"vmap", "threads"}:
                continue
            graphed = made.with_mechanisms(dict.fromkeys(made.names, "graph"))
            rows[f"{word} + graphs"] = _or_why(lambda p=graphed: _timed(lab, p, x, rehearse))
        utilization = {w: _or_why(lambda p=p: _utilization(lab, p, x, rehearse)) for w, p in plans.items()}
        lab.plan = plan
        verdict = _or_why(lambda: lab.check_numerics(x, runs=3).to_dict())
        return {
            "device": device.identity.to_dict(),
            "profile": [{"name": p.name, "units": p.units, "median_s": p.median_s} for p in profile.points],
            "plan": plan.to_dict(),
            "rows": rows,
            "utilization": utilization,
            "gate": verdict,
            "verdict": compared.verdict,
            # Computed all the same, so that a rehearsal tests it; but a goal is met on a GPU or not at all.
            "goals": dict.fromkeys(goals(rows, utilization, plan.gap))
            if rehearse
            else goals(rows, utilization, plan.gap),
        }


def _timed(lab: Any, plan: Any, x: Any, rehearse: bool) -> dict[str, Any]:
    """Median JCT of a plan run by itself, with what its report remarks: a graph that fell back is no graph."""
    from esen_lab.runtime.executor import AS_ONE_GRAPH

    lab.plan = plan
    reports = []
    for _ in range(3 if rehearse else 30):
        lab.run(x)
        reports.append(lab.report)
    times = [report.jct_s for report in reports]
    return {
        "median_s": statistics.median(times),
        "spread_s": sorted(times)[3 * len(times) // 4] - sorted(times)[len(times) // 4],
        "overhead_s": statistics.median(report.overhead_s for report in reports),
        "notes": list(reports[-1].notes),
        "one_graph": AS_ONE_GRAPH in reports[-1].notes,
        "fell_back": any("runs eagerly" in note for note in reports[-1].notes),
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
    channels = [channel for channel in sampler.channels if channel.unit == "%"]
    means = {}
    for channel in channels:
        read = [sample.values[channel.key] for sample in samples if channel.key in sample.values]
        means[channel.label] = statistics.mean(read) if read else None
    return {"percent": means, "samples": len(samples)}


def goals(rows: dict[str, Any], utilization: dict[str, Any], gap: float | None) -> dict[str, Any]:
    """The issue's goals as numbers and whether they are met; None where something was not measured."""

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
    return {
        "jct_lower_than_unlimited": lower,
        "jct_goal_met": None if lower is None else lower >= GOAL_JCT,
        "jct_lower_with_graphs": lower_graphs,
        "graphs_goal_met": None if lower_graphs is None else lower_graphs >= GOAL_JCT_GRAPHS,
        "sm_activity_more_than_unlimited": more,
        "sm_activity_goal_met": None if more is None else more >= GOAL_UTILIZATION,
        "gap_to_bound": gap,
        "gap_goal_met": None if gap is None else gap <= GOAL_GAP,
    }


# --- what sections share -----------------------------------------------------------------------------------------


def _device(mechanism: str, rehearse: bool) -> Any:
    if rehearse:
        from esen_lab.devices import CpuDevice

        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        return CpuDevice(cores=[(cores[0],), (cores[-1],)])
    if mechanism == "mps":
        from esen_lab.devices.catalogue import open_device

        return open_device("cuda:0 mps")
    from esen_lab.devices.cuda_green import GreenDevice

    properties = torch.cuda.get_device_properties(0)
    return GreenDevice(
        name=properties.name,
        sms=properties.multi_processor_count,
        capability=f"{properties.major}.{properties.minor}",
        details={"torch": torch.__version__, "cuda": str(torch.version.cuda)},
    )


def _unequal(units: int) -> tuple[int, ...]:
    return (max(1, units // 2), max(1, units // 4), max(1, units // 8)) if units >= 8 else (1,) * min(2, units)


def _close(device: Any) -> None:
    close = getattr(device, "close", None)
    if close is not None:
        close()


def _or_why(make: Callable[[], Any]) -> Any:
    """What it makes, or that it failed and why: one failure must not hide the other figures."""
    try:
        return make()
    except Exception as problem:
        return {"failed": f"{type(problem).__name__}: {problem}"}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


# --- the program -------------------------------------------------------------------------------------------------


def run_section(name: str, rehearse: bool) -> dict[str, Any]:
    """One section, in this process.

    Args:
        name: One of `SECTIONS`.
        rehearse: On the CPU, tiny.
    """
    simple = {"facts": facts, "limits": limits, "proof": proof, "gate": gate, "one-graph": one_graph}
    return simple[name](rehearse) if name in simple else ensemble_section(name, rehearse)


def in_child(name: str, rehearse: bool, timeout_s: float) -> dict[str, Any]:
    """One section in a process of its own, ended when its time is over."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "section.json"
        command = [sys.executable, __file__, "--section", name, "--out", str(out)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        began = time.monotonic()
        try:
            done = subprocess.run(
                command + ["--rehearse"] * rehearse,
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"cut off after {timeout_s:.0f} s", "seconds": time.monotonic() - began}
        seconds = time.monotonic() - began
        if out.exists():
            return {**json.loads(out.read_text(encoding="utf-8")), "seconds": seconds}
        return {"failed": f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}", "seconds": seconds}


def has_gpu() -> bool:
    """Whether torch sees one; asked in a child, so that this process never holds a CUDA context."""
    code = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def commit() -> str:
    """The commit of the sources, or "unknown"."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def driver() -> str | None:
    """The driver's version, or None."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    return text.splitlines()[0]


def main(arguments: Sequence[str] | None = None, *, gpu: Callable[[], bool] = has_gpu) -> int:
    """Run it; returns the exit code."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", default="gpu_check.json", help="where the JSON goes")
    words.add_argument("--seconds", type=float, default=470.0, help="for everything together")
    words.add_argument("--only", nargs="*", choices=SECTIONS, help="only these sections")
    words.add_argument("--rehearse", action="store_true", help="tiny, on the CPU: tests this program")
    words.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    given = words.parse_args(arguments)
    out = Path(given.out)
    if given.section:
        out.write_text(json.dumps(run_section(given.section, given.rehearse)), encoding="utf-8")
        return 0
    names = list(given.only or SECTIONS)
    if not given.rehearse and not gpu():
        print("There is no NVIDIA GPU that torch can use here. Nothing was measured. It would have run:")
        print("\n".join(f"  {name}" for name in names))
        print("To test the program itself on the CPU: --rehearse")
        return NO_GPU
    began = time.monotonic()
    result: dict[str, Any] = {
        "kind": REHEARSAL if given.rehearse else "measured",
        "commit": commit(),
        "driver": driver(),
        "machine": platform.platform(),
        "began_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "sections": {},
    }
    for number, name in enumerate(names):
        left = given.seconds - (time.monotonic() - began)
        # What is left is shared alike, so that the last ensembles are not always those that are cut off.
        allowed = max(left / (len(names) - number) * 2, 1.0) if left > 5 else 0.0
        found = in_child(name, given.rehearse, min(allowed, left)) if allowed else {"failed": "no time was left"}
        if given.rehearse:
            found["rehearsal"] = REHEARSAL
        result["sections"][name] = found
        print(f"{name:>18}: {found.get('failed') or 'ran'} ({found.get('seconds', 0):.0f} s)", flush=True)
        out.write_text(json.dumps(result, indent=1), encoding="utf-8")  # whatever comes, this much is kept
    result["seconds"] = time.monotonic() - began
    out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(f"{result['kind']}; written to {out}")
    return 1 if any("failed" in found for found in result["sections"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
