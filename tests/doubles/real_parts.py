"""NVIDIA's own programs and packages, for tests that hold a double to the real thing. No GPU is needed to load them.

They are fetched once into pytest's cache. Where that cannot be done, or where there is no C compiler for the stub of
`libcuda`, the test is skipped and says why.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from esen_lab.devices.cuda.mps_control import MpsPrograms, find_programs

STUB = Path(__file__).with_name("libcuda_stub.c")
BINDINGS = ("12.9.10", "13.0.3", "")  # "" is the newest; 13.1 renamed what 13.0 still had
NVRTC = "nvidia-cuda-nvrtc==13.0.88"
_POOL = "https://deb.debian.org/debian/pool/non-free/n/nvidia-graphics-drivers/"
_MPS = ("550.163.01-2", "7da3f29e5ad3390d9fddab7042fa6e9a76df85a69d69efc40401df2f83874764")  # of Debian 13
_FETCH_S = 300.0


def wheels(cache: pytest.Cache, *wanted: str) -> Path:
    """A folder for PYTHONPATH with these packages of PyPI, without what they depend on."""
    key = "+".join(wanted).replace("==", "-") or "nothing"
    folder = Path(cache.mkdir("real_parts")) / key
    if not folder.is_dir():
        new = folder.with_name(f"{folder.name}.{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(new), *wanted]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_S, check=False)
        if done.returncode:
            shutil.rmtree(new, ignore_errors=True)
            pytest.skip(f"{', '.join(wanted)} cannot be fetched: {done.stderr.strip()[-200:]}")
        _keep(new, folder)
    return folder


def bindings(cache: pytest.Cache, version: str) -> Path:
    """`cuda.bindings` of that version, "" for the newest."""
    return wheels(cache, f"cuda-bindings=={version}" if version else "cuda-bindings", "cuda-pathfinder")


def stub_libcuda(folder: Path) -> Path:
    """A folder for LD_LIBRARY_PATH with a stub of the driver's library."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or sys.platform != "linux":
        pytest.skip("the stub of libcuda needs Linux and a C compiler")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(folder / "libcuda.so.1"), str(STUB), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def real_mps(cache: pytest.Cache) -> MpsPrograms:
    """NVIDIA's programs of MPS, as Debian packs them."""
    version, digest = _MPS
    folder = Path(cache.mkdir("real_parts")) / f"mps-{version}"
    if shutil.which("dpkg-deb") is None:
        pytest.skip("the programs of MPS come in a package of Debian's, which dpkg-deb opens")
    if not folder.is_dir():
        try:
            with urllib.request.urlopen(f"{_POOL}nvidia-cuda-mps_{version}_amd64.deb", timeout=20) as answer:
                package = answer.read()
        except (OSError, urllib.error.URLError) as problem:
            pytest.skip(f"the programs of MPS cannot be fetched: {problem}")
        assert hashlib.sha256(package).hexdigest() == digest
        new = folder.with_name(f"{folder.name}.{os.getpid()}")
        new.mkdir()
        (new / "package.deb").write_bytes(package)
        subprocess.run(["dpkg-deb", "-x", str(new / "package.deb"), str(new)], check=True, timeout=60)
        _keep(new, folder)
    return find_programs([folder / "usr/bin", folder / "usr/sbin"])


def _keep(new: Path, folder: Path) -> None:
    try:
        new.rename(folder)
    except OSError:  # another run was quicker
        shutil.rmtree(new, ignore_errors=True)
