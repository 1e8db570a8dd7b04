"""What Triton's Python backend gives to models: as much of it as the models of a repository use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
        return self.value.__dlpack__()


class TritonError(Exception):
    pass


@dataclass
class InferenceResponse:
    tensors: Sequence[Tensor] = ()
    error: TritonError | None = None


@dataclass
class Request:
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    return Tensor(name, request.tensors[name]) if name in request.tensors else None
