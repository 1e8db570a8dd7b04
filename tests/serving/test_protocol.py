"""Requests of the Open Inference Protocol as tensors, and answers as responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from esen_lab.errors import UsageError
from esen_lab.serving.model import DATATYPES, ModelInfo, describe
from esen_lab.serving.protocol import encode_response, parse_request
from esen_lab.serving.refusal import RequestRefused

ROW = [float(i) for i in range(8)]


def given(**changed: Any) -> dict[str, Any]:
    return {"name": "input", "shape": [1, 8], "datatype": "FP32", "data": ROW, **changed}


def parsed(model: ModelInfo, *inputs: dict[str, Any], binary: bytes | None = None, **body: Any) -> Any:
    head = json.dumps({"inputs": list(inputs), **body}).encode()
    return parse_request(bytearray(head + (binary or b"")), None if binary is None else len(head), model)


def refused(model: ModelInfo, *inputs: dict[str, Any], **body: Any) -> RequestRefused:
    with pytest.raises(RequestRefused) as found:
        parsed(model, *inputs, **body)
    return found.value


def model_of(example: Any, answer: Any = None, **more: Any) -> ModelInfo:
    return describe("m", example, torch.zeros(1) if answer is None else answer, members=("a",), **more)


def test_numbers_come_flat_or_nested_alike(model: ModelInfo) -> None:
    flat = parsed(model, given()).tensors[0]
    nested = parsed(model, given(data=[ROW])).tensors[0]
    assert torch.equal(flat, torch.tensor([ROW]))
    assert torch.equal(nested, flat)


@pytest.mark.parametrize("name", sorted(DATATYPES))
def test_every_datatype_goes_in_and_out_bit_for_bit_as_binary(name: str) -> None:
    dtype = getattr(torch, DATATYPES[name])
    raw = torch.arange(16, dtype=torch.uint8).repeat(2).reshape(2, 16)
    tensor = (raw % 2).bool() if dtype is torch.bool else raw.view(dtype)
    model = model_of(tensor, tensor)
    data = bytes(tensor.reshape(-1).view(torch.uint8).numpy())
    look = {"name": "input", "shape": list(tensor.shape), "datatype": name}
    for gap in ("", " ", "  ", "   "):  # JSON of other lengths: what follows is not aligned
        size = {"binary_data_size": len(data), "gap": gap}
        request = parsed(model, {**look, "parameters": size}, binary=data, parameters={"binary_data_output": True})
        assert torch.equal(request.tensors[0].view(torch.uint8), tensor.view(torch.uint8))
        assert request.tensors[0].data_ptr() % dtype.itemsize == 0
    body, head = encode_response(request, [tensor], model)
    assert body[head:] == data
    described = json.loads(body[:head])["outputs"][0]
    assert described == {
        "name": "output",
        "datatype": name,
        "shape": list(tensor.shape),
        "parameters": {"binary_data_size": len(data)},
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_the_numbers_row_by_row_however_they_lie_in_memory(dtype: torch.dtype) -> None:
    across = torch.arange(6, dtype=dtype).reshape(2, 3).T.requires_grad_()  # a combine function with weights of its own
    for tensor in (across, across[0, 1], across[:0]):
        model = model_of(torch.zeros(1), tensor)
        size = {"binary_data_size": 4}
        request = parsed(
            model,
            {"name": "input", "shape": [1], "datatype": "FP32", "parameters": size},
            binary=bytes(4),
            parameters={"binary_data_output": True},
        )
        body, head = encode_response(request, [tensor], model)
        assert head is not None
        assert bytes(body[head:]) == b"".join(map(_bytes, tensor.detach().reshape(-1)))


def _bytes(number: torch.Tensor) -> bytes:
    return bytes(number.reshape(1).view(torch.uint8).tolist())


@pytest.mark.parametrize("name", sorted(DATATYPES))
def test_every_datatype_goes_in_and_out_as_json(name: str) -> None:
    dtype = getattr(torch, DATATYPES[name])
    tensor = torch.tensor([[True, False]]) if dtype is torch.bool else torch.tensor([[1, 3]]).to(dtype)
    model = model_of(tensor, tensor)
    request = parsed(model, {"name": "input", "shape": [1, 2], "datatype": name, "data": tensor.tolist()})
    assert request.tensors[0].dtype is dtype
    assert torch.equal(request.tensors[0], tensor)
    body, head = encode_response(request, [tensor], model)
    assert head is None
    assert json.loads(body)["outputs"][0]["data"] == tensor.reshape(-1).tolist()


def test_whole_numbers_of_64_bits_stay_what_they_are() -> None:
    model = model_of(torch.zeros(1, 2, dtype=torch.int64))
    numbers = [2**63 - 1, -(2**63)]
    request = parsed(model, {"name": "input", "shape": [1, 2], "datatype": "INT64", "data": numbers})
    assert request.tensors[0].tolist() == [numbers]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": "other"}, "no 'other'"),
        ({"datatype": "FP64"}, "is FP32, not FP64"),
        ({"datatype": "BYTES"}, "BYTES, which no member takes"),
        ({"datatype": "FP33"}, "'FP33'"),
        ({"shape": [1, 9]}, "shape [-1, 8]"),
        ({"shape": [8]}, "shape [-1, 8]"),
        ({"shape": [-1, 8]}, "shape [-1, 8]"),
        ({"shape": [2**60, 8]}, "shape [-1, 8]"),
        ({"shape": [0, 8], "data": []}, "at least one"),
        ({"shape": [2, 8]}, "has 16 numbers"),
        ({"data": None}, "has its numbers"),
        ({"data": "AAAA"}, "has its numbers"),
        ({"data": ["a"] * 8}, "numbers that FP32 has"),
        ({"data": [None] * 8}, "numbers that FP32 has"),
        ({"data": [[1.0], [1.0, 2.0]]}, "no array"),
        ({"data": [True] * 8}, "numbers that FP32 has"),
        ({"data": None, "parameters": {"binary_data_size": 31}}, "has 32 bytes, not 31"),
        ({"data": None, "parameters": {"binary_data_size": 32}}, "ends before the last byte"),
        ({"parameters": {"binary_data_size": 32}}, "not as both"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_in_words(model: ModelInfo, changed: dict[str, Any], words: str) -> None:
    found = refused(model, given(**changed))
    assert found.status == 400
    assert words in found.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"inputs": 1}', b'{"inputs": [{}]}', b"\xff\xfe", b'{"inputs": [' * 100_000],
)
def test_what_is_no_request_is_refused(model: ModelInfo, body: bytes) -> None:
    with pytest.raises(RequestRefused) as found:
        parse_request(bytearray(body), None, model)
    assert found.value.status == 400


@pytest.mark.parametrize("length", [-1, 10_000])
def test_a_length_of_json_that_is_none_is_refused(model: ModelInfo, length: int) -> None:
    with pytest.raises(RequestRefused, match="Inference-Header-Content-Length"):
        parse_request(bytearray(b"{}"), length, model)


def test_inputs_are_all_there_once_and_nothing_follows_them(model: ModelInfo) -> None:
    assert "lacks input" in refused(model).message
    assert "given twice" in refused(model, given(), given()).message
    assert "bytes follow" in refused(model, given(), binary=b"more").message


def test_json_that_would_take_too_much_memory_is_refused_before_it_is_read(
    model: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esen_lab.serving.protocol.MOST_JSON_BYTES", 10)
    assert refused(model, given()).status == 413


def test_bytes_of_booleans_are_zero_or_one() -> None:
    model = model_of(torch.zeros(1, 2, dtype=torch.bool))
    look = {"name": "input", "shape": [1, 2], "datatype": "BOOL", "parameters": {"binary_data_size": 2}}
    assert parsed(model, look, binary=b"\x00\x01").tensors[0].tolist() == [[False, True]]
    assert "0 or 1" in refused(model, look, binary=b"\x02\x01").message


def test_whole_numbers_out_of_range_and_fractions_are_refused() -> None:
    model = model_of(torch.zeros(1, 1, dtype=torch.int8))
    for data in ([128], [-129], [1.5], [2**70]):
        found = refused(model, {"name": "input", "shape": [1, 1], "datatype": "INT8", "data": data})
        assert found.status == 400


def test_outputs_are_those_that_are_asked_for_in_that_order() -> None:
    answer = {"logits": torch.tensor([[1.0, 2.0]]), "rank": torch.tensor([[7]])}
    model = model_of(torch.zeros(1, 8), answer)
    wanted = [{"name": "rank"}, {"name": "logits", "parameters": {"binary_data": True}}]
    request = parsed(model, given(), outputs=wanted, id="42")
    body, head = encode_response(request, list(answer.values()), model)
    told = json.loads(body[:head])
    assert [output["name"] for output in told["outputs"]] == ["rank", "logits"]
    assert told["outputs"][0]["data"] == [7]
    assert body[head:] == answer["logits"].numpy().tobytes()
    assert (told["id"], told["model_name"], told["model_version"]) == ("42", "m", "1")
    assert refused(model, given(), outputs=[{"name": "other"}]).status == 400
    assert refused(model, given(), outputs=[{"name": "rank"}, {"name": "rank"}]).status == 400


@pytest.mark.parametrize(
    ("place", "parameters"),
    [
        ("request", {"sequence_id": 3}),
        ("request", {"priority": 1}),
        ("input", {"shared_memory_region": "r"}),
        ("output", {"classification": 2}),
    ],
)
def test_what_is_not_had_is_said_and_not_passed_over(model: ModelInfo, place: str, parameters: dict[str, Any]) -> None:
    inputs = given(parameters=parameters) if place == "input" else given()
    outputs = [{"name": "output", "parameters": parameters if place == "output" else {}}]
    found = refused(model, inputs, outputs=outputs, parameters=parameters if place == "request" else {})
    assert found.status == 501


def test_a_timeout_is_in_microseconds_and_zero_is_none(model: ModelInfo) -> None:
    assert parsed(model, given(), parameters={"timeout": 1500}).timeout_s == pytest.approx(0.0015)
    assert parsed(model, given(), parameters={"timeout": 0}).timeout_s is None
    for odd in (-1, 1.5, "1", True, 10**30):
        assert refused(model, given(), parameters={"timeout": odd}).status == 400


def test_what_is_enough_at_a_deadline_needs_a_deadline(model: ModelInfo) -> None:
    assert parsed(model, given(), parameters={"timeout": 5, "at_least": 2}).at_least == 2
    assert refused(model, given(), parameters={"at_least": 2}).status == 400
    assert refused(model, given(), parameters={"timeout": 5, "at_least": 3}).status == 400


def test_json_has_no_nan_so_it_is_refused_and_binary_has_it(model: ModelInfo) -> None:
    answer = torch.tensor([[1.0, float("nan"), 2.0]])
    with pytest.raises(RequestRefused, match="binary"):
        encode_response(parsed(model, given()), [answer], model)
    body, head = encode_response(parsed(model, given(), parameters={"binary_data_output": True}), [answer], model)
    assert body[head:] == answer.numpy().tobytes()


def test_inputs_of_tuples_and_dicts_have_names_and_go_back_into_their_places() -> None:
    pair = model_of((torch.zeros(2, 3), [torch.zeros(2, 1), None]))
    assert [info.name for info in pair.inputs] == ["input_0", "input_1/0"]
    words = model_of({"ids": torch.zeros(2, 5, dtype=torch.int64), "mask": torch.zeros(2, 5, dtype=torch.bool)})
    assert [(info.name, info.datatype) for info in words.inputs] == [("ids", "INT64"), ("mask", "BOOL")]
    mask = {"name": "mask", "shape": [1, 5], "datatype": "BOOL", "data": [True] * 5}
    ids = {"name": "ids", "shape": [1, 5], "datatype": "INT64", "data": [1, 2, 3, 4, 5]}
    assert [tensor.dtype for tensor in parsed(words, mask, ids).tensors] == [torch.int64, torch.bool]
    assert "as many rows" in refused(words, {**mask, "shape": [2, 5], "data": [True] * 10}, ids).message


def test_sizes_may_be_any_only_where_that_was_asked_for() -> None:
    fixed = model_of(torch.zeros(2, 3), torch.zeros(2, 4))
    free = model_of(torch.zeros(2, 3), torch.zeros(2, 4), any_size=True)
    assert (fixed.inputs[0].shape, fixed.outputs[0].shape) == ((-1, 3), (-1, 4))
    assert free.inputs[0].shape == (-1, -1)
    assert model_of(torch.zeros(()), torch.zeros(4)).inputs[0].shape == ()


def test_a_dtype_that_the_protocol_has_no_name_for_is_refused_before_anything_is_served() -> None:
    with pytest.raises(UsageError, match="complex64"):
        model_of(torch.zeros(1, 2, dtype=torch.complex64))


def test_two_inputs_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="names of their own"):
        model_of({"a": {"b": torch.zeros(1)}, "a/b": torch.zeros(1)})
