from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import pytest

from esen_lab.errors import UsageError
from esen_lab.ui.magics import arguments
from esen_lab.ui.magics.arguments import Argument, parse, split
from esen_lab.ui.session import Session

ROUNDS = Argument("--rounds", "how many", arguments.whole_number, "N")
FRESH = Argument("--fresh", "again")
INPUT = Argument("input", "the batch", arguments.expression, "EXPR", joined=True)
NAMES = Argument("names", "which", arguments.names, "NAME", count="*")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", []),
        ("run x", ["run", "x"]),
        ("run f(1, -2)  --rounds 3", ["run", "f(1, -2)", "--rounds", "3"]),
        ("run {'a b': [x, 1]}", ["run", "{'a b': [x, 1]}"]),
        ('save "my plan.json"', ["save", '"my plan.json"']),
        (r"run 'it\'s' x", ["run", r"'it\'s'", "x"]),
        ("profile # all of them", ["profile"]),
        ("run x['#1']", ["run", "x['#1']"]),
        ("run a#b", ["run", "a#b"]),
    ],
)
def test_a_line_is_parted_at_spaces_outside_of_quotes_and_brackets(given: str, words: list[str]) -> None:
    assert split(given) == words


@pytest.mark.parametrize("word", ["9" * 400, "1" * 5000 + "GB"])
def test_a_size_beyond_all_machines_is_none(session: Session, word: str) -> None:
    with pytest.raises(UsageError, match="A size is needed here"):
        arguments.size(session, word)


@pytest.mark.parametrize("given", ["run f(1", 'save "x', "run {'a': [1}"])
def test_what_is_left_open_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="is missing"):
        split(given)


def test_an_expression_with_spaces_needs_no_quotes(session: Session) -> None:
    given = parse(session, "%esen run", "", (INPUT, ROUNDS), ["x", "+", "[3]", "--rounds", "7"])
    assert (given.input, given.rounds) == ([1, 2, 3], 7)


def test_an_expression_that_may_be_left_out_is_none_then(session: Session) -> None:
    optional = replace(INPUT, count="*")
    given = parse(session, "%esen numerics", "", (optional, ROUNDS), ["--rounds", "7"])
    assert (given.input, given.rounds) == (None, 7)
    assert parse(session, "%esen numerics", "", (optional,), ["x", "+", "[3]"]).input == [1, 2, 3]


def test_words_may_stand_on_both_sides_of_options(session: Session) -> None:
    given = parse(session, "%esen profile", "", (NAMES, FRESH), ["a,b", "--fresh", "c"])
    assert (given.names, given.fresh) == ([["a", "b"], ["c"]], True)


def test_the_parser_of_a_verb_is_made_once_and_not_kept_where_its_reading_was_cut_short(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    make = arguments.parser

    def counted(prog: str, *given: Any, **more: Any) -> Any:
        made.append(prog)
        return make(prog, *given, **more)

    monkeypatch.setattr(arguments, "parser", counted)
    takes = (NAMES, FRESH)

    def read(*words: str) -> Any:
        return parse(session, "%esen a-verb", "", takes, list(words)).names

    assert [read("a"), read("b", "--fresh"), read()] == [[["a"]], [["b"]], []]
    assert made == ["%esen a-verb"]

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr(argparse.ArgumentParser, "parse_known_args", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read("c")
    assert read("c") == [["c"]]
    assert made == ["%esen a-verb"] * 2


def test_an_unknown_option_is_named_with_its_neighbour(session: Session) -> None:
    with pytest.raises(UsageError, match=r"%esen compare has no option --round\. Did you mean --rounds"):
        parse(session, "%esen compare", "", (INPUT, ROUNDS), ["x", "--round", "3"])


@pytest.mark.parametrize("words", [[], ["x", "--rounds"], ["-z", "x"]])
def test_missing_and_surplus_words_are_one_line(session: Session, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse(session, "%esen compare", "", (INPUT, ROUNDS), words)
    assert "\n" not in str(caught.value)
    assert "`%esen compare -h` shows" in str(caught.value)


def test_text_is_unquoted_and_filled_in(session: Session) -> None:
    assert arguments.text(session, '"{stem} plan.json"') == "mine plan.json"


@pytest.mark.parametrize(
    ("given", "value"), [("2", 2.0), ("0.5s", 0.5), ("250ms", 0.25), ("40µs", 4e-5), ("4us", 4e-6), ("4\u03bcs", 4e-6)]
)
def test_seconds_take_a_unit(session: Session, given: str, value: float) -> None:
    assert arguments.seconds(session, given) == pytest.approx(value)


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "soon", "", "s", "ms", "0us"])
def test_seconds_are_positive(session: Session, given: str) -> None:
    with pytest.raises(UsageError, match="positive number of seconds"):
        arguments.seconds(session, given)


def test_numbers_that_are_none_are_named(session: Session) -> None:
    assert arguments.whole_numbers(session, "[1, 2,4]") == [1, 2, 4]
    with pytest.raises(UsageError, match="Given: 1,x"):
        arguments.whole_numbers(session, "1,x")
    with pytest.raises(UsageError, match=r"Given: 2\.5"):
        arguments.whole_number(session, "2.5")


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("a,b", ["a", "b"]),
        ('"a b",c', ["a b", "c"]),
        ("'a','b'", ["a", "b"]),
        ('"a, b"', ["a", "b"]),
        ("['wide', 'deep']", ["wide", "deep"]),
        ("[]", []),
        (" , ", []),
    ],
)
def test_names_may_be_quoted_and_a_list_stands_for_its_names(session: Session, given: str, value: list[str]) -> None:
    assert arguments.names(session, given) == value


def test_quotes_are_taken_from_one_string_alone() -> None:
    assert [arguments.plain(word) for word in ("'a b'", '"a","b"', "'a", "a")] == ["a b", '"a","b"', "'a", "a"]


@pytest.mark.parametrize("given", ["wide=2,deep=4", " wide = 2 , deep=4,", "{'wide': 2, 'deep': 4}"])
def test_numbers_by_name_are_written_or_come_from_a_dict(session: Session, given: str) -> None:
    assert arguments.whole_numbers_by_name(session, given) == {"wide": 2, "deep": 4}


@pytest.mark.parametrize("given", ["", "{}", "wide", "wide=2,wide=3", "{'wide': 2.5}", "wide:2"])
def test_what_is_no_number_by_name_is_refused(session: Session, given: str) -> None:
    with pytest.raises(UsageError, match="Whole numbers by name are needed here"):
        arguments.whole_numbers_by_name(session, given)
