"""Requests of one model, read: a header that clients repeat is read and checked once.

A client sends the same JSON before other numbers, again and again. What a short header says, checked against the model,
is kept by its bytes. Few are kept: of who sends ever other headers, each is read as if there were nothing here.
"""

from __future__ import annotations

from functools import lru_cache, partial

from esen_lab.serving.protocol import InferRequest, json_bytes, parse_request, read_header
from esen_lab.serving.signature import ModelInfo

_MOST_KEPT = 64
_MOST_BYTES = 2048
"""A longer one has numbers in it, and never comes again."""


class Headers:
    """See the module. What is kept is used by one thread; a long header may be read in any.

    Args:
        model: Whose requests they are.
    """

    def __init__(self, model: ModelInfo) -> None:
        self._model = model
        self._read = lru_cache(maxsize=_MOST_KEPT)(partial(read_header, model=model))  # what is refused is not kept

    def request(self, body: bytearray, header_bytes: int | None) -> InferRequest:
        """As `parse_request`."""
        length = json_bytes(body, header_bytes)
        if not 0 < length <= _MOST_BYTES or length == len(body):
            return parse_request(body, header_bytes, self._model)
        view = memoryview(body)
        return self._read(bytes(view[:length])).request(view[length:])
