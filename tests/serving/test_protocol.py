"""Requests of the Open Inference Protocol as tensors, and answers as responses."""

from __future__ import annotations

import json
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from esen_lab.errors import UsageError
from esen_lab.serving import protocol
from esen_lab.serving.protocol import encode_response, header_length, parse_request
from esen_lab.serving.refusal import RequestRefused, refusal_of
from esen_lab.serving.signature import DATATYPES, ModelInfo, describe

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
        ({"data": [[1.0], [1.0, 2.0]]}, "flat or nested alike"),
        ({"data": [ROW[:7]]}, "flat or nested alike"),
        ({"data": [ROW, []]}, "flat or nested alike"),
        ({"data": [ROW, 1.0]}, "flat or nested alike"),
        ({"data": [[ROW]]}, "flat or nested alike"),
        ({"data": [True, *ROW[1:]]}, "numbers that FP32 has"),
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


def test_who_sends_bytes_behind_json_without_its_length_is_told_of_the_header(model: ModelInfo) -> None:
    look = given(data=None, parameters={"binary_data_size": 32})
    head = json.dumps({"inputs": [{key: value for key, value in look.items() if key != "data"}]}).encode()
    for binary in (bytes(32), b""):
        with pytest.raises(RequestRefused, match=r"\. Where bytes of tensors follow the JSON") as found:
            parse_request(bytearray(head + binary), None, model)
        assert found.value.status == 400
    assert "Inference-Header" not in refused(model, given(shape=[1, 9])).message


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


def in_json(datatype: str, data: object, shape: tuple[int, ...] = (1, 2), **more: Any) -> Any:
    model = model_of(torch.zeros(1, *shape[1:], dtype=getattr(torch, DATATYPES[datatype])), **more)
    look = {"name": "input", "shape": list(shape), "datatype": datatype, "data": data}
    return parsed(model, look).tensors[0]


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("UINT64", [2**64 - 1, 1]),
        ("UINT64", [2**63, 0]),
        ("FP64", [10**20, 2**64]),
        ("FP32", [10**20, 1]),  # as JavaScript writes 1e20
        ("FP16", [65504, -65504]),
        ("BF16", [3.3895313892515355e38, 1]),
        ("BOOL", [True, False]),
    ],
)
def test_numbers_in_json_are_what_their_datatype_has(datatype: str, data: list[Any]) -> None:
    dtype = getattr(torch, DATATYPES[datatype])
    for given_so in (data, [data]):
        assert torch.equal(in_json(datatype, given_so), torch.tensor([data], dtype=dtype))


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("UINT64", [2**64, 1]),
        ("UINT64", [-1, 1]),
        ("INT64", [2**63, 1]),
        ("INT64", [int("9" * 4000), 1]),
        ("INT8", [True, 1]),
        ("FP32", [1e39, 1]),
        ("FP32", [True, 1]),
        ("FP16", [65520, 1]),
        ("BF16", [3.4e38, 1]),
        ("BOOL", [1, True]),
        ("BOOL", [0, 1]),
    ],
)
def test_a_number_in_json_that_its_datatype_has_not_is_refused(datatype: str, data: list[Any]) -> None:
    with pytest.raises(RequestRefused, match=f"numbers that {datatype} has") as found:
        in_json(datatype, data)
    assert found.value.status == 400


@pytest.mark.parametrize("nested", [False, True])
def test_long_json_is_read_and_written_in_pieces_between_which_others_have_the_interpreter(
    model: ModelInfo, nested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(protocol, "time", SimpleNamespace(sleep=pauses.append))
    x = torch.linspace(-1, 1, 8 * 4000).reshape(4000, 8)
    data = x.tolist() if nested else x.reshape(-1).tolist()
    request = parsed(model, given(shape=[4000, 8], data=data))
    assert torch.equal(request.tensors[0], x)
    pieces = len(json.dumps(data, separators=(",", ":"))) // protocol.PIECE_BYTES
    assert len(pauses) >= pieces > 3
    pauses.clear()
    body, _ = encode_response(request, [x], model)
    assert json.loads(body)["outputs"][0]["data"] == x.reshape(-1).tolist()
    assert len(pauses) == -(-x.numel() // protocol.PIECE_NUMBERS)


@pytest.mark.parametrize("piece", [1, 5, 14])
def test_wherever_json_is_parted_it_is_numbers_of_one_look_or_refused(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "PIECE_BYTES", piece)
    wanted = torch.arange(12, dtype=torch.float32).reshape(2, 3, 2)
    for good in (wanted.tolist(), wanted.reshape(-1).tolist()):
        assert torch.equal(in_json("FP32", good, (2, 3, 2)), wanted)
    flags = [[[True, False]] * 3] * 2
    assert in_json("BOOL", flags, (2, 3, 2)).tolist() == flags
    for empty in ([], [[], []]):
        assert in_json("FP32", empty, (2, 0, 2), any_size=True).shape == (2, 0, 2)
    for odd in ([0], [[0], []], [[], [0]]):
        with pytest.raises(RequestRefused):
            in_json("FP32", odd, (2, 0, 2), any_size=True)
    flat = list(range(12))
    for odd in (
        flat[:11],
        [*flat, 12],
        [*flat[:5], [5, 6], *flat[7:]],
        [*flat[:5], "5,6", *flat[7:]],
        [*flat[:5], {"a": 5, "b": 6}, *flat[7:]],
        [*flat[:11], None],
        [flat[:6], flat[6:]],
        [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11, 12]]],
        [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, "11"]]],
        [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], 10, [11]]],
        [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], "[,]"]],
        [[[0, 1], [2, 3], [4, 5, 6, 7], [8, 9], [10, 11]]],
    ):
        with pytest.raises(RequestRefused) as found:
            in_json("FP32", odd, (2, 3, 2))
        assert found.value.status == 400


def test_texts_and_millions_of_lists_are_refused_without_room_for_what_they_might_be() -> None:
    for data in (["x" * 100_000] + [""] * 2500, [[]] * 100_000):
        tracemalloc.start()
        try:
            with pytest.raises(RequestRefused):
                in_json("FP32", data)
            assert tracemalloc.get_traced_memory()[1] < 20 << 20
        finally:
            tracemalloc.stop()


def test_a_request_that_the_server_has_no_memory_for_may_come_again() -> None:
    found = refusal_of(MemoryError())
    assert (found.status, found.retry_after_s) == (503, 1.0)


@pytest.mark.parametrize("shape", [(1, 1 << 47, 1 << 47, 0), ((1 << 48) - 1, 1, 1, 0), (1 << 20, 2, 1, 0)])
def test_an_input_of_no_numbers_is_of_no_size_without_a_bound(shape: tuple[int, ...]) -> None:
    model = model_of(torch.zeros(1, 1, 1, 1), any_size=True)
    look = {"name": "input", "shape": list(shape), "datatype": "FP32"}
    assert "product" in refused(model, {**look, "data": []}).message
    assert "product" in refused(model, {**look, "parameters": {"binary_data_size": 0}}, binary=b"").message
    fine = parsed(model, {**look, "shape": [2, 300, 0, 4], "data": []}).tensors[0]
    assert fine.shape == (2, 300, 0, 4)


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


@pytest.mark.parametrize("odd", ["yes", 1, 0, [], {}])
def test_what_is_true_or_false_is_nothing_else(model: ModelInfo, odd: Any) -> None:
    for name in ("binary_data_output", "timings"):
        assert "true or false" in refused(model, given(), parameters={name: odd}).message
    output = {"name": "output", "parameters": {"binary_data": odd}}
    assert "true or false" in refused(model, given(), outputs=[output]).message
    null = [{"name": "output", "parameters": {"binary_data": None}}]
    assert parsed(model, given(), outputs=null, parameters={"binary_data_output": True}).wanted == ((0, True),)


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


def test_null_is_as_if_it_were_not_there(model: ModelInfo) -> None:
    nothing = {"id": None, "parameters": None, "outputs": None}
    request = parsed(model, given(parameters=None), **nothing)
    assert (request.id, request.wanted, request.timeout_s) == ("", ((0, False),), None)
    assert torch.equal(request.tensors[0], torch.tensor([ROW]))
    named = parsed(model, given(), outputs=[{"name": "output", "parameters": None}])
    assert named.wanted == ((0, False),)


@pytest.mark.parametrize("shape", [[-1, -1], [-1, 1], [1, -1]])
def test_minus_one_is_any_size_in_metadata_and_none_in_a_request(shape: list[int]) -> None:
    free = model_of((torch.zeros(2, 3), torch.zeros(2, 3)), any_size=True)
    names = ("input_0", "input_1")
    in_json = [{"name": name, "shape": shape, "datatype": "FP32", "data": [1.0]} for name in names]
    assert "-1 being any size" in refused(free, *in_json).message
    sizes = [{"binary_data_size": 4 * shape[0] * shape[1]}, {"binary_data_size": 4}]
    in_bytes = [
        {"name": name, "shape": look, "datatype": "FP32", "parameters": size}
        for name, look, size in zip(names, (shape, [-1, -1]), sizes, strict=True)
    ]
    assert "-1 being any size" in refused(free, *in_bytes, binary=b"").message


def raw(model: ModelInfo, data: bytes) -> Any:
    return parse_request(bytearray(data), 0, model)


def test_a_body_without_json_is_the_one_input_and_is_answered_in_binary(model: ModelInfo) -> None:
    x = torch.arange(24, dtype=torch.float32).reshape(3, 8)
    request = raw(model, x.numpy().tobytes())
    assert torch.equal(request.tensors[0], x)
    assert (request.rows, request.wanted, request.id) == (3, ((0, True),), "")
    fixed = model_of(torch.zeros(()))
    assert raw(fixed, torch.tensor(2.5).numpy().tobytes()).tensors[0].item() == 2.5


def test_a_body_without_json_whose_shape_does_not_follow_is_refused(model: ModelInfo) -> None:
    pair, free = model_of((torch.zeros(2, 3), torch.zeros(2, 3))), model_of(torch.zeros(2, 3), any_size=True)
    for odd, size, words in (
        (model, 31, "has 32 bytes or a multiple; the body has 31"),
        (model_of(torch.zeros(())), 8, "has 4 bytes; the body has 8"),
        (pair, 24, "2 inputs"),
        (free, 24, "2 such sizes"),
    ):
        with pytest.raises(RequestRefused, match=words) as found:
            raw(odd, bytes(size))
        assert found.value.status == 400
    with pytest.raises(RequestRefused, match="no inference request in JSON"):
        raw(model, b"")


@pytest.mark.parametrize("told", ["x", "", "-1", "1e3", " 1", "\u00b2", "1" * 16])
def test_a_length_of_the_header_is_digits_and_nothing_else(told: str) -> None:
    assert header_length("12") == header_length(b"12") == 12
    assert header_length(None) is None
    for one in (told, told.encode("latin-1")):
        with pytest.raises(RequestRefused, match="whole number of bytes"):
            header_length(one)
