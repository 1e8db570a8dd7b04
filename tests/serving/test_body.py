"""Reading a body: how much is held meanwhile, and who else gets his turn."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import MutableMapping
from typing import Any

import pytest

from esen_lab.serving.body import Held, read_body, unpacked
from esen_lab.serving.refusal import RequestRefused

MIB = 1 << 20


def reading(packed: bytes, held: Held, encoding: bytes = b"gzip", most: int = 64 * MIB) -> tuple[bytearray, int]:
    """A body as it is read, and how often something else got its turn meanwhile."""

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": packed, "more_body": False}

    async def read() -> tuple[bytearray, int]:
        turns, done = 0, False

        async def others() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.ensure_future(others())
        try:
            body = await read_body(receive, {b"content-encoding": encoding}, most=most, timeout_s=None, held=held)
        finally:
            done = True
            await beside
        return body, turns

    return asyncio.run(read())


def test_others_get_their_turns_while_a_large_body_is_unpacked() -> None:
    body, turns = reading(gzip.compress(bytes(16 * MIB)), Held(1 << 30))
    assert body == bytes(16 * MIB)
    assert turns >= 16


class Watched(Held):
    largest = 0

    def take(self, count: int) -> None:
        self.largest = max(self.largest, count)
        super().take(count)


def test_what_is_unpacked_is_counted_as_it_grows_and_given_back_where_it_is_refused() -> None:
    held = Watched(4 * MIB)
    with pytest.raises(RequestRefused, match="memory") as refused:
        reading(gzip.compress(bytes(16 * MIB)), held)
    assert (refused.value.status, held.now) == (503, 0)
    assert held.largest <= MIB, "refused before all of it is in memory"
    body, _ = reading(gzip.compress(bytes(3 * MIB)), held)
    assert held.now == len(body) == 3 * MIB


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
@pytest.mark.parametrize("size", [0, 1, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 3 << 18])
def test_a_body_of_any_size_comes_out_as_it_went_in(encoding: bytes, size: int) -> None:
    whole = bytes(index % 251 for index in range(size))
    packed = gzip.compress(whole) if encoding == b"gzip" else zlib.compress(whole)
    assert unpacked(packed, encoding, size) == whole
    assert reading(packed, Held(1 << 30), encoding)[0] == whole
    if size:
        with pytest.raises(RequestRefused) as refused:
            unpacked(packed, encoding, size - 1)
        assert refused.value.status == 413
    with pytest.raises(RequestRefused, match="middle"):
        unpacked(packed[:-1], encoding, size)
