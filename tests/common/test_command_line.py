from __future__ import annotations

import pytest

from esen_lab.common.command_line import CommandParser, seconds, whole


def parser() -> CommandParser:
    made = CommandParser(prog="tool")
    made.add_argument("--version", action="store_true")
    commands = made.add_subparsers(required=True)
    serve = commands.add_parser("serve")
    serve.add_argument("--window", type=seconds(above_zero=False))
    serve.add_argument("--deadline", type=seconds(above_zero=True))
    serve.add_argument("--max-rows", type=whole(1))
    commands.add_parser("run")
    return made


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serv"], "Did you mean serve?"),
        (["serve", "--windw", "3"], "unrecognized arguments: --windw 3. Did you mean --window?"),
        (["serve", "--max-row=3"], "Did you mean --max-rows?"),
        (["serve", "--verion"], "Did you mean --version?"),
        (["serve", "--window", "nan"], "argument --window: a number of seconds, 0 or more, not 'nan'"),
        (["serve", "--window", "soon"], "argument --window: a number of seconds, 0 or more, not 'soon'"),
        (["serve", "--deadline", "0"], "argument --deadline: a number of seconds above 0, not '0'"),
        (["serve", "--deadline", "-1"], "argument --deadline: a number of seconds above 0, not '-1'"),
        (["serve", "--deadline", "inf"], "argument --deadline: a number of seconds above 0, not 'inf'"),
        (["serve", "--max-rows", "0"], "argument --max-rows: a whole number of at least 1, not '0'"),
        (["serve", "--max-rows", "1.5"], "argument --max-rows: a whole number of at least 1, not '1.5'"),
    ],
)
def test_a_command_line_that_is_wrong_says_what_is_asked_for(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parser().parse_args(words)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_a_word_unlike_all_others_is_not_guessed_at(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["serve", "--quux"])
    assert "Did you mean" not in capsys.readouterr().err


def test_values_that_are_right_are_read() -> None:
    found = parser().parse_args(["serve", "--window", "0", "--deadline", "2.5e-3", "--max-rows", "7"])
    assert (found.window, found.deadline, found.max_rows) == (0.0, 0.0025, 7)
