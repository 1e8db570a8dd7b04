"""Trees of tensors."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import pytest
import torch

from esen_lab.common.trees import call_with, flatten, map_tensors, select, tree_spec, unflatten
from esen_lab.errors import UsageError

Pair = namedtuple("Pair", "left right")


def test_flatten_and_unflatten_are_inverse() -> None:
    tree = {"a": (torch.ones(1), [torch.zeros(2), None, "x"]), "b": 3}
    leaves, structure = flatten(tree)
    assert len(leaves) == 2
    hash(structure)
    back = unflatten(structure, leaves)
    assert back["b"] == 3
    assert back["a"][1][1:] == [None, "x"]
    assert back["a"][0] is leaves[0]


def test_named_tuples_and_ordered_dicts_count_as_plain_ones() -> None:
    leaves, structure = flatten(OrderedDict(p=Pair(torch.ones(1), torch.ones(1))))
    assert unflatten(structure, [1, 2]) == {"p": (1, 2)}
    assert len(leaves) == 2


def test_anything_else_is_refused_by_path_and_type() -> None:
    with pytest.raises(UsageError, match=r"the output\['cache'\]\[0\] is of type builtins.set"):
        flatten({"cache": [{1}]}, "the output")


def test_a_spec_reads_well() -> None:
    assert str(tree_spec(torch.ones(2, 3))) == "float32[2, 3]"
    assert str(tree_spec({"ids": torch.ones(1, dtype=torch.int64), "n": None})) == "{'ids': int64[1], 'n': None}"


def test_modules_are_called_by_keyword_position_or_alone() -> None:
    assert call_with(lambda a, b: a - b, {"b": 1, "a": 3}) == 2
    assert call_with(lambda a, b: a - b, (3, 1)) == 2
    assert call_with(lambda a: a, 5) == 5


def test_select_takes_the_keys_of_a_dict_and_leaves_the_rest() -> None:
    assert select({"a": 1, "b": 2}, ("b",)) == {"b": 2}
    assert select((1, 2), None) == (1, 2)
    with pytest.raises(UsageError, match="without c"):
        select({"a": 1}, ("a", "c"))


def test_map_keeps_the_structure() -> None:
    doubled = map_tensors(lambda t: t * 2, {"a": torch.ones(1)})
    assert torch.equal(doubled["a"], torch.full((1,), 2.0))
