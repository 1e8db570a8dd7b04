"""A module tree as JSON, for saving without pickle: classes by name, plain attributes, and where the tensors go.

Nothing of a class's constructor runs when the tree is decoded: an instance is made with `__new__` and given back the
attributes it had, so lazily made or randomly drawn parts come back as they were. Classes and functions are named by
import path or, for those of the notebook, by their name in source text that is kept with the tree.

    tree    :=  null | true | 3 | "text"                     itself
             |  [tag, ...]                                   everything else
    ["module", class, state]        ["parametrized", class, names, state]      ["object", class, state]
    ["tensor", key, own?]           ["parameter", key, needs_grad, own?]       ["ref", index]
    ["list" | "tuple" | "set" | "frozenset", items...]       ["dict" | "ordered", [key, value]...]
    ["import", path]                ["source", name]                           ["partial", function, args, kwargs]
    ["enum", class, name]           ["torch", name]  ["device", text]  ["size", n...]  ["numpy", key, is_scalar]
    ["float", text]  ["complex", real, imag]  ["bytes", hex]  ["slice", a, b, c]  ["range", a, b, c]  ["ellipsis"]

    class   :=  ["import", path] | ["source", name]
    state   :=  [[attribute, tree]...]
    own     :   the attributes of a tensor, a dict
    ref     :   the same object as the `index`-th module, object, list, set or dict above it in reading order
    key     :   a name in the weights; parameters with one key are one tensor
"""

from __future__ import annotations

import enum
import functools
import math
import types
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from esen_lab.common.surroundings import model_cell
from esen_lab.ensemble.origin import RAISED, import_path, imported
from esen_lab.ensemble.snapshot import is_parametrized, parametrize, parametrized_parts
from esen_lab.ensemble.source import capture_objects
from esen_lab.ensemble.source.closure import Closure, run_closure
from esen_lab.errors import EsenError, StoreError, UsageError

Json = Any
SKELETON_VERSION = 1
# Hooks that act while training, saving or loading; a saved module does none of these.
_NOT_FOR_INFERENCE = frozenset(
    {
        "_backward_hooks",
        "_backward_pre_hooks",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
    }
)
_MOST_BITS = 14_000  # Python writes 4300 digits
_CONTAINERS: dict[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}


def encode(module: nn.Module) -> tuple[dict[str, Json], dict[str, torch.Tensor]]:
    """`module` as a JSON-able skeleton, and its tensors by key (not copied).

    Raises:
        UsageError: Something in it has no such form; the message names where it is.
    """
    encoder = _Encoder(module)
    tree = encoder.encode(module, "")
    things = list(encoder.sources.values())
    try:
        kept = capture_objects(things)
    except EsenError:
        raise
    except RAISED as problem:  # an object of the user's may raise wherever it is looked at
        what = f"of code that reads what cannot be looked at ({type(problem).__name__}: {problem})"
        raise _cannot("", what) from problem
    names = dict(zip(encoder.sources, kept.names, strict=True))
    try:
        tree = _name_sources(tree, names)
    except RecursionError as problem:
        raise _cannot("", "modules within modules, deeper than Python follows") from problem
    return {"version": SKELETON_VERSION, "tree": tree, "source": kept.closure.to_dict()}, encoder.tensors


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of `module` under the keys that `encode` gives them, without looking for any source."""
    encoder = _Encoder(module)
    encoder.encode(module, "")
    return encoder.tensors


def decode(skeleton: Mapping[str, Json], tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """The module that `encode` was given. Runs the kept source; tensors are used as they are, not copied.

    Raises:
        StoreError: It is not a skeleton, or what it names cannot be imported here.
    """
    if not isinstance(skeleton, Mapping) or skeleton.get("version") != SKELETON_VERSION:
        raise StoreError(f"A saved module has version {SKELETON_VERSION}", given=f"{type(skeleton).__name__}")
    closure = Closure.from_dict(skeleton.get("source"))
    names = run_closure(closure, "<source of a saved module>") if closure.text else {}
    try:
        made = _Decoder(tensors, names).decode(skeleton.get("tree"))
    except EsenError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ImportError) as problem:
        raise StoreError(
            "The saved module can be rebuilt here", given=f"{type(problem).__name__}: {problem}"
        ) from problem
    if not isinstance(made, nn.Module):
        raise StoreError("A saved module is a module", given=type(made).__name__)
    return made


class _Encoder:
    def __init__(self, module: nn.Module) -> None:
        self._in_eval = not module.training  # then parts that are in training mode stay so, see `in_lane_mode`
        self.tensors: dict[str, torch.Tensor] = {}
        self.sources: dict[int, Any] = {}
        self._keys: dict[int, str] = {}
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # what has an id in the tables above must not be freed meanwhile
        self._defaults = vars(nn.Module())

    def encode(self, value: Any, where: str) -> Json:
        try:
            return self._encoded(value, where)
        except EsenError:
            raise
        except RAISED as problem:  # an object of the user's may raise wherever it is looked at
            what = f"a {type(value).__qualname__} that cannot be looked at ({type(problem).__name__}: {problem})"
            raise _cannot(where, what) from problem

    def _encoded(self, value: Any, where: str) -> Json:  # noqa: C901, PLR0912  one line per kind of value
        kind = type(value)
        if kind is int and value.bit_length() > _MOST_BITS:
            raise _cannot(where, "an integer of more digits than Python writes")
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else ["float", str(value)]
        if kind is complex:
            return ["complex", self.encode(value.real, where), self.encode(value.imag, where)]
        if kind is bytes:
            return ["bytes", value.hex()]
        if kind in (slice, range):
            return [kind.__name__, *(self.encode(part, where) for part in (value.start, value.stop, value.step))]
        if value is ...:
            return ["ellipsis"]
        if isinstance(value, torch.Tensor):
            return self._tensor(value, where)
        if id(value) in self._seen:
            return ["ref", self._seen[id(value)]]
        if isinstance(value, nn.Module):
            return self._module(value, where)
        if kind in _CONTAINERS:
            if kind in (list, set):  # equal tuples may be one object or two, by chance
                self._remember(value)
            ordered = sorted(value, key=repr) if kind in (set, frozenset) else value
            return [_CONTAINERS[kind], *(self.encode(item, f"{where}[{i}]") for i, item in enumerate(ordered))]
        if kind in (dict, OrderedDict):
            self._remember(value)
            pairs = [[self.encode(k, where), self.encode(v, f"{where}[{k!r}]")] for k, v in value.items()]
            return ["dict" if kind is dict else "ordered", *pairs]
        if isinstance(value, torch.Size):
            return ["size", *value]
        if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
            return ["torch", str(value).removeprefix("torch.")]
        if isinstance(value, torch.device):
            return ["device", str(value)]
        if isinstance(value, enum.Enum):
            return ["enum", self._named(kind, where), value.name]
        if kind is functools.partial:
            parts = (value.func, value.args, value.keywords)
            return ["partial", *(self.encode(part, where) for part in parts)]
        if kind.__module__ == "numpy" and hasattr(value, "dtype") and value.dtype.kind in "biufc":
            return self._numpy(value, where)
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            return self._named(value, where)
        if import_path(value):
            return ["import", import_path(value)]
        return self._object(value, where)

    def _module(self, module: nn.Module, where: str) -> Json:
        if isinstance(module, torch.jit.ScriptModule):
            raise _cannot(where, "a TorchScript module")
        self._remember(module)
        if is_parametrized(module):
            base, names = parametrized_parts(module)
            return ["parametrized", self._named(base, where), list(names), self._state(vars(module), where)]
        state: Any = module.__getstate__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if not isinstance(state, dict):
            raise _cannot(where, f"a {type(module).__name__}, which has slots or a state of its own")
        return ["module", self._named(type(module), where), self._state(state, where)]

    def _state(self, state: Mapping[str, Any], where: str) -> Json:
        """A module's attributes, less those that every new module has anyway."""
        pairs = []
        state = _renumbered_hooks(state)
        for name, value in state.items():
            if name == "training" and value and self._in_eval:
                pairs.append([name, True])
            if (
                name == "training"
                or name in _NOT_FOR_INFERENCE
                or (name in self._defaults and _same_default(self._defaults[name], value))
            ):
                continue
            if name in ("_parameters", "_buffers", "_modules"):
                self._remember(value)
                inner = [[key, self.encode(part, _join(where, key))] for key, part in value.items()]
                pairs.append([name, ["ordered" if type(value) is OrderedDict else "dict", *inner]])
                continue
            pairs.append([name, self.encode(value, _join(where, name))])
        return pairs

    def _object(self, value: Any, where: str) -> Json:
        """An instance with plain attributes, of a class that leaves pickling to Python."""
        kind = type(value)
        plain = not any({"__reduce__", "__reduce_ex__"} & vars(base).keys() for base in kind.__mro__[:-1])
        own = any("__getstate__" in vars(base) or "__setstate__" in vars(base) for base in kind.__mro__[:-1])
        slots = any(vars(base).get("__slots__") for base in kind.__mro__)
        if (
            not plain
            or own
            or slots
            or not hasattr(value, "__dict__")
            or kind.__basicsize__ > _PlainObject.__basicsize__
        ):
            raise _cannot(where, f"a {kind.__module__}.{kind.__qualname__}")
        self._remember(value)
        pairs = [[name, self.encode(part, _join(where, name))] for name, part in vars(value).items()]
        return ["object", self._named(kind, where), pairs]

    def _tensor(self, tensor: torch.Tensor, where: str) -> Json:
        if type(tensor) not in (torch.Tensor, nn.Parameter, nn.Buffer):
            raise _cannot(where, f"a tensor of type {type(tensor).__name__}")
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
            raise _cannot(where, f"a tensor that is {tensor.layout} {tensor.dtype} on {tensor.device}")
        key = self._keys.get(id(tensor))
        if key is None:
            key = where or "value"
            while key in self.tensors:
                key += "'"
            self._keys[id(tensor)] = key
            self._alive.append(tensor)
            self.tensors[key] = tensor
        own = [self.encode(vars(tensor), where)] if vars(tensor) else []
        if isinstance(tensor, nn.Parameter) and type(tensor) is nn.Parameter:
            return ["parameter", key, tensor.requires_grad, *own]
        return ["tensor", key, *own]

    def _numpy(self, value: Any, where: str) -> Json:
        import numpy

        scalar = isinstance(value, numpy.generic)
        try:
            tensor = torch.from_numpy(numpy.array(value, copy=True))
        except (TypeError, ValueError) as problem:  # a kind of number, or an order of bytes, that torch has not
            raise _cannot(where, f"a numpy value of dtype {value.dtype}") from problem
        inner = self._tensor(tensor, where)
        return ["numpy", inner[1], scalar]

    def _named(self, thing: Any, where: str) -> Json:
        path = import_path(thing)
        if path:
            return ["import", path]
        if isinstance(thing, (type, types.FunctionType)):
            self.sources[id(thing)] = thing
            return ["source", id(thing)]
        raise _cannot(where, f"{thing!r}")

    def _remember(self, value: Any) -> None:
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)


class _PlainObject:
    """Its size is that of an instance with attributes and nothing else."""


class _Decoder:
    def __init__(self, tensors: Mapping[str, torch.Tensor], names: Mapping[str, Any]) -> None:
        self._tensors = tensors
        self._names = names
        self._made: dict[str, torch.Tensor] = {}
        self._seen: list[Any] = []

    def decode(self, tree: Json) -> Any:  # noqa: C901, PLR0912  one line per tag
        if not isinstance(tree, list):
            return tree
        tag, *rest = tree
        match tag:
            case "module" | "parametrized" | "object":
                return self._instance(tag, rest)
            case "tensor" | "parameter":
                return self._tensor(tag, rest)
            case "ref":
                return self._seen[rest[0]]
            case "list":
                made: list[Any] = []
                self._seen.append(made)
                made.extend(map(self.decode, rest))
                return made
            case "set":
                members: set[Any] = set()
                self._seen.append(members)
                members.update(map(self.decode, rest))
                return members
            case "tuple" | "frozenset":
                return (tuple if tag == "tuple" else frozenset)(map(self.decode, rest))
            case "dict" | "ordered":
                table: dict[Any, Any] = {} if tag == "dict" else OrderedDict()
                self._seen.append(table)
                for key, value in rest:
                    decoded = self.decode(key)
                    table[decoded] = self.decode(value)
                return table
            case "import" | "source":
                return self._named(tree)
            case "partial":
                function, args, kwargs = (self.decode(part) for part in rest)
                return functools.partial(function, *args, **kwargs)
            case "enum":
                return self._named(rest[0])[rest[1]]
            case "torch":
                return _torch_constant(rest[0])
            case "device":
                return torch.device(rest[0])
            case "size":
                return torch.Size(rest)
            case "numpy":
                array = self._tensors[rest[0]].numpy()
                return array[()] if rest[1] else array
            case "float":
                return float(rest[0])
            case "complex":
                return complex(self.decode(rest[0]), self.decode(rest[1]))
            case "bytes":
                return bytes.fromhex(rest[0])
            case "slice":
                return slice(*map(self.decode, rest))
            case "range":
                return range(*rest)
            case "ellipsis":
                return ...
        raise StoreError("A saved module holds known kinds of values", given=f"{tag!r}")

    def _instance(self, tag: str, rest: list[Json]) -> Any:
        cls = self._named(rest[0])
        if not isinstance(cls, type) or (tag != "object" and not issubclass(cls, nn.Module)):
            raise StoreError("A saved module names module classes", given=f"{cls!r}")
        made: Any = cast("Any", cls).__new__(cls)
        self._seen.append(made)
        if tag == "object":
            vars(made).update((name, self.decode(value)) for name, value in rest[1])
            return made
        state = {**vars(nn.Module()), "training": False}
        for name, value in rest[-1]:
            state[name] = self.decode(value)
        if tag == "module":
            made.__setstate__(state)
        else:
            vars(made).update(state)
            parametrize(made, tuple(rest[1]))
        return made

    def _tensor(self, tag: str, rest: list[Json]) -> torch.Tensor:
        key = rest[0]
        if key not in self._made:
            tensor = self._tensors[key]
            # Tensors that shared memory arrive as one object; each key is a tensor of its own on that memory.
            parameter = tag == "parameter"
            self._made[key] = nn.Parameter(tensor, requires_grad=rest[1]) if parameter else tensor.detach()
            vars(self._made[key]).update(*map(self.decode, rest[1 + parameter :]))
        return self._made[key]

    def _named(self, tree: Json) -> Any:
        kind, name = tree
        if kind == "source":
            return self._names[name]
        return imported(name)


def _torch_constant(name: str) -> Any:
    found = getattr(torch, name, None)
    if not isinstance(found, (torch.dtype, torch.layout, torch.memory_format)):
        raise StoreError("A saved module names dtypes, layouts and memory formats of torch", given=name)
    return found


def _name_sources(tree: Json, names: Mapping[int, str]) -> Json:
    """Put names in the place of ids, once the source has been collected."""
    if not isinstance(tree, list):
        return tree
    if len(tree) == 2 and tree[0] == "source" and isinstance(tree[1], int):
        return ["source", names[tree[1]]]
    return [_name_sources(part, names) for part in tree]


def _renumbered_hooks(state: Mapping[str, Any]) -> dict[str, Any]:
    """Hooks under 0, 1, ...: their numbers come from a counter of the whole session and mean nothing elsewhere."""
    tables = {
        name: value
        for name, value in state.items()
        if "_hooks" in name and isinstance(value, dict) and value and all(type(key) is int for key in value)
    }
    numbers = {old: new for new, old in enumerate(sorted({key for table in tables.values() for key in table}))}
    renamed = {name: type(table)((numbers[k], v) for k, v in table.items()) for name, table in tables.items()}
    return {**state, **renamed}


def _same_default(default: Any, value: Any) -> bool:
    return (
        type(default) is type(value) and (default is None or isinstance(value, (bool, dict, set))) and default == value
    )


def _join(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _cannot(where: str, what: str) -> UsageError:
    return UsageError(
        "A module can be saved without pickle when its attributes are plain values, tensors, modules and functions",
        given=f"{where or 'it'} is {what}",
        hint=f"Build the sub-model {model_cell()} instead.",
    )
