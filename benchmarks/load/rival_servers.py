"""Servers that answer with the ensemble of `load_models.py`: `python rival_servers.py KIND PORT`, KIND in `KINDS`.

Each is written as the library's own documentation shows it, with the settings that it recommends for many small
requests; torch is at its defaults. Nothing of esen_lab is imported. "versions" in the place of KIND prints what is had.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from load_models import WIDTH, Mean

BATCH = 16
WAIT_S = 0.005
"""How long a rival that joins requests waits for more: a twentieth of the limit on the 99th percentile."""


def rows_of(body: bytes) -> torch.Tensor:
    """The binary tensor behind the JSON of a request, whose length the look of the request fixes."""
    return torch.frombuffer(bytearray(body[-4 * WIDTH :]), dtype=torch.float32).reshape(1, WIDTH)


def fastapi(port: int) -> None:
    """FastAPI on uvicorn, no batching: a thread of its pool for each request."""
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from fastapi.concurrency import run_in_threadpool

    app, model = FastAPI(), Mean()

    async def infer(request: Request) -> Response:
        rows = rows_of(await request.body())
        answer = await run_in_threadpool(model, rows)
        return Response(answer.numpy().tobytes(), media_type="application/octet-stream")

    infer.__annotations__ = {"request": Request}  # else FastAPI looks for the names outside of this function
    app.add_api_route("/", infer, methods=["POST"], response_model=None)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


def litserve(port: int) -> None:
    """LitServe with its batching and its fast queue; it takes JSON."""
    import litserve as ls

    class Api(ls.LitAPI):  # type: ignore[misc, name-defined]  no types where it is not installed
        """The ensemble."""

        def setup(self, device: str) -> None:
            del device
            self.model = Mean()

        def decode_request(self, request: dict[str, Any]) -> torch.Tensor:
            return torch.tensor(request["x"], dtype=torch.float32)

        def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack(inputs)

        def predict(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x)

        def unbatch(self, output: torch.Tensor) -> list[torch.Tensor]:
            return list(output)

        def encode_response(self, output: torch.Tensor) -> dict[str, Any]:
            return {"y": output.tolist()}

    api = Api(max_batch_size=BATCH, batch_timeout=WAIT_S)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False)


def ray(port: int) -> None:
    """Ray Serve with its batching, one replica."""
    import asyncio

    from ray import init, serve
    from starlette.requests import Request
    from starlette.responses import Response

    @serve.deployment(
        max_ongoing_requests=256,
        ray_actor_options={"num_cpus": 2},  # by which it sets the threads of torch
        logging_config={"enable_access_log": False},
    )
    class Model:
        """The ensemble."""

        def __init__(self) -> None:
            self.model = Mean()

        @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_S)
        async def joined(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            return list(await asyncio.to_thread(self.model, torch.cat(inputs)))

        async def __call__(self, request: Request) -> Response:
            if request.method == "GET":
                return Response(b"")
            answer = await self.joined(rows_of(await request.body()))
            return Response(answer.numpy().tobytes(), media_type="application/octet-stream")

    init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Model.bind(), blocking=True)


KINDS: dict[str, tuple[str, Callable[[int], None]]] = {
    "fastapi": ("fastapi", fastapi),
    "litserve": ("litserve", litserve),
    "ray": ("ray", ray),
}
"""Name -> the package that it needs, and what serves."""


def versions() -> dict[str, str]:
    """Of what is installed here."""
    found = {}
    for package in ("fastapi", "uvicorn", "litserve", "ray", "torch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    if sys.argv[1] == "versions":
        print(json.dumps(versions()))
    else:
        KINDS[sys.argv[1]][1](int(sys.argv[2]))
