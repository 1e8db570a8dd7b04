"""What Triton's Python backend gives to models: as much of it as the models of a repository use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import torch


class Logger:
    said: ClassVar[list[str]] = []

    @classmethod
    def log_info(cls, text: str) -> None:
        cls.said.append(text)

    log_warn = log_info


@dataclass
class Tensor:
    name: str
    value: torch.Tensor

    @classmethod
    def from_dlpack(cls, name: str, capsule: Any) -> Tensor:
        return cls(name, torch.utils.dlpack.from_dlpack(capsule))

    def to_dlpack(self) -> Any:
        """Its numbers at an odd address, where the server often has them."""
        room = torch.empty(self.value.numel() * self.value.element_size() + 64, dtype=torch.uint8)
        start = -room.data_ptr() % 64 + self.value.element_size()
        here = room[start : start + self.value.numel() * self.value.element_size()].view(self.value.dtype)
        return here.view(self.value.shape).copy_(self.value).__dlpack__()


class TritonError(Exception):
    pass


@dataclass
class InferenceResponse:
    tensors: Sequence[Tensor] = ()
    error: TritonError | None = None


@dataclass
class Request:
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    told: str = ""

    def parameters(self) -> str:
        return self.told


class Answered:
    """A response as business logic scripting gets it: its error is asked for by a method."""

    def __init__(self, response: InferenceResponse) -> None:
        self.response = response

    def has_error(self) -> bool:
        return self.response.error is not None

    def error(self) -> Any:
        return SimpleNamespace(message=lambda: str(self.response.error))


MODELS: dict[str, Any] = {}
"""Who answers requests of business logic scripting, by the names of models."""
ASKED: list[tuple[str, dict[str, torch.Tensor]]] = []


@dataclass(kw_only=True)
class InferenceRequest:
    model_name: str
    inputs: Sequence[Tensor]
    requested_output_names: Sequence[str]

    async def async_exec(self) -> Answered:
        tensors = {tensor.name: tensor.value for tensor in self.inputs}
        ASKED.append((self.model_name, tensors))
        (response,) = MODELS[self.model_name].execute([Request(tensors)])
        assert response.error is not None or {one.name for one in response.tensors} == set(self.requested_output_names)
        return Answered(response)


def get_output_tensor_by_name(response: Answered, name: str) -> Tensor | None:
    return next((tensor for tensor in response.response.tensors if tensor.name == name), None)


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    return Tensor(name, request.tensors[name]) if name in request.tensors else None
