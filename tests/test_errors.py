"""What errors say."""

from __future__ import annotations

from esen_lab.errors import EsenError, NotTrusted, WorkerError, first_line


def test_a_message_states_the_rule_what_was_given_and_what_to_do() -> None:
    problem = EsenError("A share is positive", given=-1, hint="Choose another.")
    assert str(problem) == "A share is positive. Given: -1. Choose another."


def test_parts_that_are_not_there_are_left_out() -> None:
    assert str(EsenError("It broke")) == "It broke."
    assert str(EsenError("It broke!")) == "It broke!"


def test_what_was_pasted_by_mistake_is_told_by_its_ends() -> None:
    problem = EsenError("There is such a name", given="x" * 10_000 + "end", hint="Choose another.")
    assert problem.given == "x" * 10_000 + "end"
    assert len(str(problem)) < 700
    assert str(problem).endswith("end. Choose another.")
    assert "(9,403 characters)" in str(problem)


def test_an_error_can_say_first_what_it_is_about() -> None:
    problem = EsenError("A number is needed", given="a")
    problem.concerns("--rounds")
    assert str(problem) == "--rounds: A number is needed. Given: a."


def test_a_workers_failure_carries_its_traceback_and_log() -> None:
    problem = WorkerError("It failed", worker_traceback="Traceback ...\nValueError", log="loading")
    assert problem.details() == "In the worker:\nTraceback ...\nValueError\nThe worker printed:\nloading"
    assert WorkerError("It failed").details() == ""


def test_of_an_engines_exception_the_first_line_that_says_something_is_told() -> None:
    places = "Exception from src/core.cpp:84:\nCheck 'exists(path)' failed at src/frontend.cpp:117:\n"
    assert first_line(RuntimeError(f"{places}Could not open the file\n\n")) == "Could not open the file"
    assert first_line(RuntimeError(places)) == "Exception from src/core.cpp:84:", "better than nothing"
    assert first_line(ValueError("")) == "ValueError"
    runtime = "[ONNXRuntimeError] : 1 : FAIL : "
    place = "/src/core/graph/model.cc:256 void onnxruntime::Model::Model(const std::map<int, int>&, bool) "
    for before in (runtime, f"{runtime}{place}"):
        assert first_line(RuntimeError(f"{before}Unsupported version (max 14)")) == "Unsupported version (max 14)"
    assert first_line(RuntimeError(runtime)) == runtime.strip()


def test_what_is_not_trusted_is_told_line_by_line_with_what_it_would_run() -> None:
    problem = NotTrusted("The folder is code", given="plan_files", hint="Say --trust.", runs=("model.py", "weights"))
    assert problem.in_full == "The folder is code. It would run:\n    model.py\n    weights\nSay --trust."
