"""The servers that `bench_load.py` compares with, each at its defaults: `python load_servers.py fastapi|litserve PORT`.

Run by an environment that has them; nothing of esen_lab is imported.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from load_models import WIDTH, Mean


def fastapi(port: int) -> None:
    """FastAPI on uvicorn, without batching; a binary body, the model in its pool of threads."""
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from fastapi.concurrency import run_in_threadpool

    app, model = FastAPI(), Mean()

    def answer(body: bytes) -> bytes:
        x = torch.frombuffer(bytearray(body), dtype=torch.float32).reshape(-1, WIDTH)
        return bytes(model(x).numpy().tobytes())

    async def infer(request: Any) -> Any:
        body = await request.body()
        head = int(request.headers["inference-header-content-length"])
        return Response(await run_in_threadpool(answer, body[head:]), media_type="application/octet-stream")

    infer.__annotations__["request"] = Request
    app.post("/infer", response_class=Response)(infer)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def litserve(port: int) -> None:
    """LitServe, batches of up to 16 within its default window; JSON, its usual form."""
    import litserve

    class Api(litserve.LitAPI):  # type: ignore[misc]
        def setup(self, device: str) -> None:  # noqa: ARG002
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

    server = litserve.LitServer(Api(max_batch_size=16), accelerator="cpu")
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    {"fastapi": fastapi, "litserve": litserve}[sys.argv[1]](int(sys.argv[2]))
