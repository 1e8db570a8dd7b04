"""What a run may be asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from models import Times
from runtime_cases import ensemble_of

from esen_lab.ensemble import make_combine
from esen_lab.errors import UsageError
from esen_lab.run import RunOptions


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"deadline_s": 0}, "number of seconds above 0"),
        ({"deadline_s": -1.0}, "number of seconds above 0"),
        ({"deadline_s": math.nan}, "number of seconds above 0"),
        ({"deadline_s": math.inf}, "number of seconds above 0"),
        ({"deadline_s": True}, "number of seconds above 0"),
        ({"deadline_s": "50ms"}, "number of seconds above 0"),
        ({"deadline_s": 1.0, "at_least": 0}, "whole number of members"),
        ({"deadline_s": 1.0, "at_least": 1.0}, "whole number of members"),
        ({"deadline_s": 1.0, "at_least": True}, "whole number of members"),
        ({"deadline_s": 1.0, "otherwise": "wait"}, "'error' or 'first'"),
        ({"on_failure": "ignore"}, "'error' or 'leave-out'"),
        ({"stop_early": "sure"}, "'decided', or a probability"),
        ({"stop_early": 0.0}, "'decided', or a probability"),
        ({"stop_early": 1.5}, "'decided', or a probability"),
        ({"stop_early": True}, "'decided', or a probability"),
        ({"uncertainty": 1}, "True or False"),
        ({"otherwise": "first"}, "what is done at a deadline"),
        ({"at_least": 2}, "some may be missing from"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_words(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        RunOptions(**given)


def test_nothing_asked_for_is_a_plain_run() -> None:
    assert RunOptions().plain
    assert not RunOptions(uncertainty=True).plain
    assert not RunOptions(uncertainty=True).partial
    assert RunOptions(on_failure="leave-out").partial
    assert (RunOptions(deadline_s=1).enough, RunOptions(deadline_s=1, at_least=3).enough) == (1, 3)


def test_more_members_than_run_cannot_be_asked_for() -> None:
    ensemble = ensemble_of(a=Times(1.0), b=Times(2.0))
    with pytest.raises(UsageError, match="at most the number of members that run, 2"):
        RunOptions(deadline_s=1.0, at_least=3).check(ensemble, ensemble.names, ())


def test_members_that_keep_state_would_miss_a_batch() -> None:
    ensemble = ensemble_of(a=Times(1.0), b=Times(2.0))
    with pytest.raises(UsageError, match="state is kept by b"):
        RunOptions(deadline_s=1.0).check(ensemble, ensemble.names, ("b",))
    RunOptions(uncertainty=True).check(ensemble, ensemble.names, ("b",))


def test_only_a_vote_can_be_decided_and_only_probabilities_can_be_confident() -> None:
    ensemble = ensemble_of(a=Times(1.0), b=Times(2.0))
    with pytest.raises(UsageError, match="Only a majority's vote"):
        RunOptions(stop_early="decided").check(ensemble, ensemble.names, ())
    voting = ensemble.with_combine(make_combine("majority"))
    RunOptions(stop_early="decided").check(voting, ensemble.names, ())
    with pytest.raises(UsageError, match="a majority's vote has none"):
        RunOptions(stop_early=0.9).check(voting, ensemble.names, ())


def test_numbers_of_numpy_are_taken_and_kept_as_plain_ones() -> None:
    options = RunOptions(deadline_s=np.float32(0.5), at_least=np.int64(2))
    assert (type(options.deadline_s), type(options.at_least)) == (float, int)
    assert options == RunOptions(deadline_s=0.5, at_least=2)
