from __future__ import annotations

import collections
import json
import math
from typing import Any

import pytest
import torch

from esen_lab.ensemble.combine import Combine, make_combine
from esen_lab.errors import StoreError, UsageError

A = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 4.0]])
B = torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
C = torch.tensor([[5.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
OUT = {"a": A, "b": B, "c": C}


def the_sum(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return sum(outputs.values())  # type: ignore[return-value]


def again(combine: Combine) -> Combine:
    return Combine.from_dict(json.loads(json.dumps(combine.to_dict())))


def test_mean_is_the_mean_over_submodels() -> None:
    torch.testing.assert_close(make_combine("mean")(OUT), (A + B + C) / 3)


def test_softmax_mean_gives_probabilities() -> None:
    found = make_combine("softmax-mean")(OUT)
    torch.testing.assert_close(found, torch.stack([t.softmax(-1) for t in OUT.values()]).mean(0))
    torch.testing.assert_close(found.sum(-1), torch.ones(2))


def test_weights_by_name_and_by_order_agree_and_are_normalised() -> None:
    expected = 0.5 * A + 0.25 * B + 0.25 * C
    by_name = make_combine("weighted", weights={"c": 1, "a": 2, "b": 1})
    torch.testing.assert_close(by_name(OUT), expected)
    torch.testing.assert_close(make_combine("weighted", weights=[2, 1, 1])(OUT), expected)
    assert by_name.describe() == "weighted (c 0.25, a 0.50, b 0.25)"


def test_majority_votes_and_breaks_ties_by_probability() -> None:
    # Row 0: classes 1, 0, 0. Row 1: classes 2, 1, 1.
    assert make_combine("majority")(OUT).tolist() == [0, 1]
    two = {"a": torch.tensor([0.0, 2.0, 0.0]), "b": torch.tensor([3.0, 0.0, 0.0])}
    assert make_combine("majority")(two).item() == 0, "one vote each; class 0 has more probability"
    assert make_combine("majority")({"a": two["a"] * 3, "b": two["b"]}).item() == 1


def test_a_class_without_a_vote_never_wins_by_probability() -> None:
    out = {"a": torch.tensor([5.0, 4.9, -9.0]), "b": torch.tensor([-9.0, 4.9, 5.0])}
    assert make_combine("majority")(out).item() in (0, 2)


def test_stack_keeps_every_output_and_whole_numbers_too() -> None:
    assert torch.equal(make_combine("stack")(OUT), torch.stack([A, B, C]))
    assert make_combine("stack")({"a": torch.tensor([1]), "b": torch.tensor([2])}).tolist() == [[1], [2]]


@pytest.mark.parametrize("rule", ["mean", "softmax-mean", "stack", "majority"])
def test_half_precision_is_added_up_in_single(rule: str) -> None:
    half = {name: tensor.to(torch.bfloat16) for name, tensor in OUT.items()}
    found = make_combine(rule)(half)
    single = make_combine(rule)({name: tensor.float() for name, tensor in half.items()})
    assert torch.equal(found, single.to(found.dtype))
    assert found.dtype == (torch.int64 if rule == "majority" else torch.bfloat16)


def test_mixed_precision_takes_the_wider_dtype() -> None:
    assert make_combine("mean")({"a": A.half(), "b": B}).dtype == torch.float32


@pytest.mark.parametrize("rule", ["mean", "softmax-mean", "stack", lambda o: o["a"], lambda o: {"x": o["b"][0]}])
def test_a_result_never_shares_memory_with_an_output(rule: Any) -> None:
    outputs = {name: tensor.clone() for name, tensor in OUT.items()}
    result = make_combine(rule)(outputs)
    leaf = result["x"] if isinstance(result, dict) else result
    before = leaf.clone()
    for tensor in outputs.values():
        tensor.fill_(-7)
    assert torch.equal(leaf, before)


def test_what_a_function_keeps_of_its_outputs_and_returned_stays_as_it_was() -> None:
    kept: list[Any] = []
    rule = make_combine(lambda outputs: (kept.append(outputs), outputs["a"]["y"][:1])[1])
    memory = torch.ones(2, 3)  # as lanes write into it, run after run
    answer = rule({"a": {"y": memory}})
    memory.fill_(7)
    assert torch.equal(kept[0]["a"]["y"], torch.ones(2, 3))
    assert torch.equal(answer, torch.ones(1, 3))


def test_only_functions_of_the_users_own_get_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []
    clone = torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda tensor: (copies.append(1), clone(tensor))[1])
    make_combine(the_sum)(OUT)
    assert len(copies) == len(OUT)
    for name in ("mean", "softmax-mean", "majority", "stack"):
        make_combine(name)(OUT)
    assert len(copies) == len(OUT)


def test_one_submodel_is_copied_too() -> None:
    only = {"a": A.clone()}
    found = make_combine("mean")(only)
    only["a"].fill_(0)
    assert torch.equal(found, A)


def test_outputs_are_not_changed() -> None:
    outputs = {name: tensor.clone() for name, tensor in OUT.items()}
    for rule in ("mean", "softmax-mean", "majority", "stack"):
        make_combine(rule)(outputs)
    make_combine("weighted", weights=[1, 2, 3])(outputs)
    assert all(torch.equal(outputs[name], OUT[name]) for name in OUT)


def test_trees_are_combined_leaf_by_leaf() -> None:
    found = make_combine("mean")({"a": (A, [B, None]), "b": (B, [A, None])})
    assert isinstance(found, tuple)
    assert isinstance(found[1], list)
    assert torch.equal(found[0], (A + B) / 2)
    assert found[1][1] is None


def test_constants_that_are_no_number_are_the_same_in_all_members() -> None:
    found = make_combine("mean")({"a": (A, float("nan")), "b": (B, float("nan"))})
    assert torch.equal(found[0], (A + B) / 2)
    assert math.isnan(found[1])
    with pytest.raises(UsageError, match="one structure"):
        make_combine("mean")({"a": (A, float("nan")), "b": (B, 0.0)})


def test_of_dicts_the_common_keys_that_fit_are_combined() -> None:
    hugging = collections.OrderedDict(logits=A, hidden=(A, B), label=torch.tensor([1]))
    other = {"logits": B, "hidden": (A,), "label": torch.tensor([0]), "loss": torch.tensor(1.0)}
    found = make_combine("mean")({"a": hugging, "b": other})
    assert list(found) == ["logits"]
    assert torch.equal(found["logits"], (A + B) / 2)


def test_dicts_with_nothing_to_combine_say_why() -> None:
    with pytest.raises(UsageError, match=r"(?s)at least one key.*int64"):
        make_combine("mean")({"a": {"label": torch.tensor([1])}, "b": {"label": torch.tensor([2])}})
    with pytest.raises(UsageError, match="at least one key"):
        make_combine("mean")({"a": {"x": A}, "b": {"y": A}})


@pytest.mark.parametrize("rule", ["mean", "softmax-mean", "majority", "stack"])
def test_outputs_of_other_shapes_name_the_submodels(rule: str) -> None:
    with pytest.raises(UsageError, match=r"one shape.*wide float32\[2, 3\], thin float32\[2\]"):
        make_combine(rule)({"wide": A, "thin": A[:, 0]})


@pytest.mark.parametrize("rule", ["mean", "softmax-mean", "majority"])
def test_whole_numbers_have_no_mean(rule: str) -> None:
    with pytest.raises(UsageError, match=r"floating-point.*a int64\[1\]"):
        make_combine(rule)({"a": torch.tensor([1]), "b": torch.tensor([2])})


def test_a_scalar_has_no_classes() -> None:
    with pytest.raises(UsageError, match="last dimension"):
        make_combine("majority")({"a": torch.tensor(1.0)})


def test_different_structures_are_refused() -> None:
    with pytest.raises(UsageError, match=r"one structure.*a tuple of 1"):
        make_combine("mean")({"a": (A,), "b": A})


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (None, "needs weights"),
        ([1, float("nan")], "finite"),
        ([1, -1], "at least 0"),
        ({"a": "1"}, "finite number"),
        ([0, 0], "more than 0"),
        ([], "more than 0"),
        ([True, 1], "finite number"),
    ],
)
def test_weights_are_checked(weights: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_combine("weighted", weights=weights)


def test_weights_may_be_numbers_of_numpy_and_torch() -> None:
    import numpy as np

    wanted = make_combine("weighted", weights={"a": 0.25, "b": 0.75})
    assert make_combine("weighted", weights={"a": np.float32(1), "b": np.int64(3)}) == wanted
    assert make_combine("weighted", weights={"a": torch.tensor(1.0), "b": torch.tensor(3)}) == wanted
    with pytest.raises(UsageError, match="A weight is a finite number"):
        make_combine("weighted", weights=[np.float32("nan"), np.float32(1)])


def test_weights_fit_the_ensemble() -> None:
    with pytest.raises(UsageError, match="2 weights"):
        make_combine("weighted", weights=[1, 2])(OUT)
    with pytest.raises(UsageError, match="none for c, one for d"):
        make_combine("weighted", weights={"a": 1, "b": 1, "d": 1})(OUT)


def test_weights_belong_to_one_rule() -> None:
    with pytest.raises(UsageError, match="belong to the rule 'weighted'"):
        make_combine("mean", weights=[1])


def test_an_unknown_rule_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"majority.*weighted.*Given: best"):
        make_combine("best")


def test_nothing_to_combine_is_an_error() -> None:
    with pytest.raises(UsageError, match="Register a sub-model"):
        make_combine("mean")({})


def test_a_function_gets_the_outputs_by_name_in_order() -> None:
    seen: list[list[str]] = []
    make_combine(lambda outputs: seen.append(list(outputs)) or outputs["a"])(OUT)
    assert seen == [["a", "b", "c"]]


def test_a_function_that_raises_is_named() -> None:
    def picky(outputs: Any) -> Any:
        raise KeyError("nope")

    with pytest.raises(UsageError, match=r"'picky' raised.*KeyError") as caught:
        make_combine(picky)(OUT)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_function_that_returns_something_else_is_an_error() -> None:
    with pytest.raises(UsageError, match="result of the combine rule"):
        make_combine(lambda outputs: object())(OUT)


def test_a_path_is_imported_and_saved_as_a_path() -> None:
    rule = make_combine("models:mlp") if False else make_combine("operator:itemgetter")
    assert rule.to_dict() == {"rule": "import", "path": "operator:itemgetter"}
    assert again(rule).function is rule.function


@pytest.mark.parametrize("path", ["nowhere_at_all:f", "math:nothing", "math:pi", ":x"])
def test_a_path_that_leads_nowhere_is_an_error(path: str) -> None:
    with pytest.raises(UsageError):
        make_combine(path)


@pytest.mark.parametrize(
    "combine",
    [make_combine("mean"), make_combine("stack"), make_combine("weighted", weights={"a": 1, "b": 2, "c": 3})],
    ids=lambda c: c.name,
)
def test_a_rule_survives_saving(combine: Combine) -> None:
    assert again(combine) == combine
    assert torch.equal(again(combine)(OUT), combine(OUT))


def test_a_function_of_the_notebook_is_saved_as_source(notebook: Any) -> None:
    notebook.run("SCALE = 3")
    notebook.run(
        "def helper(t):\n    return t * SCALE\n\ndef rule(outputs):\n    return helper(sum(outputs.values()))\n"
    )
    kept = make_combine(notebook.names["rule"])
    assert kept.describe() == "rule() of the notebook"
    assert "SCALE = 3" in json.dumps(kept.to_dict())
    assert torch.equal(again(kept)(OUT), kept(OUT))


def test_a_function_of_the_notebook_is_saved_with_what_it_reads_as_that_is_now(notebook: Any) -> None:
    notebook.run("SCALE = 3\nWEIGHTS = [1.0]")
    notebook.run("def helper(t):\n    return t * SCALE\n")
    notebook.run("def rule(outputs):\n    return helper(sum(outputs.values())) * WEIGHTS[0]\n")
    kept = make_combine(notebook.names["rule"])
    notebook.run("SCALE = 5\nWEIGHTS[0] = 0.5\ndef helper(t):\n    return t + SCALE\n")
    assert torch.equal(again(kept)(OUT), kept(OUT))
    assert again(kept).to_dict() == kept.to_dict(), "what was read has no notebook any more"


def test_a_lambda_of_the_notebook_is_saved_as_source(notebook: Any) -> None:
    notebook.run("rules = [lambda outputs: outputs['a'], lambda outputs: outputs['b'] + 1]")
    kept = make_combine(notebook.names["rules"][1])
    assert torch.equal(again(kept)(OUT), B + 1)


def test_a_function_whose_source_is_lost_runs_but_is_not_saved() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("def rule(outputs):\n    return outputs['a']", names)
    rule = make_combine(names["rule"])
    assert torch.equal(rule(OUT), A)
    with pytest.raises(UsageError, match=r"'rule' cannot be kept.*no text"):
        rule.to_dict()


@pytest.mark.parametrize("data", [None, {}, {"rule": 3}, {"rule": "unheard"}, {"rule": "source"}, {"rule": "weighted"}])
def test_a_damaged_saved_rule_is_refused(data: Any) -> None:
    with pytest.raises(StoreError):
        Combine.from_dict(data)
