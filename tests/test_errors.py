"""What errors say."""

from __future__ import annotations

from esen_lab.errors import EsenError, WorkerError


def test_a_message_states_the_rule_what_was_given_and_what_to_do() -> None:
    problem = EsenError("A share is positive", given=-1, hint="Choose another.")
    assert str(problem) == "A share is positive. Given: -1. Choose another."


def test_parts_that_are_not_there_are_left_out() -> None:
    assert str(EsenError("It broke")) == "It broke."
    assert str(EsenError("It broke!")) == "It broke!"


def test_a_workers_failure_carries_its_traceback_and_log() -> None:
    problem = WorkerError("It failed", worker_traceback="Traceback ...\nValueError", log="loading")
    assert problem.details() == "In the worker:\nTraceback ...\nValueError\nThe worker printed:\nloading"
    assert WorkerError("It failed").details() == ""
