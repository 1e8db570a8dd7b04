"""What `make gpu-check` runs on a machine with an NVIDIA GPU: everything the package claims there, as JSON.

    python benchmarks/gpu/gpu_check.py [--out gpu_check.json] [--seconds 470] [--only NAME ...] [--resume] [--rehearse]
    python benchmarks/gpu/gpu_check.py --table gpu_check.json [--profiles FOLDER]

Each section runs in a process of its own with a deadline, so that a crash or a hang costs one section and no section
holds a CUDA context while another measures. What a section had done when it was cut off is kept. With --resume the
sections that are whole in --out are kept too, when they are of the same commit, driver and GPU, so that several short
calls make one table. Needs torch, numpy and the package.

--table prints what was measured as tables for the documentation, and measures nothing; --profiles writes the measured
latencies of each ensemble beside it, as `FakeDevice.load` and `%esen device fake:FILE` read them on any machine.

--rehearse runs the same program with tiny sizes on the CPU device, to test the program itself. Nothing in its output
is a figure of a GPU, and every part of it says so.

Exit code: 0 all sections ran; 1 one failed or was cut off; 3 there is no GPU, and nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

NO_GPU = 3
ROOT = Path(__file__).parents[2]
GPU_SECTIONS = ("facts", "limits", "proof", "gate", "transport", "one-graph")
REHEARSAL = "REHEARSAL on the CPU with tiny sizes: no figure here is a GPU's"


def sections(rehearse: bool) -> tuple[str, ...]:
    """What runs, in this order: the facts first, then what the goals are held against."""
    from gpu_models import BATCHES, ENSEMBLES

    mechanisms = ("cpu",) if rehearse else ("mps", "green")
    own = [f"{which}@{batch}/{how}" for batch in BATCHES for which in ENSEMBLES for how in mechanisms]
    return (*GPU_SECTIONS, *own)


def in_child(name: str, rehearse: bool, timeout_s: float) -> dict[str, Any]:
    """One section in a process of its own, ended when its time is over; what it had done by then is kept."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "section.json"
        command = [sys.executable, __file__, "--section", name, "--out", str(out), "--seconds", f"{timeout_s:.1f}"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        began = time.monotonic()
        problem = ""
        try:
            done = subprocess.run(
                command + ["--rehearse"] * rehearse,
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout_s + 5,  # it stops by itself between its steps
                check=False,
            )
            if done.returncode:
                problem = f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}"
        except subprocess.TimeoutExpired:
            problem = f"cut off after {time.monotonic() - began:.0f} s"
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
        found["seconds"] = time.monotonic() - began
        if found.get("skipped") and not isinstance(found["skipped"], str):
            problem = problem or f"no time was left for {', '.join(found['skipped'])}"
        return {**found, "failed": problem} if problem else found


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


def gpus() -> list[str]:
    """The names of the GPUs, without starting CUDA."""
    sys.path.insert(0, str(ROOT))
    try:
        from esen_lab.devices import this_machine

        return [gpu.name for gpu in this_machine().machine.gpus]
    finally:
        sys.path.remove(str(ROOT))


def kept_from(out: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of an earlier call that need not be run again: whole ones of the same sources and machine."""
    try:
        before = json.loads(out.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    same = all(before.get(key) == result[key] for key in ("kind", "commit", "driver", "gpus"))
    if not same or str(result["commit"]).endswith("-dirty"):
        print(f"Nothing of {out} is kept: it is of other sources or another machine.")
        return {}
    return {name: found for name, found in before["sections"].items() if "failed" not in found}


def run_all(names: Sequence[str], result: dict[str, Any], out: Path, seconds: float, rehearse: bool) -> None:
    """Run sections and write what there is after each."""
    began = time.monotonic()
    for number, name in enumerate(names):
        left = seconds - (time.monotonic() - began)
        # What is left is shared alike, so that the last ensembles are not always those that are cut off.
        allowed = min(left, left / (len(names) - number) * 2) if left > 5 else 0.0
        found = in_child(name, rehearse, allowed) if allowed else {"failed": "no time was left"}
        if rehearse:
            found["rehearsal"] = REHEARSAL
        result["sections"][name] = found
        told = str(found.get("failed") or "ran")
        print(f"{name:>22}: {told[:200]} ({found.get('seconds', 0):.0f} s)", flush=True)
        write(result, out)  # whatever comes, this much is kept
    result["seconds"] = result.get("seconds", 0.0) + time.monotonic() - began
    write(result, out)


def write(result: Mapping[str, Any], out: Path) -> None:
    """Write the JSON."""
    out.write_text(json.dumps(result, indent=1), encoding="utf-8")


def main(arguments: Sequence[str] | None = None, *, gpu: Callable[[], bool] = has_gpu) -> int:
    """Run it; returns the exit code."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", default="gpu_check.json", help="where the JSON goes")
    words.add_argument("--seconds", type=float, default=470.0, help="for everything together")
    words.add_argument("--only", nargs="*", metavar="NAME", help="only these sections")
    words.add_argument("--resume", action="store_true", help="keep the sections of --out that are whole")
    words.add_argument("--commit", help="of the sources, where they are a copy without git")
    words.add_argument("--rehearse", action="store_true", help="tiny, on the CPU: tests this program")
    words.add_argument("--table", metavar="FILE", help="print what was measured as tables")
    words.add_argument("--profiles", metavar="FOLDER", help="with --table: write the measured latencies there")
    words.add_argument("--section", help=argparse.SUPPRESS)
    given = words.parse_args(arguments)
    out = Path(given.out)
    if given.table:
        from gpu_tables import tables, write_profiles

        measured = json.loads(Path(given.table).read_text(encoding="utf-8"))
        print(tables(measured))
        for path in write_profiles(measured, Path(given.profiles)) if given.profiles else ():
            print(f"written: {path}")
        return 0
    if given.section:
        from gpu_sections import run_section
        from gpu_steps import Steps

        steps = Steps(out, given.seconds, rehearse=given.rehearse)
        run_section(given.section, steps)
        steps.write()
        return 0
    known = sections(given.rehearse)
    unknown = [name for name in given.only or () if name not in known]
    if unknown:
        words.error(f"no section {', '.join(unknown)}; there are {', '.join(known)}")
    names = [name for name in known if given.only is None or name in given.only]
    if not given.rehearse and not gpu():
        print("There is no NVIDIA GPU that torch can use here. Nothing was measured. It would have run:")
        print("\n".join(f"  {name}" for name in names))
        print("To test the program itself on the CPU: --rehearse")
        return NO_GPU
    result: dict[str, Any] = {
        "kind": REHEARSAL if given.rehearse else "measured",
        "commit": given.commit or commit(),
        "driver": driver(),
        "gpus": gpus(),
        "machine": platform.platform(),
        "began_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "sections": {},
    }
    if given.resume:
        result["sections"] = kept_from(out, result)
        names = [name for name in names if name not in result["sections"]]
        print(f"Kept: {', '.join(result['sections']) or 'nothing'}")
    run_all(names, result, out, given.seconds, given.rehearse)
    print(f"{result['kind']}; written to {out}")
    return 1 if any("failed" in found for found in result["sections"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
