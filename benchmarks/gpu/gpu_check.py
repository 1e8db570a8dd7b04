"""What `make gpu-check` runs on a machine with an NVIDIA GPU: everything the package claims there, as JSON.

    python benchmarks/gpu/gpu_check.py [--out gpu_check.json] [--seconds 470] [--only NAME ...] [--resume] [--rehearse]
    python benchmarks/gpu/gpu_check.py --table gpu_check.json [--profiles FOLDER]

Each section runs in a process of its own for a minute, or for its part of the time where few are asked for, so that a
crash or a hang costs one section and no section holds a CUDA context while another measures. The most important ones
come first. What a section had done when its time was over is kept, and it goes on there when all others have had
theirs, or in the next call: with --resume,
what is in --out is kept, down to the points of a profile, when it is of the same commit, versions, driver and GPU. So
several calls of ten minutes make one table. Needs torch, numpy and the package; a commit, from git or by --commit.

--table prints what was measured as tables for the documentation, and measures nothing; --profiles writes the measured
latencies of each ensemble beside it, as `FakeDevice.load` and `%esen device fake:FILE` read them on any machine.

--rehearse runs the same program with tiny sizes on the CPU device, to test the program itself. Nothing in its output
is a figure of a GPU, and every part of it says so.

Exit code: 0 all sections ran; 1 one failed; 2 wrong arguments; 3 there is no GPU, and nothing was measured; 4 time was
over before all had run: the same call again with --resume.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_steps import Steps, failures_in

NO_GPU = 3
NOT_WHOLE = 4
SECTION_S = 60.0
ROOT = Path(__file__).parents[2]
GROUNDS = ("facts", "limits", "proof")
REST = ("gate", "one-graph", "transport")
_NO_STEPS = {"gpu_before", "gpu_after", "device", "seconds", "skipped", "not_whole", "rehearsal"}  # of a section's keys
SAME = ("kind", "commit", "versions", "driver", "gpus")  # of results that may be put together
REHEARSAL = "REHEARSAL on the CPU with tiny sizes: no figure here is a GPU's"


def sections(rehearse: bool) -> tuple[str, ...]:
    """What runs, in this order: what all else rests on, what the goals are held against, the rest."""
    from gpu_models import BATCHES, ENSEMBLES

    sharing_modes = ("cpu",) if rehearse else ("mps", "green")
    own = [f"{which}@{batch}/{how}" for batch in BATCHES for which in ENSEMBLES for how in sharing_modes]
    first = len(sharing_modes)
    return (*GROUNDS, *own[:first], *REST, *own[first:])


def in_child(
    name: str,
    rehearse: bool,
    timeout_s: float,
    grace_s: float = 5.0,
    *,
    before: Mapping[str, Any] | None = None,
    points: Path | None = None,
) -> dict[str, Any]:
    """One section in a process of its own, ended `grace_s` after its time is over; what it had done by then is kept.

    Args:
        name: The section.
        rehearse: Whether it is tiny and on the CPU.
        timeout_s: How long it may take.
        grace_s: How much longer it is waited for.
        before: What it had found in an earlier call.
        points: A folder for what it goes on with later; None: nowhere.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "section.json"
        if before:
            out.write_text(json.dumps(before), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        began = time.monotonic()
        # The clock is the system's: what importing torch takes, many seconds on a cold machine, is of the same minute.
        until = f"{began + timeout_s:.1f}"
        command = [sys.executable, __file__, "--section", name, "--out", str(out), "--until", until]
        problem, cut_off = "", ""
        try:
            done = subprocess.run(
                [*command, *["--rehearse"] * rehearse, *(["--points", str(points)] if points else [])],
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout_s + grace_s,  # it stops by itself between its steps
                check=False,
            )
            if done.returncode:
                problem = f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}"
        except subprocess.TimeoutExpired:
            cut_off = f"cut off after {time.monotonic() - began:.0f} s"
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
        found["seconds"] = (before or {}).get("seconds", 0.0) + time.monotonic() - began
        found = {key: value for key, value in found.items() if key not in {"not_whole", "failed"}}
        if problem:
            found["failed"] = problem
        elif cut_off:
            found["not_whole"] = cut_off
        elif found.get("skipped") and not isinstance(found["skipped"], str):
            found["not_whole"] = f"no time was left for {', '.join(found['skipped'])}"
        return found


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


def versions() -> dict[str, str | None]:
    """Of what figures depend on, without importing any of it."""

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    names = ("torch", "cuda-bindings", "cuda-core", "nvidia-ml-py", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def kept_from(out: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of an earlier call of the same sources, versions and machine: what is not whole goes on."""
    try:
        before = json.loads(out.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    differ = [key for key in SAME if before.get(key) != result[key]]
    if str(result["commit"]).endswith("-dirty"):
        differ.append("commit, which has changes that no commit holds")
    if differ:
        print(f"Nothing of {out} is kept: it differs in {', '.join(differ)}.")
        return {}
    found: dict[str, Any] = before["sections"]
    return found


def is_whole(found: Mapping[str, Any]) -> bool:
    """Whether a section has nothing left to do, and nothing to do again."""
    return bool(found) and "not_whole" not in found and not failures_in(found)


def run_all(names: Sequence[str], result: dict[str, Any], out: Path, seconds: float, rehearse: bool) -> None:
    """Run sections and write what there is after each; those that are not whole go on while time is left."""
    ends_at = time.monotonic() + seconds
    points = out.with_suffix(".points")
    points.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = result["sections"]
    waiting = [name for name in names if not is_whole(found.get(name, {}))]
    while turn := list(waiting):
        for number, name in enumerate(turn):
            before = found.get(name, {})
            left = ends_at - time.monotonic()
            if left <= 5:
                found.setdefault(name, {"not_whole": "no time was left"})
                continue
            part_s = (left - 5) / (len(turn) - number)
            one = in_child(name, rehearse, min(max(SECTION_S, part_s), left - 5), before=before, points=points)
            if rehearse:
                one["rehearsal"] = REHEARSAL
            found[name] = one
            failures = [f"{step} {why}".strip() for step, why in failures_in(one).items()]
            told = "; ".join(failures) or str(one.get("not_whole", "ran"))
            print(f"{name:>22}: {told[:200]} ({one.get('seconds', 0):.0f} s)", flush=True)
            write(result, out)  # whatever comes, this much is kept
            if is_whole(one) or failures or not _went_on(before, one):
                waiting.remove(name)  # what failed is tried again by the next call
        if ends_at - time.monotonic() <= 5:
            break
    result["seconds"] = result.get("seconds", 0.0) + seconds - max(0.0, ends_at - time.monotonic())
    write(result, out)


def _went_on(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether another minute is worth it: a section that does no step in one would do none in the next."""
    if str(after.get("not_whole")).startswith("cut off"):
        return _steps_in(after) > _steps_in(before)  # else it may hang again: the next call may try
    skipped = after.get("skipped", ())
    return not before or len(skipped) < len(before.get("skipped", ())) or "profile" in skipped


def _steps_in(found: Mapping[str, Any]) -> int:
    """How much of a section there is, however it is grouped."""
    steps = {name: one for name, one in found.items() if name not in _NO_STEPS}
    return sum(_steps_in(one) if isinstance(one, Mapping) else 1 for one in steps.values())


def write(result: Mapping[str, Any], out: Path) -> None:
    """Write the JSON."""
    out.write_text(json.dumps(result, indent=1), encoding="utf-8")


def run_child(name: str, out: Path, until: float, rehearse: bool, points: Path | None) -> None:
    """One section in this process until `time.monotonic()` is `until`, going on with what `out` has of it."""
    from gpu_sections import run_section

    before = json.loads(out.read_text(encoding="utf-8")) if out.exists() else None
    steps = Steps(out, until - time.monotonic(), rehearse=rehearse, before=before, folder=points)
    run_section(name, steps)
    steps.write()


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
    words.add_argument("--until", type=float, help=argparse.SUPPRESS)
    words.add_argument("--points", help=argparse.SUPPRESS)
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
        run_child(given.section, out, given.until, given.rehearse, Path(given.points) if given.points else None)
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
    sources = given.commit or commit()
    if sources == "unknown":
        words.error("figures belong to a commit: git knows none here, so name it with --commit")
    result: dict[str, Any] = {
        "kind": REHEARSAL if given.rehearse else "measured",
        "commit": sources,
        "versions": versions(),
        "driver": driver(),
        "gpus": gpus(),
        "machine": platform.platform(),
        "began_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "sections": {},
    }
    kept = kept_from(out, result) if given.resume else {}
    result["sections"] = kept
    if not kept:
        shutil.rmtree(out.with_suffix(".points"), ignore_errors=True)  # of other sources, or of another call's
    else:
        whole = [name for name, found in kept.items() if is_whole(found)]
        print(f"Kept: {', '.join(whole) or 'nothing whole'}; going on with the rest")
    run_all(names, result, out, given.seconds, given.rehearse)
    print(f"{result['kind']}; written to {out}")
    found = [result["sections"].get(name, {}) for name in names]
    if any(failures_in(one) for one in found):
        return 1
    return 0 if all(is_whole(one) for one in found) else NOT_WHOLE


if __name__ == "__main__":
    sys.exit(main())
