"""Digests of texts, tensors, code and values of any kind, and the fingerprint of a sub-model that is made of them.

All are the same in every process and every run for the same content, and different for another. Profiles and plans
keep them: a change of what is digested here makes everything that was measured before unknown.
"""

from __future__ import annotations

import contextvars
import enum
import functools
import hashlib
import inspect
import pickle
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from esen_lab.ensemble.origin import RAISED, asked, held_in, home_of, is_a, is_installed, is_module, is_tensor

if TYPE_CHECKING:
    import torch

_MOST_PARTS = 200_000
_DEEPEST = 60
_PLAIN = (bool, int, float, complex, str, bytes, bytearray, range, slice, type(None), type(...), type(NotImplemented))
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{4,}")


def text_digest(*texts: str) -> str:
    """Blake2b of `texts` as 32 hexadecimal digits; ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.blake2b(digest_size=16)
    _add_texts(digest, texts)
    return digest.hexdigest()


def bytes_digest(data: bytes) -> str:
    """Blake2b of `data` as 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _add_texts(digest: Any, texts: Iterable[str]) -> None:
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)


def tensor_digest(tensor: torch.Tensor) -> str:
    """Blake2b of dtype, shape, memory order and values."""
    import torch

    value = tensor.detach().cpu()
    order = "" if value.is_contiguous() else str(value.stride())
    digest = hashlib.blake2b(f"{value.dtype} {tuple(value.shape)} {order}".encode(), digest_size=16)
    if value.numel():
        flat = value.resolve_conj().resolve_neg().contiguous().reshape(-1)
        if flat.dtype.is_complex:
            flat = torch.view_as_real(flat).reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy().data))
    return digest.hexdigest()


def view_key(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Equal for tensors that show the same memory in the same way; of empty ones it says nothing."""
    return str(tensor.device), tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def tensor_digests(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """The digest of each; memory that has two names is read once."""
    known: dict[tuple[Any, ...], str] = {}
    out = {}
    for name, tensor in tensors.items():
        key = view_key(tensor)
        if tensor.numel() == 0 or key not in known:
            known[key] = tensor_digest(tensor)
        out[name] = known[key]
    return out


def fingerprint(digests: Mapping[str, str], structure: str, source: str) -> str:
    """One fingerprint of a sub-model.

    Args:
        digests: What `tensor_digests` gives for its tensors.
        structure: Its classes and plain attributes as text; addresses in it do not count.
        source: The source text it was built from, or "".
    """
    names = sorted(digests)
    return text_digest(
        _ADDRESS.sub("0x", structure), source, *(part for name in names for part in (name, digests[name]))
    )


def same_bits(first: Iterable[torch.Tensor], second: Iterable[torch.Tensor]) -> bool:
    """Whether two rows of tensors agree in number, dtype, shape and every bit (NaN equals NaN)."""
    a, b = list(first), list(second)
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and tensor_digest(x.contiguous()) == tensor_digest(y.contiguous())
        for x, y in zip(a, b, strict=True)
    )


# --- code -------------------------------------------------------------------------------------------------------------


def code_digest(code: types.CodeType) -> str:
    """Of what code does: not where it stands, nor what its lines are called."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(code.co_code)
    for part in (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars):
        digest.update(repr(part).encode("utf-8", "surrogatepass"))
    digest.update(repr((code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_flags)).encode())
    for index, constant in enumerate(code.co_consts):
        if index == 0 and isinstance(constant, str) and _has_docstring(code):
            continue
        digest.update(_constant_text(constant).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _has_docstring(code: types.CodeType) -> bool:
    """Whether a first constant that is text is a docstring: from Python 3.13 on code says so, before it always is."""
    if sys.version_info >= (3, 13):
        return bool(code.co_flags & inspect.CO_HAS_DOCSTRING)
    return not code.co_name.startswith("<")


def _constant_text(constant: Any) -> str:
    if isinstance(constant, types.CodeType):
        return code_digest(constant)
    if isinstance(constant, tuple):
        return f"({','.join(map(_constant_text, constant))})"
    if isinstance(constant, frozenset):  # in another order in every process
        return f"{{{','.join(sorted(map(_constant_text, constant)))}}}"
    return f"{type(constant).__name__} {_plain_text(constant)}"


def _plain_text(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # of an integer of more digits than Python writes
        return pickle.dumps(value, protocol=4).hex()


def _function_digest(function: types.FunctionType) -> str:
    """What a function does: an installed one is known by its name, and by its package's version."""
    if is_installed(function):
        return f"{home_of(function)}:{function.__qualname__}"
    return code_digest(function.__code__)


# --- values -----------------------------------------------------------------------------------------------------------


def value_digest(value: Any) -> str:
    """Of a value of any kind: equal for equal values.

    Plain values, containers, tensors, arrays, functions and classes are taken apart here; anything else by what it
    would be pickled as (`__reduce_ex__`), which is how objects of any class say what they are made of. Addresses, hash
    order and sharing do not count. What cannot be taken apart counts as its type.

    Args:
        value: Anything; it is not changed. Reductions of the user's classes run.
    """
    walk = _Walk()
    walk.add(value, 0)
    return walk.digest.hexdigest()


class _Walk:
    """One value, part by part."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)
        self._open: dict[int, int] = {}  # what is being taken apart, by its depth: cycles end there
        self._parts = 0

    def _say(self, *words: str) -> None:
        _add_texts(self.digest, words)

    def add(self, value: Any, depth: int) -> None:
        self._parts += 1
        kind = type(value)
        if is_a(value, _PLAIN) and kind.__module__ == "builtins":
            self._say(kind.__name__, _plain_text(value))
        elif self._parts > _MOST_PARTS or depth > _DEEPEST:
            self._say("and more")
        elif id(value) in self._open:
            self._say("again", str(depth - self._open[id(value)]))
        else:
            self._open[id(value)] = depth
            try:
                self._apart(value, kind, depth)
            except RAISED:  # an object of the user's may raise wherever it is looked at
                self._say("object", _name_of(kind))
            finally:
                del self._open[id(value)]

    def _apart(self, value: Any, kind: type, depth: int) -> None:
        if is_module(value):
            self._say("network", _name_of(kind))
            self.add({key: part for key, part in vars(value).items() if key != "training"}, depth + 1)
            return
        if _tensor_text(value, self._say) or self._named(value) or self._container(value, kind, depth):
            return
        try:
            reduced = value.__reduce_ex__(4)
        except RAISED:
            self._say("object", _name_of(kind))
            own = asked(value, "__dict__")
            if isinstance(own, dict):
                self.add(own, depth + 1)
            return
        if isinstance(reduced, str):
            self._say("named", _name_of(kind), reduced)
            return
        self._say("made", str(len(reduced)))
        parts: list[Any] = [*reduced, None, None, None]
        made, arguments, state, *items = parts[:5]
        if isinstance(state, tuple):  # no attributes are None, or an empty dict once somebody has looked at them
            state = tuple(None if isinstance(part, dict) and not part else part for part in state)
        for part in (made, arguments, state, *(list(part) if part is not None else None for part in items)):
            self.add(part, depth + 1)

    def _named(self, value: Any) -> bool:
        """What a name or its code says all of."""
        if isinstance(value, types.FunctionType):
            self._say("function", _function_digest(value))
            self.add((value.__defaults__, value.__kwdefaults__, vars(value)), len(self._open))
        elif isinstance(value, enum.Enum):
            self._say("enum", _name_of(type(value)), value.name)
            self.add(value.value, len(self._open))
        elif isinstance(value, type):
            self._say("class", _name_of(value))
        elif isinstance(value, types.ModuleType):
            self._say("module", value.__name__)
        elif isinstance(value, types.MethodType):
            self._say("method")
            self.add(value.__func__, len(self._open))
            self.add(value.__self__, len(self._open))
        elif isinstance(value, (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)):
            self._say("built in", str(getattr(value, "__module__", "")), value.__qualname__)
            owner = getattr(value, "__self__", None)
            if owner is not None and not isinstance(owner, (types.ModuleType, type)):
                self.add(owner, len(self._open))
        elif isinstance(value, functools.partial):
            self._say("partial")
            self.add((value.func, value.args, value.keywords), len(self._open))
        elif isinstance(value, contextvars.ContextVar):
            self._say("context variable", value.name)
            self.add(held_in(value), len(self._open))
        else:
            return False
        return True

    def _container(self, value: Any, kind: type, depth: int) -> bool:
        if kind in (tuple, list):
            self._say(kind.__name__, str(len(value)))
            for item in value:
                self.add(item, depth + 1)
        elif kind in (set, frozenset):
            self._say(kind.__name__, *sorted(value_digest(item) for item in value))
        elif kind in (dict, types.MappingProxyType):
            self._say(kind.__name__, str(len(value)))
            for key, item in value.items():
                self.add(key, depth + 1)
                self.add(item, depth + 1)
        elif kind.__module__ == "numpy" and kind.__name__ == "ndarray" and not value.dtype.hasobject:
            self._say("array", str(value.dtype), str(value.shape))
            self.digest.update(value.tobytes())
        else:
            return False
        return True


def _tensor_text(value: Any, say: Callable[..., None]) -> bool:
    if not is_tensor(value):
        return False
    import torch

    name = type(value).__name__
    try:
        if value.is_quantized:
            scheme = str(value.qscheme())
            scale = (value.q_scale(), value.q_zero_point()) if "tensor" in scheme else value.q_per_channel_scales()
            say(name, "quantized", scheme, str(scale), tensor_digest(value.int_repr()))
        elif value.layout is torch.strided and not value.is_nested and not value.is_meta:
            say(name, tensor_digest(value))
        elif value.layout is torch.sparse_coo:
            whole = value.coalesce()
            say(name, "sparse", str(tuple(value.shape)), tensor_digest(whole.indices()), tensor_digest(whole.values()))
        else:
            say(name, str(value.layout), str(value.dtype), str(value.to_dense() if not value.is_meta else value.shape))
    except Exception:
        say(name, "unknown")
    return True


def _name_of(kind: Any) -> str:
    return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"
