"""Backends in other precisions: who has which, what int8 is made of, and what goes on in its own precision."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from backend_nets import ManyKinds, executed, lacking, many_kinds
from models import mlp, payload
from torch import nn

from esen_lab.common.answers import IN_PRECISION, difference
from esen_lab.common.trees import call_with, map_tensors
from esen_lab.common.units import BACKENDS, PRECISIONS, backend_parts
from esen_lab.errors import DeviceError, UsageError
from esen_lab.lanes.backends import _int8, why_not, wrapped
from esen_lab.lanes.backends._cache import Cache
from esen_lab.lanes.backends._protocol import Calibration, Example, Refused

INT8 = [pytest.param(f"{name}@int8", marks=lacking(f"{name}@int8")) for name in ("openvino", "onnxruntime")]
LIKELY = torch.rand(40, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def quantisings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many batches each quantisation was calibrated with."""
    made: list[int] = []
    original = _int8.quantised

    def counted(graph: bytes, inputs: Any, folder: Path | None) -> bytes:
        made.append(len(inputs))
        return original(graph, inputs, folder)

    monkeypatch.setattr(_int8, "quantised", counted)
    return made


def test_a_name_has_a_backend_and_a_precision() -> None:
    assert backend_parts("openvino@int8") == ("openvino", "int8")
    assert backend_parts("graph@fp16") == ("cuda-graph", "fp16")
    assert backend_parts("eager") == ("eager", "")
    with pytest.raises(UsageError, match="@bf16, @fp16, @int8 after it"):
        backend_parts("eager@fp64")


def test_every_backend_says_which_precisions_it_has() -> None:
    for name in BACKENDS:
        for precision in PRECISIONS:
            for device in ("cpu", "cuda:0"):
                assert isinstance(why_not(f"{name}@{precision}", device), str)
    assert "for GPUs" in why_not("eager@fp16")
    assert "for GPUs" in why_not("openvino@fp16")
    assert why_not("eager@fp16", "cuda:0") == why_not("cuda-graph@fp16", "cuda:0") == ""
    assert "does not quantise" in why_not("channels_last@int8")
    with torch.no_grad(), pytest.raises(DeviceError, match="float16 is for GPUs"):
        executed(mlp(), "eager@fp16")(LIKELY)  # as where a plan from elsewhere is run


@pytest.mark.parametrize("name", INT8)
def test_int8_answers_nearly_as_float32_on_data_like_that_of_its_calibration(name: str) -> None:
    module = mlp()
    fast = executed(module, name, calibration=LIKELY)
    with torch.inference_mode():
        for x in (LIKELY[:4], LIKELY[4:8], LIKELY[:7], LIKELY[:1], LIKELY):
            found = difference(fast(x), module(x), IN_PRECISION["int8"])
            assert found.agrees, str(found)
            assert found.error > 0, "it was computed in int8"
    assert all(call is not fast._eagerly for call in fast._calls.values())


@pytest.mark.parametrize("name", INT8)
def test_an_example_that_is_noise_does_not_count_against_int8(name: str) -> None:
    fast = executed(mlp(), name, calibration=LIKELY)
    with torch.inference_mode():
        fast(torch.full((4, 8), 100.0))
        assert difference(fast(LIKELY[:4]), fast.module(LIKELY[:4]), IN_PRECISION["int8"]).agrees


@pytest.mark.parametrize("name", INT8)
def test_an_int8_network_that_answers_otherwise_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = _int8.quantised
    # Calibrated with next to nothing, all values are cut off.
    monkeypatch.setattr(
        _int8, "quantised", lambda graph, inputs, folder: original(graph, [[0.01 * inputs[0][0]]], folder)
    )
    with torch.no_grad(), pytest.raises(DeviceError, match=r"answers as it does eagerly.*float32 may be off by 0.25"):
        executed(mlp(), name, calibration=LIKELY)(LIKELY[:4])


@pytest.mark.parametrize("name", INT8)
def test_int8_takes_inputs_by_keyword_whole_numbers_and_several_outputs(name: str) -> None:
    torch.manual_seed(0)

    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.more, self.head = nn.Embedding(20, 16), nn.Linear(4, 16), nn.Linear(16, 5)

        def forward(self, ids: torch.Tensor, parts: dict[str, torch.Tensor]) -> dict[str, Any]:
            hidden = torch.relu(self.table(ids).mean(1) + self.more(parts["x"]))
            scores = self.head(hidden)
            return {"scores": scores, "rest": (hidden, scores > 0)}

    module = Many().eval()
    data = {"ids": torch.randint(0, 20, (50, 6)), "parts": {"x": torch.randn(50, 4)}}
    x = map_tensors(lambda leaf: leaf[:3], data)
    with torch.no_grad():
        answer, wanted = call_with(executed(module, name, calibration=data), x), call_with(module, x)
    assert difference(answer["scores"], wanted["scores"], IN_PRECISION["int8"]).agrees
    assert answer["rest"][1].dtype is torch.bool


@pytest.mark.parametrize("name", INT8)
def test_what_int8_lacks_is_said(name: str) -> None:
    lstm = nn.LSTM(8, 8, batch_first=True).eval()
    with torch.no_grad():
        with pytest.raises(DeviceError, match="int8 takes calibration data"):
            executed(mlp(), name)(LIKELY)
        with pytest.raises(DeviceError, match="calibration data does not look like its input"):
            executed(mlp(), name, calibration=torch.rand(40, 8, 1))(LIKELY)
        with pytest.raises(DeviceError, match="nothing in it can be quantised"):
            executed(lstm, name, calibration=torch.rand(40, 5, 8))(torch.rand(2, 5, 8))


@pytest.mark.parametrize("name", INT8)
def test_an_int8_network_is_quantised_once_for_all_batches_and_sessions(
    name: str, tmp_path: Path, quantisings: list[int]
) -> None:
    tmp_path.chmod(0o700)
    module, before = mlp(), torch.get_num_threads()
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            for size in (4, 8):
                with torch.inference_mode():
                    executed(module, name, Cache(folder=tmp_path, owner="a"), LIKELY)(LIKELY[:size])
    finally:
        torch.set_num_threads(before)
    assert quantisings == [10]


@pytest.mark.parametrize("name", INT8)
def test_quantising_leaves_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with torch.no_grad():
        executed(mlp(), name, calibration=LIKELY)(LIKELY[:4])
    assert list(tmp_path.iterdir()) == []
    assert tempfile.tempdir == str(tmp_path)


@pytest.mark.parametrize("name", ["eager@bf16", *INT8])
def test_a_network_in_float64_stays_so(name: str) -> None:
    with torch.no_grad(), pytest.raises(DeviceError, match="it computes in float64, which it keeps"):
        executed(mlp().double(), name, calibration=LIKELY.double())(LIKELY.double())
    with torch.no_grad(), pytest.raises(DeviceError, match="float64"):  # inside alone
        executed(nn.Sequential(Widen(), mlp().double(), Narrow()), name, calibration=LIKELY)(LIKELY)


class Widen(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double()


class Narrow(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


def test_autocast_ends_with_the_call() -> None:
    lower, plain = executed(mlp(), "eager@bf16"), mlp()
    with torch.inference_mode():
        wanted = plain(LIKELY)
        for _ in range(2):
            lower(LIKELY)
            assert not torch.is_autocast_enabled("cpu")
            assert torch.equal(plain(LIKELY), wanted)
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            lower.module(LIKELY[:, :3])
        assert not torch.is_autocast_enabled("cpu")


def test_bfloat16_keeps_dtypes_and_whole_numbers() -> None:
    module, x = ManyKinds().eval(), many_kinds()
    with torch.no_grad():
        answer, wanted = executed(module, "eager@bf16")(**x), module(**x)
    assert difference(answer, wanted, IN_PRECISION["bf16"]).agrees


def test_calibration_data_comes_in_batches_of_the_example() -> None:
    def example(*leaves: torch.Tensor) -> Example:
        given = Calibration.of(leaves)
        return Example(leaves=list(leaves), structure=given.structure, answer=[], answer_structure=(), threads=1)

    data = Calibration.of((torch.arange(10), torch.arange(10.0).reshape(10, 1)))
    batches = data.like(example(torch.zeros(4, dtype=torch.int64), torch.zeros(4, 1)))
    assert [batch[0].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert batches[1][1].tolist() == [[4.0], [5.0], [6.0], [7.0]]
    few = data.like(example(torch.zeros(12, dtype=torch.int64), torch.zeros(12, 1)))
    assert few[0][0].tolist() == [*range(10), 0, 1]
    for other in (
        example(torch.zeros(4), torch.zeros(4, 1)),
        example(torch.zeros(4, dtype=torch.int64), torch.zeros(3, 1)),
        example(torch.zeros(4, dtype=torch.int64)),
        example(torch.zeros((), dtype=torch.int64), torch.zeros(4, 1)),
    ):
        with pytest.raises(Refused, match="does not look like its input"):
            data.like(other)


@pytest.mark.parametrize("name", INT8[1:])
def test_calibration_data_travels_with_the_sub_model_to_int8_alone(name: str) -> None:
    data = payload(mlp())
    far = torch.full((40, 8), 1e6)
    assert len(wrapped(data, "eager@bf16", calibration=far)) < len(wrapped(data, name, calibration=far)) - 1000
    with torch.no_grad():
        one = cloudpickle.loads(wrapped(data, name, calibration=LIKELY, fingerprint="f" * 32))()
        other = cloudpickle.loads(wrapped(data, name, calibration=far, fingerprint="f" * 32))()
        assert not torch.equal(one(LIKELY[:4]), other(LIKELY[:4])), "another calibration is another network"
