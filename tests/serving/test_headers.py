"""Headers that repeat: read once, and every request has its own numbers and its own refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from esen_lab.serving import headers
from esen_lab.serving.headers import Headers
from esen_lab.serving.protocol import read_header
from esen_lab.serving.refusal import RequestRefused
from esen_lab.serving.signature import ModelInfo, describe


def head(rows: int = 1, **more: Any) -> bytes:
    look = {"name": "input", "shape": [rows, 8], "datatype": "FP32", "parameters": {"binary_data_size": rows * 32}}
    return json.dumps({"inputs": [look], **more}).encode()


def floats(rows: int, first: float) -> bytes:
    return bytes(torch.arange(first, first + 8 * rows).view(torch.uint8).numpy())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The headers that were really read."""
    found: list[bytes] = []

    def noted(given: bytes, model: ModelInfo) -> Any:
        found.append(bytes(given))
        return read_header(given, model)

    monkeypatch.setattr(headers, "read_header", noted)
    return found


def test_a_header_that_repeats_is_read_once_and_each_request_has_its_own_numbers(
    model: ModelInfo, reads: list[bytes]
) -> None:
    known = Headers(model)
    for first in (0.0, 100.0, 200.0):
        request = known.request(bytearray(head() + floats(1, first)), len(head()))
        assert torch.equal(request.tensors[0], torch.arange(first, first + 8).reshape(1, 8))
    other = known.request(bytearray(head(2) + floats(2, 0.0)), len(head(2)))
    assert other.rows == 2
    assert reads == [head(), head(2)]


def test_what_follows_a_known_header_is_looked_at_every_time(model: ModelInfo) -> None:
    known = Headers(model)
    known.request(bytearray(head() + floats(1, 0.0)), len(head()))
    for changed, words in ((-1, "ends before the last byte of input 'input'"), (1, "1 bytes follow")):
        with pytest.raises(RequestRefused, match=words):
            known.request(bytearray(head() + bytes(32 + changed)), len(head()))


def test_a_refused_header_is_refused_again(model: ModelInfo) -> None:
    known = Headers(model)
    wrong = head(parameters={"priority": 1})
    for _ in range(2):
        with pytest.raises(RequestRefused) as refused:
            known.request(bytearray(wrong + floats(1, 0.0)), len(wrong))
        assert refused.value.status == 501


def test_booleans_behind_a_known_header_are_zero_or_one() -> None:
    mask = torch.zeros(1, 4, dtype=torch.bool)
    known = Headers(describe("m", mask, mask, members=("a",)))
    look = {"name": "input", "shape": [1, 4], "datatype": "BOOL", "parameters": {"binary_data_size": 4}}
    told = json.dumps({"inputs": [look]}).encode()
    known.request(bytearray(told + bytes(4)), len(told))
    with pytest.raises(RequestRefused, match="0 or 1"):
        known.request(bytearray(told + b"\x00\x02\x00\x00"), len(told))


def test_numbers_within_a_known_header_are_no_ones_but_the_requests(reads: list[bytes]) -> None:
    pair = (torch.zeros(1, 2), torch.zeros(1, 2))
    known = Headers(describe("m", pair, torch.zeros(1, 2), members=("a",)))
    plain = {"name": "input_0", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    binary = {"name": "input_1", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    told = json.dumps({"inputs": [plain, binary]}).encode()
    first = known.request(bytearray(told + bytes(8)), len(told))
    first.tensors[0].zero_()  # a member that writes to its input
    again = known.request(bytearray(told + bytes(8)), len(told))
    assert torch.equal(again.tensors[0], torch.tensor([[1.0, 2.0]]))
    assert len(reads) == 1


def test_few_and_short_headers_are_kept(model: ModelInfo, reads: list[bytes]) -> None:
    known = Headers(model)
    for number in range(headers._MOST_KEPT + 1):
        told = head(id=str(number))
        known.request(bytearray(told + bytes(32)), len(told))
    long = head(id="x" * headers._MOST_BYTES)
    known.request(bytearray(long + bytes(32)), len(long))
    assert known._read.cache_info().currsize == headers._MOST_KEPT
    assert long not in reads, "read where it is not kept"
