"""Reads the arguments of a magic's line. Errors are one line, name the word and offer the nearest right one.

A line is parted at spaces that are outside of quotes and brackets, so that expressions such as
`torch.randn(8, -1)` and `{"ids": ids}` need no quoting. An unquoted `#` begins a comment.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from esen_lab.common.units import check_seed
from esen_lab.common.words import unknown
from esen_lab.errors import UsageError

if TYPE_CHECKING:
    from esen_lab.ui.session import Session

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_STRING = re.compile(r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'""", re.DOTALL)
# A whole string, a run of spaces, or one other letter (a lone quotation mark among them).
_PIECES = re.compile(rf"""{_STRING.pattern}|\s+|.""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a verb.

    Attributes:
        name: "--rounds" for an option, "name" for a word that is known by its place.
        help: One line.
        read: Turns the word into a value; raises `UsageError`. None for a switch.
        metavar: What stands for the value in help; None: as is usual for `read`.
        count: As in argparse: None (exactly one), "?", "*" or "+".
        joined: Several words make one value: an expression with spaces in it. With `count` "*" it may be left out.
        key: Its name among the values; "" for `name` without its dashes.
        option: What the lab calls it; "" for `key`, of seconds with "_s" behind it. Errors that name it are worded by
            it (`lines.py`).
        suggest: What the tab key offers for it; None leaves the choice to the notebook's own completers.
    """

    name: str
    help: str
    read: Callable[[Session, str], Any] | None = None
    metavar: str | None = None
    _: KW_ONLY
    count: str | None = None
    joined: bool = False
    key: str = ""
    option: str = ""
    suggest: Callable[[Session], Iterable[str]] | None = None

    def __post_init__(self) -> None:
        """Derive what was not given."""
        object.__setattr__(self, "key", self.key or self.name.lstrip("-").replace("-", "_"))
        object.__setattr__(self, "metavar", self.metavar or _METAVARS.get(self.read))
        object.__setattr__(self, "option", self.option or f"{self.key}{'_s' if self.read is seconds else ''}")

    @property
    def is_option(self) -> bool:
        """Whether it is known by its name and not by its place."""
        return self.name.startswith("-")


def split(line: str) -> list[str]:
    """Part a line into words; quotes and brackets keep their content together and stay where they are.

    Raises:
        UsageError: A quotation mark or bracket is left open.
    """
    words: list[str] = []
    word = ""
    inside: list[str] = []
    for piece in _PIECES.findall(line):
        if piece in ("'", '"'):
            raise _left_open(line, piece)
        if not inside and piece.isspace():
            words.append(word)
            word = ""
            continue
        if not inside and not word and piece == "#":
            break
        if piece in _CLOSING:
            inside.append(_CLOSING[piece])
        elif inside and piece == inside[-1]:
            inside.pop()
        word += piece
    if inside:
        raise _left_open(line, inside[-1])
    return [word for word in (*words, word) if word]


def _left_open(line: str, closing: str) -> UsageError:
    return UsageError(
        "Quotation marks and brackets are closed on the line they are opened on",
        given=f"`{line.strip()}`",
        hint=f"A closing {closing} is missing.",
    )


def plain(word: str) -> str:
    """A word without the quotes around it; of several strings one after another each keeps its own."""
    return word[1:-1] if _STRING.fullmatch(word) else word


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of leaving the interpreter, and says what it refuses as all of the package does."""

    arguments: Sequence[Argument] = ()

    def error(self, message: str) -> NoReturn:
        rule, given = self._said(message)
        raise UsageError(rule, given=given, hint=f"`{self.prog} -h` shows what it takes, with an example.")

    def _said(self, message: str) -> tuple[str, str | None]:
        """The rule that was broken, and what was given."""
        places = [argument for argument in self.arguments if not argument.is_option]
        if found := _MISSING.fullmatch(message):
            missing = found[1].split(", ")
            told = [_told(argument) for argument in places if argument.metavar in missing]
            return f"{self.prog} takes {' and '.join(told)}", "nothing" if places[0].metavar in missing else "no more"
        if found := _SURPLUS.fullmatch(message):
            taken = " ".join(str(argument.metavar) for argument in places)
            alone = "options alone" if self.arguments else "no words"
            return f"{self.prog} takes {f'{taken} and no word more' if taken else alone}", found[1]
        if (found := _NO_VALUE.fullmatch(message)) or (found := _SWITCH.fullmatch(message)):
            argument = next(one for one in self.arguments if one.name == found[1])
            if argument.read is None:
                return f"{argument.name} stands alone: {argument.help}", f"{argument.name}={plain(found[2])}"
            return f"{argument.name} takes {_told(argument)}", "nothing"
        return f"{self.prog}: {message}", None


def _told(argument: Argument) -> str:
    return f"{argument.metavar} ({argument.help})"


# What argparse says.
_MISSING = re.compile("the following arguments are required: (.*)", re.DOTALL)
_SURPLUS = re.compile("unrecognized arguments: (.*)", re.DOTALL)
_NO_VALUE = re.compile("argument (--[^ ]+): expected (?:at least )?one argument")
_SWITCH = re.compile("argument (--[^ ]+): ignored explicit argument (.*)", re.DOTALL)


def parser(prog: str, summary: str, arguments: Sequence[Argument], *, epilog: str = "") -> _Parser:
    """The argparse parser for a verb; values stay words."""
    verb_parser = _Parser(
        prog=prog,
        # As argparse has the rest, whose lines are never shorter either.
        description=textwrap.fill(summary, max(shutil.get_terminal_size().columns - 2, 11)),
        epilog=epilog or None,
        add_help=False,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb_parser.arguments = arguments
    for argument in arguments:
        known: dict[str, Any] = {"help": argument.help.replace("%", "%%")}
        if argument.read is None:
            known["action"] = "store_true"
        else:
            known["metavar"] = argument.metavar
            count = (argument.count or "+") if argument.joined else argument.count
            if count is not None:
                known["nargs"] = count
        if argument.is_option:
            known["dest"] = argument.key
        verb_parser.add_argument(argument.name, **known)
    return verb_parser


def parse(
    session: Session, prog: str, summary: str, arguments: Sequence[Argument], words: Sequence[str]
) -> argparse.Namespace:
    """The values of a verb's arguments.

    Raises:
        UsageError: An unknown option (with its nearest neighbours), a missing or surplus word, a value that does
            not read.
        Exception: Whatever the user's own expression raises.
    """
    options = [argument.name for argument in arguments if argument.is_option]
    for word in words:
        name = word.split("=", 1)[0]
        if name.startswith("--") and name not in options:
            raise unknown(f"{prog} has no option {name}", name, options, hint=f"`{prog} -h` lists its options.")
    _check_written(prog, words, {argument.name: argument for argument in arguments if argument.is_option})
    given = _parsed(prog, summary, arguments, words)
    for argument in arguments:
        raw = getattr(given, argument.key)
        if argument.read is None or raw is None:
            continue
        if argument.joined and not raw:
            setattr(given, argument.key, None)
            continue
        try:
            if isinstance(raw, list) and not argument.joined:
                value: Any = [argument.read(session, word) for word in raw]
            else:
                value = argument.read(session, " ".join(raw) if argument.joined else raw)
        except UsageError as problem:
            if argument.is_option:  # of several it is one that was meant
                problem.concerns(argument.name)
            raise
        setattr(given, argument.key, value)
    return given


_PARSERS: dict[str, _Parser] = {}  # by what they read; each is in here while it reads nothing


def _parsed(prog: str, summary: str, arguments: Sequence[Argument], words: Sequence[str]) -> argparse.Namespace:
    """The words by the keys of their arguments. Making a parser takes longer than most verbs: one is used again.

    argparse changes a parser while it reads. So one is taken out for that, and what was refused or interrupted leaves
    it out.
    """
    reader = _PARSERS.pop(prog, None)
    if reader is None or reader.arguments is not arguments:
        reader = parser(prog, summary, arguments)
        reader.usage = prog  # else it is written anew for each line, for messages that are not shown
    given = reader.parse_intermixed_args(list(words))
    _PARSERS[prog] = reader
    return given


# What argparse takes for a negative number, and so for a value.
_NUMBER = re.compile(r"-\d+\Z|-\d*\.\d+\Z")


def _check_written(prog: str, words: Sequence[str], options: Mapping[str, Argument]) -> None:
    """Refuse what argparse would drop, or refuse without a way out: options given twice, values that begin with -.

    Raises:
        UsageError: There is such a word.
    """
    seen: set[str] = set()
    for before, word in zip(("", *words), words, strict=False):
        name = word.split("=", 1)[0]
        if name in options and name in seen:
            several = options[name].count is not None
            hint = f"Write all its values behind one {name}." if several else "Leave one of them out."
            raise UsageError(f"{prog} takes {name} once", given="it twice", hint=hint)
        seen.add(name)
        if word.startswith("-") and name not in options and word not in ("-", "--") and not _NUMBER.match(word):
            behind = before in options and options[before].read is not None
            raise unknown(
                f"{prog}: a word that begins with - is an option",
                word,
                options,
                given=word,
                hint=f"As a value it is written {f'{before}={word}' if behind else f'({word})'}; "
                f"`{prog} -h` shows what there is.",
            )


def word(session: Session, word: str) -> str:  # noqa: ARG001  one signature for all readers
    """A word just as it is written."""
    return word


def text(session: Session, word: str) -> str:
    """A word as it is, quotes removed, with `$name` and `{name}` of the notebook filled in."""
    return session.front.expand(plain(word))


def whole_number(session: Session, word: str) -> int:
    """An integer."""
    try:
        return int(text(session, word))
    except ValueError:
        raise UsageError("A whole number is needed here", given=word) from None


_SECONDS = {"ms": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "s": 1.0}  # both signs of micro


def seconds(session: Session, word: str) -> float:
    """A positive number of seconds; "500ms", "20us" and "2s" are understood."""
    given = text(session, word).strip().lower()
    unit = next((unit for unit in _SECONDS if given.endswith(unit)), "")
    try:
        value = float(given.removesuffix(unit)) * _SECONDS.get(unit, 1.0)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError("A positive number of seconds is needed here, such as 2 or 500ms", given=word)
    return value


def percentage(*, zero: bool = False, hundred: bool = True) -> Callable[[Session, str], float]:
    """The reader of a percentage, which is a fraction then; "2" and "2%" are 0.02.

    Whoever is given the fraction checks it too, but would name fractions: nobody typed one.

    Args:
        zero: Whether 0 is one of them.
        hundred: Whether 100 is.
    """
    bounds = f"{'from 0' if zero else 'above 0'}{' to' if zero else ', at most' if hundred else ','}"
    rule = f"A percentage {bounds} {'' if hundred else 'below '}100 is needed here, such as 2 or 2%"

    def read(session: Session, word: str) -> float:
        try:
            value = float(text(session, word).strip().removesuffix("%"))
        except ValueError:
            value = math.nan
        inside = 0 < value < 100 or (zero and value == 0) or (hundred and value == 100)
        if not inside:
            raise UsageError(rule, given=word)
        return value / 100

    return read


def seed(session: Session, word: str) -> int:
    """A seed of random numbers."""
    return check_seed(whole_number(session, word))


def whole_numbers(session: Session, word: str) -> list[int]:
    """Integers separated by commas, such as "1,2,4"."""
    try:
        return [int(part) for part in text(session, word).strip("[]() ").split(",") if part.strip()]
    except ValueError:
        raise UsageError("Whole numbers separated by commas are needed here, such as 1,2,4", given=word) from None


def whole_numbers_by_name(session: Session, word: str) -> dict[str, int]:
    """Integers by name, such as "wide=2,deep=4"; a dict of the notebook's stands for them."""
    written = text(session, word).strip()
    is_dict = written[:1] + written[-1:] == "{}"
    parts = split_at_commas(written[1:-1] if is_dict else written)
    pairs = [part.partition(":" if is_dict else "=") for part in parts]
    try:
        numbers = {plain(name.strip()): int(number) for name, _, number in pairs}
    except ValueError:
        numbers = {}
    if not numbers or len(numbers) < len(pairs):
        raise UsageError("Whole numbers by name are needed here, such as wide=2,deep=4", given=word)
    return numbers


_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def size(session: Session, word: str) -> int:
    """A number of bytes; "500MB", "4GB" and "4GiB" are understood."""
    written = re.fullmatch(r"\s*(\d{1,18}(?:\.\d*)?)\s*([a-z]*)\s*", text(session, word), re.IGNORECASE)
    if written is None or written[2].upper() not in _SIZES:
        raise UsageError("A size is needed here, such as 500MB or 4GB", given=word)
    return round(float(written[1]) * _SIZES[written[2].upper()])


def names(session: Session, word: str) -> list[str]:
    """Names separated by commas, each in quotes or not; a list of the notebook's stands for its names."""
    written = text(session, word).strip()
    if written[:1] + written[-1:] in ("[]", "()", "{}"):
        written = written[1:-1]
    return [name for part in split_at_commas(written) if (name := plain(part).strip())]


def split_at_commas(written: str) -> list[str]:
    """The parts of a text between those commas that are in no quotes and no brackets."""
    parts, inside = [""], 0
    for piece in _PIECES.findall(written):
        inside += (piece in _CLOSING) - (piece in _CLOSING.values())
        if piece == "," and not inside:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts if part.strip()]


def expression(session: Session, word: str) -> Any:
    """The value of a Python expression in the notebook."""
    return session.front.evaluate(word)


def numbers(session: Session, word: str) -> list[float]:
    """Positive numbers separated by commas, such as "50,100,200"."""
    try:
        found = [float(part) for part in text(session, word).strip("[]() ").split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or not all(0 < number < float("inf") for number in found):
        raise UsageError("Positive numbers separated by commas are needed here, such as 50,100,200", given=word)
    return found


_METAVARS: Mapping[object, str] = {seconds: "S", size: "SIZE", text: "NAME", names: "A,B", expression: "EXPR"}
_METAVARS = {**_METAVARS, whole_number: "N", seed: "N"}
