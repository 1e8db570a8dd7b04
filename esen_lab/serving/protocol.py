"""The Open Inference Protocol, version 2: requests as tensors, tensors as responses. JSON, and the binary extension.

    body      :=  JSON                                         no header of our own
               |  JSON, then the bytes of each binary tensor   Inference-Header-Content-Length: bytes of the JSON
               |  the bytes of the one input                   Inference-Header-Content-Length: 0

null in the JSON is as if it were not there. A tensor is binary where its parameters have "binary_data_size"; its bytes
follow in the order of the JSON, little-endian, row by row, without gaps. Whatever does not fit the protocol or the
model is a `Refused` of status 400; nothing here executes anything, and nothing is larger in memory than a small
multiple of the request.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from esen_lab.serving.refusal import RequestRefused, malformed
from esen_lab.serving.signature import DATATYPES, VERSION, ModelInfo, TensorInfo, datatype_of

if TYPE_CHECKING:
    import numpy
    import torch

EXTENSIONS = ("binary_tensor_data", "model_configuration", "schedule_policy", "statistics")
"""Of which all is had. Of "model_repository" it is the index alone: nothing is loaded or unloaded."""
MOST_JSON_BYTES = 16 << 20
"""Numbers as text take several times their size once they are read: more than this is sent as binary."""
_MOST_SIZES = 1 << 20
"""The product of an input's sizes beside a 0: no byte is sent for them, but members may answer with some."""
_NESTED = re.compile(rb"\[\s*\[")
_ALL_BUT_LISTS = bytes(set(range(256)) - set(b"[],"))
_LISTS_AS_BLANKS = bytes.maketrans(b"[]", b"  ")
PIECE_BYTES = 1 << 16
PIECE_NUMBERS = 1 << 13
"""Numbers as text are read and written in pieces of this size: nobody else has the interpreter while one is."""
_GIVE_WAY_S = 0.00005
"""A pause without length is over before another thread is awake."""
_WIDEST_TIMEOUT_US = 10**12
_SAY_LENGTH = "Where bytes of tensors follow the JSON, Inference-Header-Content-Length says how long that is"
_NOT_HAD = {
    "sequence_id": "sequences of requests",
    "sequence_start": "sequences of requests",
    "sequence_end": "sequences of requests",
    "priority": "priorities",
}
_NOT_HAD_OF_TENSORS = {
    "shared_memory_region": "shared memory regions",
    "classification": "classification extension",
}


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: msgspec.Raw = msgspec.Raw()  # of the kind that the datatype has, and only known with it

    @property
    def has_data(self) -> bool:
        """Whether it says anything of its numbers; null is nothing."""
        return bytes(memoryview(self.data)[:4]) not in (b"", b"null")


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Body(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


_DECODER = msgspec.json.Decoder(_Body)
_ENCODER = msgspec.json.Encoder()


@dataclass(slots=True, kw_only=True)  # frozen, one takes three times as long to make
class InferRequest:
    """One request, checked against its model.

    Attributes:
        id: The client's, given back.
        tensors: In the order of the model's inputs.
        rows: How many, of a model whose inputs have their rows along dimension 0; else 1.
        look: What requests that are run as one batch have in common: the sizes of a row, and what they ask for.
        wanted: For each output that is asked for, in order: its index, and whether it is answered as binary.
        timeout_s: Until when the client wants it, from its coming, in seconds; None: no matter when.
        at_least: With a timeout: how many members an answer needs at the deadline; None for all of them.
        timings: Whether the answer is to say how long it waited and was computed.
        model: That it was checked against.
    """

    id: str
    tensors: tuple[torch.Tensor, ...]
    rows: int
    look: Hashable
    wanted: tuple[tuple[int, bool], ...]
    timeout_s: float | None = None
    at_least: int | None = None
    timings: bool = False
    model: ModelInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """An input within a request.

    Attributes:
        given: What the JSON says of it.
        info: What the model says.
        dtype: Within torch.
        offset: Where its bytes begin behind the JSON; None where its numbers are in it.
        size: How many bytes it has there.
    """

    given: _Input
    info: TensorInfo
    dtype: torch.dtype
    offset: int | None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHeader:
    """What the JSON of a request says, checked against its model: all but the bytes behind it. As in `InferRequest`.

    Attributes:
        id: The client's.
        places: Of the inputs, in the order of the model's.
        binary_bytes: How many bytes follow.
        rows: How many.
        look: In common.
        wanted: Outputs.
        timeout_s: Until when.
        at_least: What is enough then.
        timings: Whether the answer tells them.
        model: That it was checked against.
    """

    id: str
    places: tuple[_Place, ...]
    binary_bytes: int
    rows: int
    look: Hashable
    wanted: tuple[tuple[int, bool], ...]
    timeout_s: float | None
    at_least: int | None
    timings: bool
    model: ModelInfo

    def request(self, binary: memoryview) -> InferRequest:
        """The request, of which the tensors share the memory of `binary` where they can.

        Args:
            binary: What follows the JSON.

        Raises:
            Refused: It is too short or too long, or a tensor is not what the JSON says.
        """
        if self.binary_bytes > len(binary):
            ends = (one for one in self.places if one.offset is not None and one.offset + one.size > len(binary))
            first = min(ends, key=lambda one: one.offset or 0)
            raise malformed(f"The body ends before the last byte of input {first.given.name!r}")
        if self.binary_bytes < len(binary):
            raise malformed(f"{len(binary) - self.binary_bytes} bytes follow the last tensor")
        return InferRequest(
            id=self.id,
            tensors=tuple(_tensor(place, binary) for place in self.places),
            rows=self.rows,
            look=self.look,
            wanted=self.wanted,
            timeout_s=self.timeout_s,
            at_least=self.at_least,
            timings=self.timings,
            model=self.model,
        )


def header_length(told: bytes | str | None) -> int | None:
    """What `Inference-Header-Content-Length` says; None where it is not there.

    Raises:
        Refused: It is no number.
    """
    if told is None:
        return None
    given = told if isinstance(told, bytes) else told.encode("latin-1", "replace")
    digits = given.rstrip(b" \t")  # the parser leaves the spaces behind a value
    if not (digits.isdigit() and len(digits) < 16):
        raise malformed("Inference-Header-Content-Length is a whole number of bytes")
    return int(digits)


def parse_request(body: bytearray, header_bytes: int | None, model: ModelInfo) -> InferRequest:
    """Read a request. Its binary tensors share the memory of `body` where they can.

    Args:
        body: All of it.
        header_bytes: What `Inference-Header-Content-Length` says; None where it is not there.
        model: Whose it is.

    Raises:
        Refused: It is not one of the protocol, or not one for this model.
    """
    length = json_bytes(body, header_bytes)
    view = memoryview(body)
    if header_bytes == 0 and body:
        return raw_header(len(body), model).request(view)
    try:
        return read_header(view[:length], model).request(view[length:])
    except RequestRefused as refused:
        if header_bytes is None and b"binary_data_size" in body and refused.status == 400:
            raise malformed(f"{refused.message}. {_SAY_LENGTH}") from None
        raise


def json_bytes(body: bytearray, header_bytes: int | None) -> int:
    """How many bytes of a body are JSON; arguments as those of `parse_request`.

    Raises:
        Refused: There are not so many, or too many to be read.
    """
    length = len(body) if header_bytes is None else header_bytes
    if length < 0 or length > len(body):
        raise malformed(f"Inference-Header-Content-Length is {length}, and the body has {len(body)} bytes")
    if length > MOST_JSON_BYTES:
        raise RequestRefused(
            413, "size", f"JSON of at most {MOST_JSON_BYTES} bytes is read: send tensors as binary data"
        )
    return length


def read_header(head: bytes | memoryview, model: ModelInfo) -> RequestHeader:
    """Read the JSON of a request.

    Args:
        head: All of it.
        model: Whose request it is.

    Raises:
        Refused: It is not one of the protocol, or not one for this model.
    """
    try:
        asked = _DECODER.decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise malformed(f"The request is no inference request in JSON: {problem}") from problem
    parameters = asked.parameters or {}
    for word, what in _NOT_HAD.items():
        if parameters.get(word):
            raise RequestRefused(501, "unsupported", f"This server has no {what} (the parameter {word!r})")
    places, binary_bytes = _places(asked.inputs, model)
    sizes = {place.given.shape[0] for place in places} if model.batched else {1}
    if len(sizes) != 1 or sizes == {0}:
        raise malformed(
            "All inputs have as many rows, at least one, along their first dimension; these have "
            + ", ".join(map(str, sorted(sizes)))
        )
    timeout_us = _whole(parameters, "timeout", 0, _WIDEST_TIMEOUT_US)
    at_least = _whole(parameters, "at_least", 1, len(model.members))
    if at_least is not None and not timeout_us:
        raise malformed("The parameter 'at_least' says what is enough at a deadline: give 'timeout', in microseconds")
    return RequestHeader(
        id=asked.id or "",
        places=places,
        binary_bytes=binary_bytes,
        rows=sizes.pop(),
        look=(at_least, *(tuple(place.given.shape[1:]) for place in places)),
        wanted=_wanted(asked, model),
        timeout_s=timeout_us / 1e6 if timeout_us else None,  # 0 is Triton's word for none
        at_least=at_least,
        timings=_flag(parameters, "timings"),
        model=model,
    )


def raw_header(size: int, model: ModelInfo) -> RequestHeader:
    """Of a body that is the bytes of the one input: its shape follows from them. Answered in binary.

    Args:
        size: Of the body.
        model: Whose request it is.

    Raises:
        Refused: The model has other inputs, or no shape of that has so many bytes.
    """
    free = sum(info.shape.count(-1) for info in model.inputs)
    if len(model.inputs) != 1 or free > 1:
        raise malformed(
            "A body without JSON is the input of a model that has one, with one size at most that may be any; this "
            f"one has {len(model.inputs)} inputs, and {free} such sizes"
        )
    (info,) = model.inputs
    fixed = math.prod(one for one in info.shape if one != -1) * info.dtype.itemsize
    count, rest = divmod(size, fixed) if fixed else (0, size)
    if rest or not (count if free else count == 1):
        much = f"{fixed} bytes{' or a multiple' if free else ''}"
        raise malformed(f"Input {info.name!r}, {info.datatype}{list(info.shape)}, has {much}; the body has {size}")
    shape = [count if one == -1 else one for one in info.shape]
    given = _Input(name=info.name, shape=shape, datatype=info.datatype)
    return RequestHeader(
        id="",
        places=(_Place(given=given, info=info, dtype=info.dtype, offset=0, size=size),),
        binary_bytes=size,
        rows=shape[0] if model.batched else 1,
        look=(None, tuple(shape[1:])),
        wanted=tuple((index, True) for index in range(len(model.outputs))),
        timeout_s=None,
        at_least=None,
        timings=False,
        model=model,
    )


def _whole(parameters: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = parameters.get(name)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise malformed(f"The parameter {name!r} is a whole number from {least} to {most}")
    return value


def _flag(parameters: Mapping[str, Any], name: str, otherwise: bool = False) -> bool:
    value = parameters.get(name)
    if value is None:
        return otherwise
    if type(value) is not bool:
        raise malformed(f"The parameter {name!r} is true or false")
    return value


def _wanted(asked: _Body, model: ModelInfo) -> tuple[tuple[int, bool], ...]:
    binary = _flag(asked.parameters or {}, "binary_data_output")
    if not asked.outputs:
        return tuple((index, binary) for index in range(len(model.outputs)))
    known = {info.name: index for index, info in enumerate(model.outputs)}
    found: dict[int, bool] = {}
    for output in asked.outputs:
        parameters = output.parameters or {}
        _check_parameters(parameters, f"output {output.name!r}")
        index = known.get(output.name)
        if index is None:
            raise malformed(f"Model {model.name!r} has the outputs {', '.join(known)}, and no {output.name!r}")
        if index in found:
            raise malformed(f"Output {output.name!r} is asked for twice")
        found[index] = _flag(parameters, "binary_data", binary)
    return tuple(found.items())


def _check_parameters(parameters: Mapping[str, Any], whose: str) -> None:
    for word, what in _NOT_HAD_OF_TENSORS.items():
        if parameters.get(word):
            raise RequestRefused(501, "unsupported", f"This server has no {what} (the parameter {word!r} of {whose})")


# --- tensors that come -----------------------------------------------------------------------------------------------


def _places(inputs: Sequence[_Input], model: ModelInfo) -> tuple[tuple[_Place, ...], int]:
    """Where each input of the model is, and how many bytes all of them have behind the JSON."""
    known = {info.name: info for info in model.inputs}
    found: dict[str, _Place] = {}
    end = 0
    for given in inputs:
        info = known.get(given.name)
        if info is None:
            raise malformed(f"Model {model.name!r} has the inputs {', '.join(known)}, and no {given.name!r}")
        if given.name in found:
            raise malformed(f"Input {given.name!r} is given twice")
        _check_parameters(given.parameters or {}, f"input {given.name!r}")
        _check_look(given, info)
        size = _size(given, info)
        found[given.name] = _Place(
            given=given, info=info, dtype=info.dtype, offset=None if size is None else end, size=size or 0
        )
        end += size or 0
    missing = [name for name in known if name not in found]
    if missing:
        raise malformed(
            f"Model {model.name!r} has the inputs {', '.join(known)}; this request lacks {', '.join(missing)}"
        )
    return tuple(found[name] for name in known), end


def _size(given: _Input, info: TensorInfo) -> int | None:
    """How many bytes an input has behind the JSON; None where its numbers are in it."""
    size = (given.parameters or {}).get("binary_data_size")
    if size is None:
        return None
    if given.has_data:
        raise malformed(f"Input {given.name!r} is given as data or as binary data, not as both")
    wanted = math.prod(given.shape) * info.dtype.itemsize
    if type(size) is not int or size != wanted:
        raise malformed(f"Input {given.name!r}, {given.datatype}{given.shape}, has {wanted} bytes, not {size!r}")
    return wanted


def _tensor(place: _Place, binary: memoryview) -> torch.Tensor:
    if place.offset is None:
        return _from_json(place.given, place.info)
    return _from_bytes(binary[place.offset : place.offset + place.size], place)


def _check_look(given: _Input, info: TensorInfo) -> None:
    if given.datatype not in DATATYPES:
        told = "BYTES, which no member takes" if given.datatype == "BYTES" else repr(given.datatype[:80])
        raise malformed(f"Input {given.name!r} has a datatype of {', '.join(DATATYPES)}; it is {told}")
    if given.datatype != info.datatype:
        raise malformed(f"Input {given.name!r} is {info.datatype}, not {given.datatype}")
    fits = len(given.shape) == len(info.shape) and all(
        0 <= size < 1 << 48 and wanted in (size, -1) for size, wanted in zip(given.shape, info.shape, strict=True)
    )
    if not fits:
        raise malformed(f"Input {given.name!r} has the shape {list(info.shape)}, -1 being any size, not {given.shape}")
    if 0 in given.shape and math.prod(size or 1 for size in given.shape) > _MOST_SIZES:
        raise malformed(
            f"Input {given.name!r} without a number has other sizes whose product is at most {_MOST_SIZES}, "
            f"not {given.shape}"
        )


def _from_bytes(data: memoryview, place: _Place) -> torch.Tensor:
    import torch

    given, dtype = place.given, place.dtype
    if not place.size:
        return torch.empty(given.shape, dtype=dtype)
    if dtype is torch.bool and int(torch.frombuffer(data, dtype=torch.uint8).max()) > 1:
        raise malformed(f"Input {given.name!r} is BOOL: each byte is 0 or 1")
    found = torch.frombuffer(data, dtype=dtype)
    if found.data_ptr() % dtype.itemsize:  # behind JSON of any length: kernels want their numbers aligned
        found = torch.frombuffer(bytearray(data), dtype=dtype)
    return found.view(given.shape)


def _from_json(given: _Input, info: TensorInfo) -> torch.Tensor:
    import numpy
    import torch

    text, count = bytes(given.data), math.prod(given.shape)
    if not text.startswith(b"["):
        raise malformed(f"Input {given.name!r} has its numbers in 'data', or as binary data")
    nested = _NESTED.match(text) is not None
    if nested and not _nested_alike(text, given.shape):
        raise _unlike(given)
    if not count and not text.translate(None, b"[], \t\r\n"):
        return torch.empty(given.shape, dtype=info.dtype)
    arrays = [_array(numbers, given, info) for numbers in _read(text, given, nested=nested)]
    if sum(map(len, arrays)) != count:
        raise _unlike(given)
    found = torch.from_numpy(numpy.concatenate(arrays)).to(info.dtype).reshape(given.shape)
    if info.dtype.is_floating_point and not bool(torch.isfinite(found).all()):  # JSON has no infinity: it was too large
        raise _odd(given, "a number is too large")
    return found


def _unlike(given: _Input) -> RequestRefused:
    count = math.prod(given.shape)
    return malformed(f"Input {given.name!r} of shape {given.shape} has {count} numbers, flat or nested alike")


def _nested_alike(text: bytes, shape: Sequence[int]) -> bool:
    """Whether lists in lists are as deep and as long as a shape says, by their brackets and commas alone.

    Making lists of Python's takes seconds, where there are millions.
    """
    # Counted first: what a shape claims is made only where as much was sent.
    if text.count(b"[") != sum(math.prod(shape[:level]) for level in range(len(shape))):
        return False
    if text.count(b",") < math.prod(shape) - 1:
        return False
    wanted = b""
    for size in reversed(shape):
        wanted = b"[%b]" % b",".join([wanted] * size)
    return b",".join(piece.translate(None, _ALL_BUT_LISTS) for piece in _pieces(text)) == wanted[1:-1]


def _read(text: bytes, given: _Input, *, nested: bool) -> Iterator[list[Any]]:
    """The numbers of a list, or of lists in lists that are alike, piece by piece."""
    reader = _reader(given.datatype)
    for piece in _pieces(text):
        try:
            numbers = reader.decode(b"[%b]" % (piece.translate(_LISTS_AS_BLANKS) if nested else piece))
        except (msgspec.MsgspecError, ValueError) as problem:  # ValueError: thousands of digits
            raise _odd(given, str(problem)) from problem
        if numbers:
            yield numbers


def _pieces(text: bytes) -> Iterator[bytes]:
    """What is within the brackets of a list, parted at commas. Other threads get the interpreter in between.

    The text is JSON: no piece of numbers is empty, and one that holds a part of anything else is no JSON.
    """
    at, end = 1, len(text) - 1
    while True:
        comma = text.find(b",", at + PIECE_BYTES, end)
        if comma < 0:
            yield text[at:end]
            return
        yield text[at:comma]
        at = comma + 1
        time.sleep(_GIVE_WAY_S)


def _array(numbers: list[Any], given: _Input, info: TensorInfo) -> numpy.ndarray[Any, Any]:
    """The same in a dtype of NumPy's that holds all of them; it is told which, as its own guess rounds some."""
    import numpy

    name = DATATYPES[info.datatype]
    try:
        if info.dtype.is_floating_point:
            array = numpy.array(numbers, dtype=numpy.float64)
            with numpy.errstate(over="ignore"):  # infinity is looked for in the tensor
                return array if info.datatype == "BF16" else array.astype(name)
        if info.datatype in ("BOOL", "UINT64"):
            return numpy.array(numbers, dtype=name)
        array = numpy.array(numbers, dtype=numpy.int64)
    except OverflowError as problem:
        raise _odd(given, "a number is too large") from problem
    limits = numpy.iinfo(name)
    if not limits.min <= int(array.min()) <= int(array.max()) <= limits.max:
        raise _odd(given, f"{info.datatype} goes from {limits.min} to {limits.max}")
    return array.astype(name)


@lru_cache(maxsize=64)
def _reader(datatype: str) -> msgspec.json.Decoder[Any]:
    """Reads a list of what JSON has for a datatype."""
    kind: Any = int
    if datatype == "BOOL":
        kind = bool
    elif datatype.startswith(("FP", "BF")):
        kind = float
    elif datatype.startswith("U"):
        kind = Annotated[int, msgspec.Meta(ge=0)]
    return msgspec.json.Decoder(list[kind])


def _odd(given: _Input, why: str) -> RequestRefused:
    return malformed(f"The data of input {given.name!r} are numbers that {given.datatype} has, and nothing else: {why}")


# --- responses -------------------------------------------------------------------------------------------------------


def numbers_in_json(request: InferRequest, outputs: Sequence[torch.Tensor]) -> int:
    """How many numbers of the outputs a response has as JSON."""
    return sum(outputs[index].numel() for index, binary in request.wanted if not binary)


def encode_response(
    request: InferRequest,
    outputs: Sequence[torch.Tensor],
    model: ModelInfo,
    parameters: Mapping[str, Any] | None = None,
) -> tuple[bytes, int | None]:
    """A response.

    Args:
        request: What is answered.
        outputs: All outputs of the model, in order, on the CPU.
        model: Whose they are.
        parameters: What else the client is told.

    Returns:
        The body, and the length of its JSON where bytes of tensors follow.

    Raises:
        Refused: NaN or infinity was asked for as JSON, which has neither.
    """
    described: list[dict[str, Any]] = []
    blobs: list[Any] = []
    for index, binary in request.wanted:
        info, tensor = model.outputs[index], outputs[index]
        one: dict[str, Any] = {"name": info.name, "datatype": datatype_of(tensor), "shape": list(tensor.shape)}
        if binary:
            data = _bytes_of(tensor)
            one["parameters"] = {"binary_data_size": len(data)}
            blobs.append(data)
        else:
            one["data"] = _json_of(tensor, info)
        described.append(one)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": VERSION}
    if request.id:
        answer["id"] = request.id
    if parameters:
        answer["parameters"] = dict(parameters)
    answer["outputs"] = described
    head = _ENCODER.encode(answer)
    return (b"".join([head, *blobs]), len(head)) if blobs else (head, None)


def _bytes_of(tensor: torch.Tensor) -> memoryview | bytes:
    """What a tensor is in memory, row by row."""
    import torch

    if not tensor.numel():
        return b""
    if tensor.dtype is torch.bfloat16:  # which NumPy has not
        tensor = tensor.view(torch.int16)
    array = tensor.numpy(force=True)  # detached and resolved, whatever it is
    return array.data.cast("B") if array.ndim and array.flags.c_contiguous else array.tobytes()


def _json_of(tensor: torch.Tensor, info: TensorInfo) -> list[Any] | msgspec.Raw:
    import torch

    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise malformed(f"Output {info.name!r} holds NaN or infinity, which JSON has not: ask for binary data")
    numbers = tensor.reshape(-1)
    if len(numbers) <= PIECE_NUMBERS:
        found: list[Any] = numbers.tolist()
        return found
    texts = []
    for at in range(0, len(numbers), PIECE_NUMBERS):
        texts.append(_ENCODER.encode(numbers[at : at + PIECE_NUMBERS].tolist())[1:-1])
        time.sleep(_GIVE_WAY_S)
    return msgspec.Raw(b"[%b]" % b",".join(texts))
