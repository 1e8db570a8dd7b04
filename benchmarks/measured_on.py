"""What a figure is kept with: the machine, the commit, the versions; and how a file of figures is written."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_TOLD = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")  # what decides how fast engines are


def processor() -> str:
    """Its name, what it can do of what counts here, and the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        flags = next((line.split() for line in lines if line.startswith("flags")), [])
    except (OSError, StopIteration, IndexError):
        return f"{platform.processor() or platform.machine()} ({platform.system()})"
    told = [word for word in _TOLD if word in flags]
    return f"{model} ({', '.join(told)}; {platform.system()})" if told else f"{model} ({platform.system()})"


def commit() -> str:
    """Of the checkout, marked where files differ from it; "unknown" outside of one."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return "unknown"
    return told.stdout.strip() or "unknown"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python and of every package that figures depend on; "absent" where one is not installed."""
    found = {"Python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def write_whole(path: Path, text: str) -> None:
    """Write whole or not at all: a run may be ended at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
