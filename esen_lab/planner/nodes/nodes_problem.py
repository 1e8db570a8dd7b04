"""What is to be placed: kinds of equal nodes, each with its tables and what transfer costs there.

    n   sub-models, in the order given      K   kinds of nodes      m_k   nodes of kind k
    U_k, t_k   units and table of a node of kind k, t_k[i, u - 1] in seconds, shape (n, U_k)
    f_k        seconds before and after the lanes, whatever runs there: the input, and the way back
    o_k        seconds that each output adds, shape (n,)
    S          a subset of the sub-models, as a bit mask: bit i is sub-model i

A node of kind k has S done at f_k + (its lanes' JCT for S) + the sum of o_k over S, and at 0 where S is empty. Nodes
with equal tables and links are of one kind: which of them gets a subset makes no difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from esen_lab.common.units import check_number
from esen_lab.errors import UsageError
from esen_lab.planner.problem import Array, SearchProblem, Table, make_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLink:
    """How far a node is from whoever calls; a link without arguments is that of the caller's own node.

    A node that runs something has the input first. When its last lane is done, the outputs of all its sub-models go
    back together. They are combined where the caller is.

    Attributes:
        input_s: Seconds from the call until the input is there: measured with an input of the size that will be sent.
        latency_s: Seconds of the way back, however little is sent.
        byte_s: Seconds that each byte of output adds: 1 / bandwidth.
    """

    input_s: float = 0.0
    latency_s: float = 0.0
    byte_s: float = 0.0

    def __post_init__(self) -> None:
        """Check the figures."""
        for one in fields(self):
            rule = f"{one.name} of a node's link is a number of seconds, at least 0"
            hint = "Measure it; a node without a way has 0."
            check_number(getattr(self, one.name), rule, least=0.0, below=math.inf, hint=hint)

    @classmethod
    def of(cls, *, latency_s: float, bytes_per_s: float, input_bytes: int) -> NodeLink:
        """From a latency (one way, in seconds), a bandwidth in bytes a second, and how large an input is.

        Raises:
            UsageError: A figure is not possible.
        """
        check_number(bytes_per_s, "A bandwidth is above 0 bytes a second", above=0.0)
        check_number(input_bytes, "An input has a number of bytes, at least 0", least=0.0)
        return cls(input_s=latency_s + input_bytes / bytes_per_s, latency_s=latency_s, byte_s=1 / bytes_per_s)

    @property
    def is_free(self) -> bool:
        """Whether nothing has to travel."""
        return self == NodeLink()


_Rows = tuple[tuple[float | None, ...], ...]
_Tables = tuple[int, Mapping[str, Table], SearchProblem]
"""The number of tables, what they were made of, and the search of lanes with them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NodeKind:
    """Nodes that are equal.

    Attributes:
        nodes: Their numbers, ascending.
        tables: The number of its tables; kinds that differ in their links alone have the same.
        latencies: What these were made of.
        search: The search of lanes on such a node, for all sub-models.
        table: t_k, running minima.
        fixed_s: f_k.
        output_s: o_k.
    """

    nodes: tuple[int, ...]
    tables: int
    latencies: Mapping[str, Table]
    search: SearchProblem
    table: Array
    fixed_s: float
    output_s: Array

    @property
    def units(self) -> int:
        """U_k."""
        return self.search.units

    @property
    def travels(self) -> bool:
        """Whether anything has to travel to such a node or back."""
        return self.fixed_s > 0 or bool(self.output_s.any())

    def transfer_s(self, mask: int) -> float:
        """Seconds of transfer for a subset, 0 for the empty one."""
        return self.fixed_s + float(sum(self.output_s[i] for i in bits(mask))) if mask else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NodeProblem:
    """One placement's input.

    Attributes:
        names: The sub-models.
        kinds: The kinds of nodes, those with the shortest way first.
        count: How many nodes.
        kind_of: For each node the number of its kind.
    """

    names: tuple[str, ...]
    kinds: tuple[NodeKind, ...]
    count: int
    kind_of: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Number the kinds by node."""
        of = {node: k for k, kind in enumerate(self.kinds) for node in kind.nodes}
        object.__setattr__(self, "kind_of", tuple(of[node] for node in range(self.count)))

    @property
    def everything(self) -> int:
        """The mask of all sub-models."""
        return (1 << len(self.names)) - 1

    def some(self, counts: Sequence[int]) -> NodeProblem:
        """The problem of some of its nodes, numbered anew: so many of each kind, kind by kind."""
        kinds, first = [], 0
        for kind, count in zip(self.kinds, counts, strict=True):
            if count:
                kinds.append(replace(kind, nodes=tuple(range(first, first + count))))
            first += count
        return NodeProblem(names=self.names, kinds=tuple(kinds), count=first)


def node_problem(
    nodes: Sequence[tuple[int, Mapping[str, Table], NodeLink]], output_bytes: Mapping[str, int]
) -> NodeProblem:
    """Check the input, and find the kinds.

    Args:
        nodes: For each node its units, its tables, and its link; all know the same sub-models.
        output_bytes: How many bytes each sub-model answers with; 0 for those not named.

    Raises:
        UsageError: Bad latencies, units or sizes.
        InfeasibleError: Every share of a sub-model is ruled out on a node.
    """
    names = tuple(nodes[0][1])
    sizes = np.array([_size(name, output_bytes.get(name, 0)) for name in names], dtype=np.float64)
    tables: dict[_Rows, _Tables] = {}
    read: dict[tuple[int, int], _Tables] = {}
    alike: dict[tuple[int, float, bytes], list[int]] = {}
    parts: dict[tuple[int, float, bytes], tuple[_Tables, Array]] = {}
    for node, (units, latencies, link) in enumerate(nodes):
        same = (id(latencies), units)
        if same not in read:  # nodes of one profile share their tables, which are read once
            search = make_problem({name: latencies[name] for name in names}, units)
            rows = tuple(tuple(latencies[name]) for name in names)
            read[same] = tables.setdefault(rows, (len(tables), latencies, search))
        fixed_s, output_s = link.input_s + link.latency_s, link.byte_s * sizes
        kind = (read[same][0], fixed_s, output_s.tobytes())
        alike.setdefault(kind, []).append(node)
        parts[kind] = (read[same], output_s)
    kinds = [
        NodeKind(
            nodes=tuple(members),
            tables=number,
            latencies=latencies,
            search=search,
            table=_in_order(search),
            fixed_s=fixed_s,
            output_s=output_s,
        )
        for (_, fixed_s, _), members, ((number, latencies, search), output_s) in zip(
            alike, alike.values(), parts.values(), strict=True
        )
    ]
    kinds.sort(key=lambda kind: (kind.fixed_s + float(kind.output_s.sum()), kind.nodes))
    return NodeProblem(names=names, kinds=tuple(kinds), count=len(nodes))


def _size(name: str, given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < float("inf"):
        raise UsageError("An output has a number of bytes, at least 0", given=f"{given!r} for {name!r}")
    return float(given)


def _in_order(problem: SearchProblem) -> Array:
    """The running-minimum tables in the order of names."""
    table = np.empty_like(problem.table)
    for row, (i,) in zip(problem.table, problem.items, strict=True):
        table[i] = row
    return table


def bits(mask: int) -> Iterator[int]:
    """The sub-models of a subset, ascending."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
