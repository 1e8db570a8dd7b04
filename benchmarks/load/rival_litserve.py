"""The ensemble for LitServe: importable by name, for it starts its processes anew and hands it to them."""

from typing import Any

import litserve
import torch
from rival_servers import BATCH, WAIT_S, model


class Api(litserve.LitAPI):
    """Takes and gives JSON: LitServe reads no other body."""

    def setup(self, device: str) -> None:
        """Make the networks, once in each process."""
        del device
        self.model = model()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  a type would say what FastAPI is to check
        """The row of a request."""
        return torch.tensor(request["x"], dtype=torch.float32)

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Requests as one batch."""
        return torch.stack(inputs)

    def predict(self, x: torch.Tensor) -> Any:
        """The answers."""
        return self.model(x)

    def unbatch(self, output: torch.Tensor) -> list[torch.Tensor]:
        """One for each request."""
        return list(output)

    def encode_response(self, output):  # type: ignore[no-untyped-def]  the same
        """The body of a response."""
        return {"y": output.tolist()}


def serve(port: int, processes: int) -> None:
    """Batching, and the fast queue that is meant for hundreds of requests a second."""
    server = litserve.LitServer(
        Api(max_batch_size=BATCH, batch_timeout=WAIT_S),
        accelerator="cpu",
        devices=1,
        workers_per_device=processes,
        fast_queue=True,
    )
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="error", generate_client_file=False)
