"""Reads the arguments of a magic's line. Errors are one line, name the word and offer the nearest right one.

A line is parted at spaces that are outside of quotes and brackets, so that expressions such as
`torch.randn(8, -1)` and `{"ids": ids}` need no quoting. An unquoted `#` begins a comment.
"""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from esen_lab.common.words import unknown
from esen_lab.errors import UsageError

if TYPE_CHECKING:
    from esen_lab.ui.session import Session

_CLOSING = {"(": ")", "[": "]", "{": "}"}
# A whole string, a run of spaces, or one other letter (a lone quotation mark among them).
_PIECES = re.compile(r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\s+|.""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a verb.

    Attributes:
        name: "--rounds" for an option, "name" for a word that is known by its place.
        help: One line.
        read: Turns the word into a value; raises `UsageError`. None for a switch.
        metavar: What stands for the value in help.
        count: As in argparse: None (exactly one), "?", "*" or "+".
        joined: Several words make one value: an expression with spaces in it. With `count` "*" it may be left out.
        key: Its name among the values; "" for `name` without its dashes.
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
    suggest: Callable[[Session], Iterable[str]] | None = None

    def __post_init__(self) -> None:
        """Derive what was not given."""
        object.__setattr__(self, "key", self.key or self.name.lstrip("-").replace("-", "_"))

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
    """A word without the quotes around it."""
    if len(word) >= 2 and word[0] == word[-1] and word[0] in "\"'":
        return word[1:-1]
    return word


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of leaving the interpreter."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", hint=f"`{self.prog} -h` shows what it takes.")


def parser(prog: str, summary: str, arguments: Sequence[Argument], *, epilog: str = "") -> argparse.ArgumentParser:
    """The argparse parser for a verb; values stay words."""
    verb_parser = _Parser(
        prog=prog,
        description=textwrap.fill(summary, shutil.get_terminal_size().columns - 2),  # as argparse has the rest
        epilog=epilog or None,
        add_help=False,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    given = parser(prog, summary, arguments).parse_intermixed_args(list(words))
    for argument in arguments:
        raw = getattr(given, argument.key)
        if argument.read is None or raw is None:
            continue
        if argument.joined and not raw:
            setattr(given, argument.key, None)
            continue
        if isinstance(raw, list) and not argument.joined:
            value: Any = [argument.read(session, word) for word in raw]
        else:
            value = argument.read(session, " ".join(raw) if argument.joined else raw)
        setattr(given, argument.key, value)
    return given


def word(session: Session, word: str) -> str:  # noqa: ARG001  one signature for all readers
    """A word just as it is written."""
    return word


def text(session: Session, word: str) -> str:
    """A word as it is, quotes removed, with `$name` and `{name}` of the notebook filled in."""
    return plain(session.front.expand(word))


def whole_number(session: Session, word: str) -> int:
    """An integer."""
    try:
        return int(text(session, word))
    except ValueError:
        raise UsageError("A whole number is needed here", given=word) from None


_SECONDS = {"ms": 1e-3, "us": 1e-6, "µs": 1e-6, "s": 1.0}


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


def percent(session: Session, word: str) -> float:
    """A percentage as a fraction; "2" and "2%" are 0.02."""
    try:
        return float(text(session, word).strip().removesuffix("%")) / 100
    except ValueError:
        raise UsageError("A percentage is needed here, such as 2 or 2%", given=word) from None


def whole_numbers(session: Session, word: str) -> list[int]:
    """Integers separated by commas, such as "1,2,4"."""
    try:
        return [int(part) for part in text(session, word).strip("[]() ").split(",") if part.strip()]
    except ValueError:
        raise UsageError("Whole numbers separated by commas are needed here, such as 1,2,4", given=word) from None


def whole_numbers_by_name(session: Session, word: str) -> dict[str, int]:
    """Integers by name, such as "wide=2,deep=4"."""
    pairs = [part.partition("=") for part in text(session, word).split(",") if part.strip()]
    try:
        numbers = {name.strip(): int(number) for name, _, number in pairs}
    except ValueError:
        numbers = {}
    if not numbers or len(numbers) < len(pairs):
        raise UsageError("Whole numbers by name are needed here, such as wide=2,deep=4", given=word)
    return numbers


_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def size(session: Session, word: str) -> int:
    """A number of bytes; "500MB", "4GB" and "4GiB" are understood."""
    written = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", text(session, word), re.IGNORECASE)
    if written is None or written[2].upper() not in _SIZES:
        raise UsageError("A size is needed here, such as 500MB or 4GB", given=word)
    return round(float(written[1]) * _SIZES[written[2].upper()])


def names(session: Session, word: str) -> list[str]:
    """Names separated by commas."""
    return [part.strip() for part in text(session, word).split(",") if part.strip()]


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
