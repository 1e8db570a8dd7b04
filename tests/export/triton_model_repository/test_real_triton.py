"""A repository in a real Triton server, asked by Triton's own client. `tools/triton_env.sh` makes what it needs."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.planner.plan import Lane

ENV = Path(os.environ["ESEN_LAB_TRITON"])  # set for all tests
pytestmark = [
    pytest.mark.slow,  # a server that imports torch three times
    pytest.mark.skipif(
        not (ENV / "made_of").exists(), reason=f"no Triton in {ENV}: tools/triton_env.sh makes it where it can be had"
    ),
]
CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []

READY = """
import json, sys, time
import numpy as np
import tritonclient.http as http

client = http.InferenceServerClient(sys.argv[1])
until = time.monotonic() + 240
while True:
    try:
        if client.is_server_ready():
            break
    except Exception:
        pass
    if time.monotonic() > until:
        sys.exit("not ready")
    time.sleep(0.5)

def ask(array, **told):
    x = http.InferInput("INPUT", list(array.shape), "FP32").set_data_from_numpy(array)
    return client.infer("repo", [x], parameters=told or None).as_numpy("OUTPUT")

inputs = np.load("x.npz")
"""
CLIENT = (
    READY
    + """
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

for config in sys.argv[2].split(":"):
    text_format.Parse(open(config).read(), model_config_pb2.ModelConfig())  # a field that there is not is an error
np.savez("y.npz", **{name: ask(inputs[name]) for name in inputs})
metadata = client.get_model_metadata("repo")
try:
    ask(np.zeros((2, 9), "float32"))
    refused = ""
except Exception as problem:
    refused = str(problem)
print(json.dumps({"metadata": metadata, "refused": refused}))
"""
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def cpus_of_models(server: int) -> dict[str, str]:
    """For each model's process, which CPUs the kernel lets it use."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            command = status.with_name("cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if fields.get("PPid") == str(server) and b"triton_python_backend_stub" in command[0]:
            found[Path(os.fsdecode(command[1])).parents[1].name] = fields["Cpus_allowed_list"].strip()
    return found


@contextlib.contextmanager
def triton_of(folder: Path, beside: Path) -> Iterator[tuple[int, int]]:
    """A real server of a repository: the port where it will answer, and its process; its log lies beside."""
    port = free_port()
    with (beside / "log").open("wb") as log:
        server = subprocess.Popen(
            [folder / "start.sh", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"],
            env={**os.environ, "TRITONSERVER": str(ENV / "bin" / "tritonserver"), "PYTHONPATH": str(Path.cwd())},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield port, server.pid
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            until = time.monotonic() + 30
            while cpus_of_models(server.pid) and time.monotonic() < until:
                time.sleep(0.1)  # its models end when they see that it has ended


def said_by(client: str, folder: Path, *arguments: str) -> str:
    """What a program prints that asks the server; it reads x.npz in the folder, and writes y.npz."""
    asked = subprocess.run(
        [ENV / "bin" / "python", "-c", client, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr + (folder / "log").read_text()[-4000:]
    return asked.stdout


@pytest.mark.skipif(len(CORES) < 2, reason="two lanes want two cores")
def test_a_real_triton_answers_as_the_lab_does_on_the_cores_of_the_plan(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 16)
    inputs = {"example": x.numpy(), "other": np.random.default_rng(0).normal(size=(9, 16)).astype("float32")}
    with Lab(device="cpu", combine="softmax-mean") as lab:
        for name, width in (("a", 32), ("b", 64), ("c", 32)):
            lab.register(name, nn.Sequential(nn.Linear(16, width), nn.GELU(), nn.Linear(width, 5)), x)
        lab.plan = Plan(
            lanes=(Lane(units=1, members=("a", "b")), Lane(units=1, members=("c",))),
            units=2,
            device={"kind": "cpu"},
            fingerprints=lab.ensemble.fingerprints,
        )
        made = lab.export(tmp_path / "repo", form="triton")
        places = lab.device.place([1, 1])
        expected = {name: lab.run(torch.from_numpy(array)).numpy() for name, array in inputs.items()}
    np.savez(tmp_path / "x.npz", **inputs)
    with triton_of(made.folder, tmp_path) as (port, server):
        configs = ":".join(str(path) for path in made.files if path.name == "config.pbtxt")
        told = json.loads(said_by(CLIENT, tmp_path, f"127.0.0.1:{port}", configs).splitlines()[-1])
        answers = np.load(tmp_path / "y.npz")
        for name, array in expected.items():
            assert np.array_equal(answers[name], array), name
        assert told["metadata"]["inputs"] == [{"name": "INPUT", "datatype": "FP32", "shape": [-1, 16]}]
        assert "shape" in told["refused"]
        cpus = cpus_of_models(server)
        for number, place in enumerate(places, start=1):
            assert cpus[f"repo_lane_{number}"] == str(place.cores[0][0])


CASCADE_CLIENT = (
    READY
    + """
answers = {name: ask(inputs[name]) for name in inputs}
answers["early"] = ask(inputs["example"], deadline_us=60_000_000)
try:
    ask(inputs["example"], deadline_us=-1)
    sys.exit("a deadline that is none was taken")
except Exception as problem:
    assert "deadline_us" in str(problem), problem
np.savez("y.npz", **answers)
"""
)


def test_a_cascade_in_a_real_triton_answers_as_the_lab_does_and_keeps_a_deadline(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 16)
    inputs = {"example": x.numpy(), "other": np.random.default_rng(0).normal(size=(16, 16)).astype("float32")}
    with Lab(device="cpu", combine="softmax-mean") as lab:
        first, second = (nn.Sequential(nn.Linear(16, width), nn.GELU(), nn.Linear(width, 5)) for width in (32, 64))
        lab.register("a", first, x)
        lab.register("b", second, x)
        with torch.no_grad():
            early = first(x).softmax(-1)
        lab.plan = Plan(
            lanes=(Lane(units=1, members=("a",)), Lane(units=1, members=("b",), stage=1)),
            units=1,
            device={"kind": "cpu"},
            fingerprints=lab.ensemble.fingerprints,
            reach=(1.0, 0.5),
            threshold=float(early.amax(-1).median()),
            predicted_s={"a": 0.001, "b": 3600.0},
        )
        made = lab.export(tmp_path / "repo", form="triton")
        expected = {name: lab.run(torch.from_numpy(array)).numpy() for name, array in inputs.items()}
    np.savez(tmp_path / "x.npz", **inputs)
    with triton_of(made.folder, tmp_path) as (port, _):
        said_by(CASCADE_CLIENT, tmp_path, f"127.0.0.1:{port}")
    answers = np.load(tmp_path / "y.npz")
    for name, array in expected.items():
        assert np.array_equal(answers[name], array), name
    assert np.allclose(answers["early"], early.numpy(), rtol=1e-5, atol=1e-6)
