"""Indices and divisors of a graph that come from its input, and what they must be.

PyTorch raises where an index is beyond what it points into, and where a whole number is divided by 0. Engines answer.
Which numbers can be so is computed with intervals, from the inputs on:

    [l, h]   all values that a node can have; None: any
    rows     what an index points into: 0 .. rows - 1, for `x[i]` from -rows on

What cannot be shown to lie within is computed anew at each call, where few cheap operators lead to it; where others
do, the widest range in which probes agree stands in (`_agreement.py`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import fx

from esen_lab.lanes.backends._guards import NOT_ZERO, Check, Range

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_MOST_OPERATORS = 8  # computed anew at each call, for one check
Interval: TypeAlias = tuple[float, float]
_MOVING = frozenset({"select", "slice", "cumsum", "sum", "mean", "amax", "amin"})  # cheap, and not all of the values
_SAME_VALUES = frozenset(
    {
        *("view", "reshape", "flatten", "unflatten", "_unsafe_view", "view_as", "squeeze", "unsqueeze"),
        *("expand", "expand_as", "repeat", "permute", "transpose", "t", "movedim", "select", "slice"),
        *("clone", "contiguous", "alias", "detach", "lift_fresh_copy", "to", "_to_copy"),
    }
)
_POINT = frozenset(
    {"gather", "scatter", "scatter_add", "scatter_reduce", "index_select", "index_add", "index_copy", "index_fill"}
)
_DIVIDES = frozenset({"floor_divide", "div", "remainder", "fmod"})
_PLACES = frozenset({"argmax", "argmin", "argsort"})
_PAIRS = {"sort": 1, "topk": 2, "max": 1, "min": 1, "kthvalue": 2}
"""What gives values and their places, and which argument says in which dimension."""
_BOUNDARIES = {"bucketize": 1, "searchsorted": 0}
"""What gives places between boundaries, and which argument these are."""


def checks_of(program: ExportedProgram) -> list[Check]:
    """What the inputs of a traced sub-model must be so that PyTorch does not raise, as far as it can be told."""
    graph = _Graph(program)
    found: dict[tuple[str, Range], Check] = {}
    for node, within in _needs(program):
        if graph.is_shown(node, within):
            continue
        check = graph.check(node, within)
        if check is not None:
            found.setdefault((node.name, within), check)
    return list(found.values())


def narrows_floats(program: ExportedProgram) -> bool:
    """Whether a graph makes of floats what a huge one is too large for: whole numbers of 64 bits, or float16."""
    return any(
        node.op == "call_function"
        and _dtype(node) in {torch.int64, torch.float16}
        and _places(node) is None
        and any(
            (dtype := _dtype(before)) is not None and dtype.is_floating_point and dtype is not torch.float16
            for before in node.all_input_nodes
        )
        for node in program.graph.nodes
    )


def _needs(program: ExportedProgram) -> Iterator[tuple[fx.Node, Range]]:
    """The nodes that must lie within a range."""
    for node in program.graph.nodes:
        if node.op == "call_function":
            for index, within in _needs_of(node, _name(node), node.args):
                if isinstance(index, fx.Node) and within is not None:
                    yield index, within


def _needs_of(node: fx.Node, name: str, args: Sequence[Any]) -> Iterator[tuple[Any, Range | None]]:
    if name in {"embedding", "embedding_bag", "_embedding_bag"}:
        yield args[1], _rows(args[0], 0)
    elif name in _POINT:
        yield args[2], _rows(args[0], args[1])
    elif name == "take":
        size = _size(args[0], None)
        yield args[1], (-size, size - 1) if isinstance(size, int) else None
    elif name == "one_hot":
        yield args[0], (0, args[1] - 1)
    elif name in {"index", "index_put", "_unsafe_index"}:
        for dim, index in enumerate(args[1]):
            if isinstance(index, fx.Node) and _dtype(index) not in {torch.bool, torch.uint8}:
                yield index, _rows(args[0], dim, also_from_the_end=True)
    elif name in _DIVIDES and _is_whole(node) and len(args) > 1 and _is_whole(args[1]):
        yield args[1], NOT_ZERO


def _rows(node: fx.Node, dim: int, *, also_from_the_end: bool = False) -> Range | None:
    """The places in a dimension; None where its size was left open, and is another one in each look."""
    shape = node.meta["val"].shape
    size = shape[dim] if shape else 1
    if not isinstance(size, int):
        return None
    return (-size if also_from_the_end else 0, size - 1)


def _name(node: fx.Node) -> str:
    name = getattr(node.target, "_schema", None)
    return "" if name is None else name.name.removeprefix("aten::").removesuffix("_")


def _dtype(node: Any) -> torch.dtype | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dtype if isinstance(value, torch.Tensor) else None


def _is_whole(node: Any) -> bool:
    dtype = _dtype(node)
    return dtype is not None and not dtype.is_floating_point and not dtype.is_complex


class _Graph:
    """A graph with what is known of its values."""

    def __init__(self, program: ExportedProgram) -> None:
        signature = program.graph_signature
        self._inputs = {name: index for index, name in enumerate(signature.user_inputs)}
        known = {**program.state_dict, **program.constants}
        held = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self._held = {name: known[target] for name, target in held.items() if target in known}
        self._intervals: dict[fx.Node, Interval | None] = {}
        for node in program.graph.nodes:
            self._intervals[node] = self._interval(node)
        self._reached = self._reached_nodes(program.graph)

    def _reached_nodes(self, graph: fx.Graph) -> set[fx.Node]:
        """The nodes whose values depend on those of an input, and not only on its sizes."""
        reached: set[fx.Node] = set()
        for node in graph.nodes:
            if node.name in self._inputs or (
                _name(node) != "sym_size" and any(before in reached for before in node.all_input_nodes)
            ):
                reached.add(node)
        return reached

    def is_shown(self, node: fx.Node, within: Range) -> bool:
        """Whether no input brings a node outside of a range."""
        if node not in self._reached:
            return True  # the same at every call, and so looked at by the first
        interval = self._intervals[node]
        if interval is None:
            return False
        if within == NOT_ZERO:
            return interval[0] > 0 or interval[1] < 0
        return within[0] <= interval[0] and interval[1] <= within[1]

    def check(self, node: fx.Node, within: Range) -> Check | None:
        """What computes a node anew; None where that would take more than a few cheap operators."""
        while _name(node) in _SAME_VALUES - _MOVING and _is_whole(node) and _is_whole(node.args[0]):
            node = node.args[0]  # type: ignore[assignment]
        leaf = self._inputs.get(node.name)
        if leaf is not None:
            return Check(compute=lambda leaves: leaves[leaf], within=within, leaf=leaf)
        computed = self._computed(node)
        return None if computed is None else Check(compute=computed, within=within)

    def _computed(self, wanted: fx.Node) -> Callable[[Sequence[torch.Tensor]], torch.Tensor] | None:
        part, held = fx.Graph(), torch.nn.Module()
        nodes = _before(wanted)
        operators = [node for node in nodes if node.op == "call_function"]
        if len(operators) > _MOST_OPERATORS or not all(_is_cheap(node) for node in operators):
            return None
        copies: dict[fx.Node, fx.Node] = {}
        names = list(self._inputs)
        for name in names:
            part.placeholder(name)
        placed = {node.name: node for node in part.nodes}
        for node in nodes:
            if node.name in self._inputs:
                copies[node] = placed[names[self._inputs[node.name]]]
            elif node.name in self._held:
                held.register_buffer(f"held_{node.name}", self._held[node.name].detach())
                copies[node] = part.get_attr(f"held_{node.name}")
            elif node.op == "call_function":
                copies[node] = part.node_copy(node, copies.__getitem__)
            else:
                return None
        part.output(copies[wanted])
        module = fx.GraphModule(held, part)
        return lambda leaves: module(*leaves)

    def _interval(self, node: fx.Node) -> Interval | None:
        if node.name in self._held:
            tensor = self._held[node.name]
            whole = tensor.numel() and not tensor.is_floating_point() and not tensor.is_complex()
            return (float(tensor.min()), float(tensor.max())) if whole else None
        dtype = _dtype(node)
        if node.op != "call_function" or dtype is None or not _is_whole(node):
            return None  # of floats nothing is known: they may be NaN
        if dtype is torch.bool:
            return (0, 1)
        found = self._computed_interval(node)
        info = torch.iinfo(dtype)
        return found if found is not None and info.min <= found[0] and found[1] <= info.max else None  # else it wraps

    def _computed_interval(self, node: fx.Node) -> Interval | None:
        name, args = _name(node), node.args
        if (places := _places(node)) is not None:
            return (0, places - 1) if isinstance(places, int) else None
        if name in _SAME_VALUES:
            return _of(args[0], self._intervals)
        make = _RULES.get(name)
        if make is None or node.kwargs.get("alpha", 1) != 1:
            return None
        return make(node, *(_of(arg, self._intervals) for arg in args))


def _places(node: fx.Node) -> Any:
    """Among how many places a node finds some; a symbol where that was left open, None where it finds none."""
    name, args = _name(node), node.args
    if name in _PLACES:
        return _size(args[0], _argument(node, 1, "dim", -1 if name == "argsort" else None))
    if name in _BOUNDARIES:
        ends = _size(args[_BOUNDARIES[name]], None if name == "bucketize" else -1)
        return ends + 1 if isinstance(ends, int) else ends
    before = args[0] if node.target is operator.getitem else None
    if isinstance(before, fx.Node) and _name(before) in _PAIRS and args[1] == 1:
        position = _PAIRS[_name(before)]
        return _size(before.args[0], _argument(before, position, "dim", -1))
    return None


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _size(node: Any, dim: Any) -> Any:
    """How many numbers a tensor has in a dimension; in all where that is None."""
    value = node.meta["val"]
    if dim is None:
        return value.numel()
    return value.shape[dim] if value.dim() else 1


def _is_cheap(node: fx.Node) -> bool:
    name = _name(node)
    if name in _SAME_VALUES or name in _MOVING or name in {"sym_size", "arange"}:
        return True
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def _before(wanted: fx.Node) -> list[fx.Node]:
    """A node with all that it is computed of, in the order of the graph."""
    found, left = {wanted}, [wanted]
    while left:
        for node in left.pop().all_input_nodes:
            if node not in found:
                found.add(node)
                left.append(node)
    return [node for node in wanted.graph.nodes if node in found]


def _of(value: Any, known: Mapping[fx.Node, Interval | None]) -> Interval | None:
    if isinstance(value, fx.Node):
        return known.get(value)
    if isinstance(value, int | float):
        return (float(value), float(value))
    return None


def _corners(of: Callable[[float, float], float]) -> Callable[..., Interval | None]:
    def made(_: fx.Node, one: Interval | None = None, other: Interval | None = None, *__: Any) -> Interval | None:
        if one is None or other is None:
            return None
        values = [of(a, b) for a in one for b in other]
        return (min(values), max(values))

    return made


def _clamp(_: fx.Node, x: Interval | None, least: Interval | None = None, most: Interval | None = None) -> Interval:
    low, high = x or (-math.inf, math.inf)
    floor, ceiling = (least or (-math.inf,))[0], (most or (math.inf, math.inf))[1]
    return (min(max(low, floor), ceiling), min(max(high, floor), ceiling))


def _remainder(_: fx.Node, __: Interval | None, by: Interval | None = None) -> Interval | None:
    return (0, by[1] - 1) if by is not None and by[0] == by[1] > 0 else None


def _union(_: fx.Node, __: Any, one: Interval | None = None, other: Interval | None = None) -> Interval | None:
    return None if one is None or other is None else (min(one[0], other[0]), max(one[1], other[1]))


def _cumsum(node: fx.Node, x: Interval | None, *_: Any) -> Interval | None:
    dim = node.args[1]
    size = node.meta["val"].shape[dim] if isinstance(dim, int) else None
    return (min(0.0, x[0] * size), max(0.0, x[1] * size)) if x is not None and isinstance(size, int) else None


_RULES: Mapping[str, Callable[..., Interval | None]] = {
    "add": _corners(lambda a, b: a + b),
    "sub": _corners(lambda a, b: a - b),
    "mul": _corners(lambda a, b: a * b),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda node, x, most: _clamp(node, x, None, most),
    "remainder": _remainder,
    "where": _union,
    "cumsum": _cumsum,
}
