"""Starts an export in Ray Serve, asks it from several threads, and writes what came of it as JSON.

python serve_on_ray.py RESULT
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import yaml
from local_ray import LocalRay, free_ports
from models import mlp

from esen_lab import Lab
from esen_lab.planner.plan import Lane, Plan

X = torch.linspace(-1, 1, 32).reshape(4, 8)


def ask(port: int, x: torch.Tensor) -> torch.Tensor:
    """One request over HTTP, in JSON."""
    tensor = {"name": "input", "datatype": "FP32", "shape": list(x.shape), "data": x.reshape(-1).tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    url = f"http://127.0.0.1:{port}/v2/models/served/infer"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
        (output,) = json.loads(answer.read())["outputs"]
    return torch.tensor(output["data"]).reshape(output["shape"])


def ask_as_triton_does(port: int) -> torch.Tensor:
    """The same by Triton's client, in binary."""
    import tritonclient.http as http

    client = http.InferenceServerClient(f"127.0.0.1:{port}")
    try:
        given = http.InferInput("input", list(X.shape), "FP32").set_data_from_numpy(X.numpy())
        return torch.from_numpy(client.infer("served", [given]).as_numpy("output").copy())
    finally:
        client.close()


def main(result: Path) -> None:
    """Export, serve, ask, end."""
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "served"
        with Lab("cpu") as lab:
            for name in "abc":
                lab.register(name, mlp(seed=ord(name)), example=X)
            lanes = (Lane(units=1, members=("a",)), Lane(units=1, members=("b", "c")))
            lab.plan = Plan(lanes=lanes, units=min(2, lab.device.units))
            lab.export(folder, form="ray-serve")
            right = lab.run(X)
        with LocalRay("only", cores=2) as cluster:
            import ray
            from ray import serve
            from ray.serve.schema import ServeDeploySchema

            schema = ServeDeploySchema(**yaml.safe_load((folder / "serve.yaml").read_text()))
            found["deployments"] = [deployment.name for deployment in schema.applications[0].deployments]
            ray.init(
                address=cluster.address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": _path(folder)}}
            )
            (port,) = free_ports(1)
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            sys.path.insert(0, str(folder))
            app = importlib.import_module("app")  # what was exported

            serve.run(app.app, route_prefix="/")
            found["equal"] = bool(torch.equal(ask(port, X), right))
            found["equal by Triton's client"] = bool(torch.equal(ask_as_triton_does(port), right))
            with ThreadPoolExecutor(8) as pool:
                rows = list(pool.map(lambda k: ask(port, X[k % 4 : k % 4 + 1]), range(200)))
            close = [torch.allclose(row[0], right[k % 4], atol=1e-6) for k, row in enumerate(rows)]
            found["right of 200 under load"] = sum(close)
            result.write_text(json.dumps(found))
            serve.shutdown()
        found["left"] = [process.pid for process in cluster.processes()]
    result.write_text(json.dumps(found))


def _path(folder: Path) -> str:
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
