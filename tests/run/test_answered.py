"""What is said of an answer that may be without some of the members."""

from __future__ import annotations

from esen_lab.run import Answered, Missing, Worth


def test_a_failure_is_told_first_and_loudly() -> None:
    answered = Answered(
        names=("a",),
        missing=(Missing(name="b", why="late"), Missing(name="c", why="failed", told="ValueError: no")),
        ended="deadline",
        at_s=0.0498,
        deadline_s=0.05,
    )
    first, second, third = answered.sentences
    assert first == "LEFT OUT, since they failed: c (ValueError: no)."
    assert second == "1 of 3 members answered: a. Missing: b (late)."
    assert third == "The answer was there 200 µs before the deadline of 50.0 ms."
    assert answered.kept


def test_a_deadline_that_was_not_kept_is_said_to_be() -> None:
    answered = Answered(names=("a",), ended="enough", at_s=0.0625, deadline_s=0.05)
    assert answered.kept is False
    assert answered.sentences[-1].startswith("The answer was there 12.5 ms AFTER the deadline of 50.0 ms, when enough")


def test_lanes_that_were_waited_for_are_named() -> None:
    answered = Answered(names=("a",), busy=("a", "b"), missing=(Missing(name="b", why="late"),))
    assert "The lane of a was still at an earlier run when this one began." in answered.sentences


def test_what_the_members_were_worth_is_looked_up_when_somebody_asks() -> None:
    asked = []

    def look_up(names: object) -> Worth:
        asked.append(names)
        return Worth(accuracy=0.9, of_all=0.95, samples=200)

    answered = Answered(names=("a",), missing=(Missing(name="b", why="late"),)).known_by(look_up)
    assert asked == []
    assert "90.0 % right on 200 validation samples (all members: 95.0 %)" in answered.sentences[-1]
    assert asked == [("a",)]
    assert answered.to_dict()["worth"] == {"accuracy": 0.9, "of_all": 0.95, "samples": 200}
    assert Answered(names=("a",)).worth is None


def test_confidence_says_what_is_certain_and_what_is_not() -> None:
    sure = Answered(names=("a",), ended="confident", confidence=0.97, certain_rows=3, rows=4)
    assert "97.0 %; in 3 of 4 rows no missing member could have changed the class" in sure.sentences[-1]
    assert "no missing member could have changed a row" in Answered(names=("a",), ended="decided").sentences[-1]
