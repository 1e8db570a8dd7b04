"""Trees of tensors."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import pytest
import torch

from esen_lab.common.inputs import take_in
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


def test_ordered_dicts_count_as_plain_ones_and_named_tuples_stay_what_they_are() -> None:
    leaves, structure = flatten(OrderedDict(p=Pair(torch.ones(1), [torch.ones(1)])))
    back = unflatten(structure, [1, 2])
    assert back == {"p": (1, [2])}
    assert (type(back), type(back["p"]), back["p"].right) == (dict, Pair, [2])
    assert len(leaves) == 2
    assert str(tree_spec(Pair(torch.ones(1), 3))) == "Pair(left=float32[1], right=3)"


def test_the_tuples_of_torch_stay_what_they_are() -> None:
    found = torch.max(torch.eye(3), 1)
    back = map_tensors(lambda t: t + 1, found)
    assert type(back) is type(found)
    assert back.indices.tolist() == [1, 2, 3]


def test_a_class_that_is_not_here_is_stood_for_by_one_of_its_name_and_fields() -> None:
    structure = ("named", (("tensor",), ("const", 3)), "a_module_that_is_not_here:Outer.Found", ("u", "v"))
    made = unflatten(structure, [1])
    assert (made.u, made.v, type(made).__name__) == (1, 3, "Found")
    assert flatten(unflatten(structure, [torch.ones(1)]))[1] == structure


def test_a_class_of_that_name_with_other_fields_is_not_taken_for_it() -> None:
    place = f"{Pair.__module__}:Pair"
    made = unflatten(("named", (("tensor",),), place, ("only",)), [1])
    assert not isinstance(made, Pair)
    assert made.only == 1


def made_inside() -> type:
    return namedtuple("Inside", "u v")


def test_a_class_that_nobody_finds_by_its_name_is_refused_where_it_goes_in() -> None:
    hidden = made_inside()(torch.ones(1), 2)
    with pytest.raises(UsageError, match=r"the input\['x'\]\[0\] is a .*Inside"):
        take_in({"x": [hidden]})


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
