"""Servers that answer with an ensemble of `load_models.py`: `python rival_servers.py KIND PORT PROCESSES THREADS`.

KIND is one of `KINDS`. Each is written as the library's own documentation shows it, with the settings that it
recommends for many small requests: so many processes run the ensemble, torch has so many threads in each. Nothing of
esen_lab is imported. `python rival_servers.py versions` prints what is installed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

BATCH = 16
WAIT_S = 0.005
"""How long a rival that joins requests waits for more: a tenth of the limit on the 99th percentile."""
_THREADS, _POOL = "RIVAL_THREADS", "RIVAL_POOL"


def model() -> Any:
    """The ensemble, in a process whose threads of torch are counted."""
    import torch
    from load_models import RIVALS, Mean

    torch.set_num_threads(int(os.environ[_THREADS]))
    return Mean(RIVALS)


def rows_of(body: bytes) -> Any:
    """The binary tensor behind the JSON of a request, whose length the look of the request fixes."""
    import torch
    from load_models import WIDTH

    return torch.frombuffer(bytearray(body[-4 * WIDTH :]), dtype=torch.float32).reshape(1, WIDTH)


def fastapi_app() -> Any:
    """The application, made in each of its processes: a thread of a pool for each request, no batching."""
    from concurrent.futures import ThreadPoolExecutor

    from fastapi import FastAPI, Request, Response

    app, ensemble = FastAPI(), model()
    # As many threads as keep the cores busy: with the forty of FastAPI's own pool, all of them compute at once.
    pool = ThreadPoolExecutor(int(os.environ[_POOL]))

    async def infer(request: Request) -> Response:
        import asyncio

        rows = rows_of(await request.body())
        answer = await asyncio.get_running_loop().run_in_executor(pool, ensemble, rows)
        return Response(answer.numpy().tobytes(), media_type="application/octet-stream")

    infer.__annotations__ = {"request": Request}  # else FastAPI looks for the names outside of this function
    app.add_api_route("/", infer, methods=["POST"], response_model=None)
    return app


def fastapi(port: int, processes: int, threads: int) -> None:
    """FastAPI on uvicorn."""
    import uvicorn

    os.environ[_POOL] = str(max(1, len(os.sched_getaffinity(0)) // (processes * threads)))
    uvicorn.run(
        "rival_servers:fastapi_app",
        factory=True,
        app_dir=str(Path(__file__).parent),
        workers=processes,
        host="127.0.0.1",
        port=port,
        log_level="error",
        access_log=False,
    )


def litserve(port: int, processes: int, threads: int) -> None:
    """LitServe with its batching; its workers are processes."""
    del threads  # told by the environment
    from rival_litserve import serve

    serve(port, processes)


def ray(port: int, processes: int, threads: int) -> None:
    """Ray Serve with its batching; a replica is a process."""
    import asyncio

    from ray import init, serve
    from starlette.requests import Request
    from starlette.responses import Response

    @serve.deployment(
        num_replicas=processes,
        max_ongoing_requests=256,
        ray_actor_options={
            "num_cpus": threads,
            "runtime_env": {"env_vars": {name: str(threads) for name in (_THREADS, "OMP_NUM_THREADS")}},
        },
        logging_config={"enable_access_log": False},
    )
    class Model:
        """The ensemble."""

        def __init__(self) -> None:
            self.model = model()

        @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_S)
        async def joined(self, inputs: list[Any]) -> list[Any]:
            import torch

            return list(await asyncio.to_thread(self.model, torch.cat(inputs)))

        async def __call__(self, request: Request) -> Response:
            answer = await self.joined(rows_of(await request.body()))
            return Response(answer.numpy().tobytes(), media_type="application/octet-stream")

    init(
        address="local",
        num_cpus=processes * threads + 1,  # one is for its proxy and controller, that it may start at all
        object_store_memory=80 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Model.bind(), blocking=True)


KINDS: dict[str, tuple[str, Callable[[int, int, int], None]]] = {
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


def main() -> None:
    """Serve until a signal comes."""
    if sys.argv[1] == "versions":
        print(json.dumps(versions()))
        return
    port, processes, threads = map(int, sys.argv[2:])
    os.environ.update({_THREADS: str(threads), "OMP_NUM_THREADS": str(threads)})
    KINDS[sys.argv[1]][1](port, processes, threads)


if __name__ == "__main__":
    main()
