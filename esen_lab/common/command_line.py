"""The shell's command lines: argparse that asks what was meant, and values that are checked where they are typed."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from esen_lab.common.words import did_you_mean


class CommandParser(argparse.ArgumentParser):
    """argparse that asks about a word or an option which is nearly one of those there are.

    Options have to be written out: an abbreviation that is taken today may mean two options tomorrow.

    Args:
        **how: As for argparse.
    """

    def __init__(self, **how: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **how})

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and what was probably meant; exit with 2."""
        meant = self._meant(message)
        super().error(f"{message}. {meant}" if meant else message)

    def _meant(self, message: str) -> str:
        if named := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            return did_you_mean(named[1], [word.strip("' ") for word in named[2].split(",")])
        if named := re.search(r"unrecognized arguments: (?:.* )??(--[^\s=]+)", message):
            return did_you_mean(named[1], {option for option in self._options() if option.startswith("--")})
        return ""

    def _options(self) -> Iterable[str]:
        """Its options and those of its commands: what a command does not know, argparse tells its parent."""
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for parser in dict.fromkeys(action.choices.values()):
                    yield from parser._options()


def whole(least: int) -> Callable[[str], int]:
    """What reads a whole number of at least so much."""

    def parse(text: str) -> int:
        number = int(text) if text.isdecimal() else least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"a whole number of at least {least}, not {text!r}")
        return number

    return parse


def seconds(*, above_zero: bool) -> Callable[[str], float]:
    """What reads a finite number of seconds of 0 or more; 0 itself may be excluded."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number < 0 or (above_zero and number == 0):
            raise argparse.ArgumentTypeError(
                f"a number of seconds{' above 0' if above_zero else ', 0 or more'}, not {text!r}"
            )
        return number

    return parse
