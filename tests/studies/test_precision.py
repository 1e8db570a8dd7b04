"""What another precision does to answers, judged. What members answer is scripted: nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from models import mlp

from esen_lab.devices import CpuDevice
from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.errors import UsageError, WorkerDied
from esen_lab.studies import PrecisionTable
from esen_lab.studies import precision as module
from esen_lab.studies.precision import allowed_error, check_precision

N = 40
X = torch.randn(N, 8, generator=torch.Generator().manual_seed(0))
SCORES = torch.nn.functional.one_hot(torch.arange(N) % 3, 3).float()
Answer = Callable[[torch.Tensor, torch.Tensor], Any]
"""Makes of the scores of a batch, and of the numbers of its samples, what a member answers."""


def flipped(*samples: int) -> Answer:
    """The scores, but another class for these samples, by a hair."""

    def answer(scores: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        wrong = torch.isin(numbers, torch.tensor(samples))
        return torch.where(wrong[:, None], 0.51 * scores + 0.52 * scores.roll(1, -1), scores)

    return answer


def same(scores: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return scores


def ensemble(*names: str, rule: Any = "mean", batch: int = 16) -> Ensemble:
    members = tuple(make_submodel(name, mlp(seed=i), X[:batch]) for i, name in enumerate(names))
    return Ensemble(submodels=members, combine=make_combine(rule))


def check(
    monkeypatch: pytest.MonkeyPatch,
    members: Ensemble,
    answers: Mapping[tuple[str, str], Answer | str],
    *,
    base: Answer = same,
    variants: tuple[str, ...] = ("openvino@bf16",),
    x: torch.Tensor | None = X,
    **options: Any,
) -> PrecisionTable:
    """Check with scripted answers by (member, variant): a function, or why there is none."""

    def run(ensemble: Ensemble, _: Any, __: Any, how: str, data: Any) -> Any:
        found: dict[str, list[Any]] = {}
        why: dict[str, str] = {}
        for name in ensemble.names:
            answer = base if how == "eager" else answers.get((name, how), base)
            if isinstance(answer, str):
                why[name] = answer
                continue
            found[name] = []
            for batch in data.batches:
                numbers = (batch[:, None] == X[None]).all(-1).long().argmax(-1)
                found[name].append(answer(SCORES[numbers], numbers))
        return found, why

    monkeypatch.setattr(module, "_run", run)
    return check_precision(members, CpuDevice(cores=[(0,)]), None, variants, x, **options)  # type: ignore[arg-type]


def test_what_stays_is_counted_by_member_and_for_the_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {("a", "openvino@bf16"): flipped(3), ("b", "openvino@bf16"): "it has no such operator"}
    table = check(monkeypatch, ensemble("a", "b"), answers, error=0.06, agree=0.9)
    a, b = table.points
    assert (a.agreement, a.together) == (39 / 40, 1.0), "the mean with b is right"
    assert a.error == pytest.approx(0.52)
    assert "off by 5.2e-01 of the largest value, and 0.06 is allowed" in a.why
    assert (b.error, b.agreement, b.why) == (None, None, "it has no such operator")
    assert table.allowed == {"a": (), "b": ()}
    assert (table.samples, table.by_class) == (N, True)


def near(*samples: int) -> Answer:
    """Scores that are close to each other, and another class for these samples: little error, other answers."""

    def answer(scores: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return 10 + 0.1 * flipped(*samples)(scores, numbers)

    return answer


def test_a_member_that_disagrees_too_often_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {("a", "openvino@bf16"): near(1, 39), ("b", "openvino@bf16"): near()}
    table = check(monkeypatch, ensemble("a", "b"), answers, base=near(), agree=0.96)
    assert table.points[0].agreement == 38 / 40, "the last batch is filled up, and those samples count once"
    assert table.points[0].why == "top-1 stays for 95.00 %, and 96.00 % is asked for"
    assert table.allowed == {"a": (), "b": ("openvino@bf16",)}
    assert table.together == 1.0
    assert check(monkeypatch, ensemble("a", "b"), answers, base=near(), agree=0.95).allowed["a"] == ("openvino@bf16",)


def test_the_ensemble_is_asked_in_every_combination(monkeypatch: pytest.MonkeyPatch) -> None:
    # One that is wrong is outvoted by the two others; two that are wrong at once are not.
    wrong = {("a", "openvino@bf16"): near(1, 2), ("b", "openvino@bf16"): near(1), ("c", "openvino@bf16"): near()}
    table = check(monkeypatch, ensemble("a", "b", "c", rule="majority"), wrong, base=near(), agree=0.95)
    assert [point.together for point in table.points] == [1.0, 1.0, 1.0]
    assert (table.together, table.combinations) == (39 / 40, (8, 8))
    assert not any(point.why for point in table.points)


def test_a_combination_below_the_limit_drops_one_member_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {("a", "openvino@bf16"): near(1, 2), ("b", "openvino@bf16"): near(3, 4), ("c", "openvino@bf16"): near()}
    # The mean of a and b: each alone keeps 38 of 40, both together 36.
    rule = Loudest()
    table = check(monkeypatch, ensemble("a", "b", "c", rule=rule), answers, base=near(), agree=0.95)
    dropped = [point for point in table.points if point.why]
    assert len(dropped) == 1
    assert dropped[0].name in ("a", "b")
    assert dropped[0].why == "together with the others the ensemble's top-1 stays for only 90.00 %"
    assert table.together == 38 / 40
    assert table.allowed["c"] == ("openvino@bf16",)


class Loudest:
    """A rule of one's own: the answer of whoever is wrong, else of anybody."""

    __name__ = "loudest"

    def __call__(self, outputs: dict[str, torch.Tensor]) -> torch.Tensor:
        every = torch.stack(list(outputs.values()))
        apart = (every - every.median(0).values).abs().sum(-1)
        return every.gather(0, apart.argmax(0)[None, :, None].expand(1, -1, every.shape[-1]))[0]


def test_many_combinations_are_sampled_and_the_record_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_COMBINATIONS", 5)
    names = ("a", "b", "c")
    table = check(monkeypatch, ensemble(*names), {}, variants=("eager@bf16", "openvino@bf16"), agree=0.9)
    tried, number = table.combinations
    assert number == 27
    assert 5 < tried <= 10
    assert f"in the worst of {tried} of 27 combinations" in str(table)


def test_values_agree_where_they_are_within_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(scores: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return scores[:, :1] * 0 + 1.0 + 0.02 * (numbers[:, None] < 4)

    def base(scores: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return scores[:, :1] * 0 + 1.0

    members = ensemble("a", "b")
    answers = {("a", "openvino@bf16"): off}
    table = check(monkeypatch, members, answers, base=base, error=0.01, agree=0.9)
    assert not table.by_class
    assert (table.points[0].agreement, table.points[0].why) == (0.9, "")
    assert table.points[0].together == 1.0, "the mean is off by half of it, which is allowed"
    table = check(monkeypatch, members, answers, base=base, error=0.01, agree=0.95)
    assert table.points[0].why == "answer is off by 0.01 at most for 90.00 %, and 95.00 % is asked for"
    assert not check(monkeypatch, members, {}, values=True).by_class, "scores that are values"


def test_what_is_no_number_is_the_same_answer_only_where_it_is_the_same() -> None:
    nan, infinite = float("nan"), float("inf")
    pairs = [(nan, nan), (infinite, infinite), (infinite, -infinite), (nan, infinite), (1.0, infinite), (1.0, 1.001)]
    y, r = torch.tensor(pairs).unbind(1)
    assert module._same_rows(y, r, 0.01, len(pairs)).tolist() == [True, True, False, False, False, True]


def test_accuracy_is_that_of_before_and_of_the_worst_combination(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(N) % 3
    answers = {("a", "openvino@bf16"): near(0, 1)}
    table = check(monkeypatch, ensemble("a"), answers, base=near(1, 2), y=labels, agree=0.9)
    assert table.accuracy == {"a": 38 / 40}
    assert table.points[0].accuracy == 38 / 40
    assert table.ensemble_accuracy == (38 / 40, 38 / 40)
    with pytest.raises(UsageError, match="one whole number, the right class"):
        check(monkeypatch, ensemble("a"), answers, y=labels[:3])
    with pytest.raises(UsageError, match=r"one of the 3 classes .*, 0 to 2. Given: 3"):
        check(monkeypatch, ensemble("a"), answers, y=labels + 1)


def test_labels_of_answers_that_have_no_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def value(scores: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return scores[:, :1]

    def of_the_batch(scores: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return scores.mean(0)

    labels = torch.arange(N) % 3
    for base, options in ((value, {}), (of_the_batch, {}), (same, {"values": True})):
        with pytest.raises(UsageError, match="Labels are the right classes, and nothing has one here"):
            check(monkeypatch, ensemble("a"), {}, base=base, y=labels, **options)


def test_a_member_without_classes_has_no_accuracy_beside_one_that_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(members: Ensemble, _: Any, __: Any, ___: Any, data: Any) -> Any:
        scores = torch.eye(3)[torch.zeros(16, dtype=torch.long)]
        return {"a": [scores] * len(data.batches), "b": [scores[:, :1]] * len(data.batches)}, {}

    monkeypatch.setattr(module, "_run", run)
    device, labels = CpuDevice(cores=[(0,)]), torch.zeros(N, dtype=torch.long)
    members = ensemble("a", "b", rule=lambda outputs: outputs["a"])
    table = check_precision(members, device, None, ("openvino@bf16",), X, labels)  # type: ignore[arg-type]
    assert table.accuracy == {"a": 1.0, "b": None}
    assert [point.accuracy for point in table.points] == [1.0, None]


def test_classes_that_differ_are_no_error_of_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_classes(answer: Answer) -> Answer:
        def both(scores: torch.Tensor, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
            found = answer(scores, numbers)
            return {"scores": found, "best": found.argmax(-1), "count": torch.tensor(3)}

        return both

    def scores_alone(outputs: dict[str, Any]) -> torch.Tensor:
        return torch.stack([output["scores"] for output in outputs.values()]).mean(0)

    answers = {("a", "openvino@bf16"): with_classes(near(1))}
    members = ensemble("a", "b", rule=scores_alone)
    table = check(monkeypatch, members, answers, base=with_classes(near()), agree=0.9)
    assert table.points[0].error == pytest.approx(0.052 / 10.1, rel=0.1)
    assert table.points[0].agreement == 39 / 40
    assert table.allowed == {"a": ("openvino@bf16",), "b": ("openvino@bf16",)}


def test_nan_in_another_place_is_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(scores: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return torch.where(numbers[:, None] == 5, float("nan"), scores)

    table = check(monkeypatch, ensemble("a"), {("a", "openvino@bf16"): broken}, agree=0.1)
    assert table.points[0].why == "NaN or infinity in other places"
    wider = {("a", "openvino@bf16"): lambda scores, _: torch.cat([scores, scores], -1)}
    assert check(monkeypatch, ensemble("a"), wider, agree=0.1).points[0].why == "another shape or dtype"


def test_without_data_the_error_on_the_example_alone_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[tuple[str, str], Answer | str] = {("a", "openvino@bf16"): flipped(1), ("b", "openvino@bf16"): same}
    table = check(monkeypatch, ensemble("a", "b"), answers, x=None)
    assert table.agree is None
    assert table.together is None
    assert [bool(point.why) for point in table.points] == [True, False]
    assert table.columns == ("sub-model", "backend", "furthest off", "taken")
    assert "compared on the example alone" in table.summary


def test_a_member_that_ends_the_lane_is_found_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(members: Ensemble, *_: Any) -> Any:
        if "b" in members.names:
            raise WorkerDied("The lane stays alive", given="killed")
        return {name: [torch.zeros(16, 3)] for name in members.names}, {}

    monkeypatch.setattr(module, "_run", run)
    found, why = module._run_each(ensemble("a", "b", "c"), None, None, "openvino@bf16", None)  # type: ignore[arg-type]
    assert list(found) == ["a", "c"]
    assert "killed" in why["b"]


def test_limits_that_are_not_possible_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert allowed_error("bf16") == 6e-2
    for given in (0, -1, 0.07, float("nan")):
        with pytest.raises(UsageError, match=r"error allowed in bf16 lies above 0 and is at most 0\.06"):
            allowed_error("bf16", given)
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    with pytest.raises(UsageError, match="answers that are compared take at most 100 B"):
        check(monkeypatch, ensemble("a"), {})
    with pytest.raises(UsageError, match="Validation data has its samples"):
        check(monkeypatch, ensemble("a"), {}, x=X[:0])
