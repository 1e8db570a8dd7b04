"""The schema of what pages and kernel say to each other, and what is not of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from esen_lab.ui.panel.messages import plain, problem, problem_of_command, schema

WORDS = {
    "type", "enum", "minimum", "maximum", "maxLength", "maxItems", "items", "properties", "required",
    "additionalProperties",
}  # fmt: skip
TYPES = {"object", "array", "string", "boolean", "null", "number", "integer"}


def rules(rule: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield rule
    for below in (*rule.get("properties", {}).values(), rule.get("items"), rule.get("additionalProperties")):
        if below is not None:
            yield from rules(below)


def test_the_schema_has_no_word_that_the_two_sides_do_not_understand() -> None:
    groups = {name: group for name, group in schema().items() if name not in {"$comment", "protocol", "targets"}}
    assert set(groups) == {"openings", "to_kernel", "to_page", "monitor", "sections"}
    for group in groups.values():
        for top in group.values():
            for rule in rules(top):
                types = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
                assert set(rule) <= WORDS
                assert set(types) <= TYPES
                assert set(rule.get("required", ())) <= set(rule.get("properties", {}))


@pytest.mark.parametrize(
    "command",
    [
        {"kind": "resync"},
        {"kind": "stop"},
        {"kind": "stop", "job": None},
        {"kind": "stop", "job": "profile"},
        {"kind": "rate", "rate_hz": 4},
        {"kind": "monitor", "on": True},
        {"kind": "monitor", "on": False, "more": {"of": "the future"}},
        {"kind": "monitor", "on": True, "have": ["3.9"], "interval_s": 1, "history_s": 600.0},
        {"kind": "bye"},
        {"kind": "a kind of the future", "have": 5},
    ],
    ids=json.dumps,
)
def test_a_command_of_the_protocol_is_right(command: dict[str, Any]) -> None:
    assert problem_of_command(command) == ""


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ({"kind": "monitor", "on": True, "have": 5}, "have: array wanted, 5 given"),
        ({"kind": "monitor", "on": True, "have": "3.9"}, "have: array"),
        ({"kind": "monitor", "on": True, "have": {"3.9": 1}}, "have: array wanted, dict given"),
        ({"kind": "monitor", "on": True, "have": [["3.9"]]}, "have[0]: string"),
        ({"kind": "monitor", "on": True, "have": ["x" * 5000]}, "have[0]: a shorter text"),
        ({"kind": "monitor", "on": True, "have": ["x"] * 5000}, "at most 100 items wanted, 5000 given"),
        ({"kind": "monitor", "have": []}, "on: missing"),
        ({"kind": "monitor", "on": 1}, "on: boolean"),
        ({"kind": "monitor", "on": True, "interval_s": True}, "interval_s: number"),
        ({"kind": "monitor", "on": True, "interval_s": "0.5"}, "interval_s: number"),
        ({"kind": "monitor", "on": True, "interval_s": 0}, "interval_s: 0.05 to 60 wanted"),
        ({"kind": "monitor", "on": True, "interval_s": math.nan}, "interval_s: number"),
        ({"kind": "monitor", "on": True, "history_s": math.inf}, "history_s: number"),
        ({"kind": "monitor", "on": True, "history_s": 10**400}, "history_s: number"),
        ({"kind": "monitor", "on": True, "history_s": None}, "history_s: number"),
        ({"kind": "rate"}, "rate_hz: missing"),
        ({"kind": "rate", "rate_hz": []}, "rate_hz: number"),
        ({"kind": "stop", "job": {}}, "job: string or null"),
        ({"kind": "stop", "job": ["profile"]}, "job: string or null"),
        ({"kind": ["stop"]}, "with a kind"),
        ({"kind": None}, "with a kind"),
        ({}, "with a kind"),
        ([], "with a kind"),
        ("stop", "with a kind"),
        (None, "with a kind"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_any_other_is_wrong_and_says_where(command: Any, why: str) -> None:
    assert why in problem_of_command(command)


def test_what_is_wrong_is_said_shortly_and_in_plain_letters() -> None:
    said = problem_of_command({"kind": "rate", "rate_hz": "\ud800" * 10_000})
    assert said.isascii()
    assert len(said) < 200


def test_whole_numbers_are_told_from_others() -> None:
    whole = {"type": "integer"}
    assert [problem(value, whole) == "" for value in (3, 3.0, -1)] == [True] * 3
    assert [problem(value, whole) == "" for value in (3.5, True, "3", 2**60, math.nan)] == [False] * 5


def test_what_is_sent_is_json_that_every_page_reads() -> None:
    class Odd:
        def __str__(self) -> str:
            return "odd"

    deep: Any = []
    for _ in range(1000):
        deep = [deep]
    given = {
        "nan": math.nan,
        "inf": [math.inf, -math.inf, 1.5],
        "huge": 10**400,
        "large": 2**60,
        "broken": "a\ud800b",
        1: (True, None, {2}),
        "odd": Odd(),
        "long": "x" * 100_000,
        "deep": deep,
    }
    found = plain(given)
    text = json.dumps(found, allow_nan=False)
    assert text.encode("utf-8")
    assert (found["nan"], found["inf"], found["huge"], found["large"]) == (None, [None, None, 1.5], None, 2.0**60)
    assert (found["broken"], found["1"], found["odd"]) == (r"a\ud800b", [True, None, [2]], "odd")
    assert len(found["long"]) == 20_000
    assert len(plain({"long": "x" * 100_000}, whole=True)["long"]) == 100_000
