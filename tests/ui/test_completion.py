from __future__ import annotations

import pytest
import torch
from fake_front import FakeFront
from fake_lab import FakeLab, a_plan

from esen_lab.cost_model.fit import QUANTILES
from esen_lab.devices import DEVICES, SHARING_MODES
from esen_lab.ensemble import make_combine
from esen_lab.planner import SEARCHERS
from esen_lab.planner.plan import Lane
from esen_lab.run import PEERS, STRATEGIES
from esen_lab.ui.magics import suggestions
from esen_lab.ui.magics.completion import complete
from esen_lab.ui.magics.verbs import VERBS
from esen_lab.ui.session import Session


@pytest.fixture(autouse=True)
def registered(lab: FakeLab, front: FakeFront) -> None:
    lab.register("wide", None)
    lab.register("wonky-net", None)
    front.names.update(batch=torch.zeros(1), pair=(torch.zeros(1), torch.zeros(1)), net=torch.nn.Linear(1, 1), number=3)
    front.names["_hidden"] = front.names["batch"]


@pytest.mark.parametrize(
    ("before", "offers"),
    [
        ("%esen pro", ["profile"]),
        ("y = %esen ru", ["run"]),
        ("a, b = %esen sea", ["search"]),
        ("  %esen unre", ["unregister"]),
        ("%%esen ", ["model"]),
        ("%%esen model deep --e", ["--example"]),
        (
            "%esen profile --",
            [
                "--shares",
                "--budget",
                "--timeout",
                "--fresh",
                "--adaptive",
                "--within",
                "--backends",
                "--groups",
                "--parts",
                "--wait",
            ],
        ),
        ("%esen profile --wait --wa", None),
        ("%esen profile w", ["wide", "wonky-net"]),
        ("%esen profile wide wo", ["wonky-net"]),
        ("%esen profile wide,wo", ["wonky-net"]),
        ("%esen profile --shares ", None),
        ("%esen profile --shares 1,2 wi", ["wide"]),
        ("%esen unregister wo", ["wonky-net"]),
        ("%esen unregister wide w", None),
        ("%esen combine m", ["mean", "majority"]),
        ("%esen search --searcher o", ["optuna"]),
        ("%esen search --searcher=o", ["optuna"]),
        ("%esen members b", ["batch"]),
        ("%esen members batch pa", ["pair"]),
        ("%esen cascade batch --order wide,wo", ["wonky-net"]),
        ("%esen pla", ["place", "plan"]),
        ("%esen refine b", ["batch"]),
        ("%esen refine batch --apart wi", ["wide"]),
        ("%esen search --pin wi", ["wide"]),
        ("%esen search --pin wide=2,wo", ["wonky-net"]),
        ("%esen search --apart wide,wo", ["wonky-net"]),
        ("%esen search --oversubscribe u", ["unlimited"]),
        ("%esen search --quantile q", ["q90"]),
        ("%esen search --pin wide=2 --pi", None),
        ("%esen compare batch --strategies equal,th", ["threads"]),
        ("%esen loadtest batch --ways pl", ["plan"]),
        ("%esen loadtest batch --ways openvino", None),
        ("%esen run ", ["batch", "pair"]),
        ("%esen run b", ["batch"]),
        ("%esen numerics b", ["batch"]),
        ("%esen numerics batch --r", ["--runs"]),
        ("%esen backends --only eager,in", ["inductor"]),
        ("%esen run batch.", None),
        ("%esen run f(b", None),
        ("%esen register n", ["net"]),
        ("%esen register net --example b", ["batch"]),
        ("%esen help sa", ["save"]),
        ("%esen device ", ["cpu", "cpu:all", "cpu:fast", "cpu:slow", "cuda:0 mps", "cuda:0 green"]),
        ("%esen save pl", None),
        ("%esen nonsense x", None),
        ("%esenx pro", None),
        ("print(1) # %esen pro", None),
    ],
)
def test_the_tab_key_offers(session: Session, before: str, offers: list[str] | None) -> None:
    found = complete(session, before)
    offered = None if found is None else [offer for offer in found[1] if offer != "-h"]
    assert offered == offers
    if found is not None:
        assert before.endswith(found[0])


def test_all_verbs_are_offered(session: Session) -> None:
    assert complete(session, "%esen ") == ("", list(VERBS))


def test_of_a_cascade_the_steps_of_its_thresholds_are_offered(session: Session, lab: FakeLab) -> None:
    lanes = (Lane(units=4, members=("wide",)), Lane(units=4, members=("wonky-net",), stage=1))
    lab.plan = a_plan(lanes=lanes, reach=(1.0, 0.5), threshold=0.9)
    assert complete(session, "%esen tune ") == ("", ["threshold", "apply", "reset"])


def test_nothing_is_made_by_asking(front: FakeFront) -> None:
    fresh = Session(FakeFront(), lambda: FakeLab)
    assert complete(fresh, "%esen profile ") is None
    assert "lab" not in fresh.front.namespace


def test_the_fixed_choices_are_the_real_tables() -> None:
    assert tuple(SEARCHERS) == suggestions.SEARCHERS
    assert tuple(STRATEGIES) == suggestions.STRATEGIES
    assert tuple(PEERS) == suggestions.PEERS
    assert tuple(QUANTILES) == suggestions.QUANTILES
    assert tuple(DEVICES) == suggestions.DEVICES
    assert tuple(SHARING_MODES) == suggestions.SHARING_MODES
    for rule in suggestions.RULES:
        assert make_combine(rule, weights=[1.0] if rule == "weighted" else None).name == rule


def test_nothing_that_is_offered_makes_a_lab() -> None:
    front = FakeFront()
    session = Session(front, lambda: FakeLab)
    for verb in VERBS.values():
        for argument in verb.arguments:
            if argument.suggest is not None:
                tuple(argument.suggest(session))
    assert session.open_labs == ()
    assert "lab" not in front.namespace
