"""Runs `%esen` lines and `%%esen` cells: finds the verb, reads its arguments, calls it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from esen_lab.common.words import unknown
from esen_lab.errors import EsenError, UsageError
from esen_lab.ui.magics.arguments import Argument, parse, split
from esen_lab.ui.magics.verbs import CELL_VERBS, RENAMED, VERBS
from esen_lab.ui.magics.verbs.verb import Verb, verb_help
from esen_lab.ui.session import Session


def run_line(session: Session, line: str) -> Any:
    """Do what an `%esen` line says.

    Raises:
        EsenError: With one line for the user.
        Exception: What the user's own expression raised.
    """
    return _run(session, "%esen", VERBS, split(line))


def run_cell(session: Session, line: str, cell: str) -> Any:
    """Do what a `%%esen` cell says; raises as `run_line` does."""
    words = split(line)
    if not words or (words[0] not in CELL_VERBS and words[0] in VERBS):
        raise UsageError(
            "A cell that begins with %%esen defines a sub-model: `%%esen model NAME`",
            given=f"%%esen {line.strip()}".strip(),
            hint="Write the other verbs on a line of their own, with a single %.",
        )
    return _run(session, "%%esen", CELL_VERBS, words, cell)


def interrupted(line: str) -> str:
    """What to tell when Ctrl-C ended that line."""
    name = line.strip().rstrip(";").split(maxsplit=1)[:1] or ["status"]
    return VERBS.get(name[0], VERBS["status"]).interrupted


def _run(session: Session, magic: str, table: Mapping[str, Verb], words: list[str], cell: str | None = None) -> Any:
    quiet = bool(words) and words[-1].endswith(";")
    if quiet:
        words = [*words[:-1], *([words[-1][:-1]] if words[-1] != ";" else [])]
    name, *rest = words or ["status"]
    if name in ("-h", "--help"):
        name = "help"
    if name.endswith("?"):  # as IPython asks
        name, rest = name.rstrip("?"), ["-h"]
    verb = table.get(name)
    if verb is None and name in RENAMED:
        now = RENAMED[name]
        raise UsageError(f"{magic} {name} is called {magic} {now} now", given=name, hint=f"Write `{magic} {now}`.")
    if name.startswith("-"):
        raise UsageError("A verb comes first, its options behind it", given=name, hint="`%esen help` lists the verbs.")
    if verb is None:
        raise unknown(f"{magic} has no verb {name!r}", name, table, hint="`%esen help` lists them all.")
    prog = f"{magic} {name}"
    if "-h" in rest or "--help" in rest:
        session.front.show(verb_help(prog, verb))
        return None
    given = parse(session, prog, verb.summary, verb.arguments, rest)
    given.cell = cell
    session.learn_colours()
    try:
        result = verb.act(session, given)
    except EsenError as error:
        error.reword(partial(in_flags, arguments=verb.arguments))
        raise
    if quiet and result is not None:  # not shown, but `y = %esen run x;` has it all the same
        return session.front.hidden(result)
    return result


# What stands behind "name=": a text, a list or dict, an ellipsis, or a word without the full stop after it.
_VALUE = r"""(?P<value>'[^']*'|\[[^\]]*\]|\{[^}]*\}|\.\.\.|[\w.+-]*\w)"""


def in_flags(said: str, arguments: Sequence[Argument]) -> str:
    """A text of the lab, which names options as Python does, in the words of a verb: `max_lanes` is `--lanes` there.

    Args:
        said: The text; options that the verb does not take stay as they are.
        arguments: What the verb takes.
    """
    known = {argument.option: argument for argument in arguments if argument.is_option}
    if not known:
        return said
    name = rf"(?P<name>{'|'.join(sorted(map(re.escape, known), key=len, reverse=True))})"
    start = r"(?<![\w.-])(?<!--option )"  # what `--option` gives is the searcher's own, by its name in Python

    def with_value(found: re.Match[str]) -> str:
        return _flag(known, found["name"], found["value"])

    def alone(found: re.Match[str]) -> str:
        return f"{found['kind'] or ''}{_flag(known, found['name'])}"

    said = re.sub(rf"{start}{name} ?= ?{_VALUE}", with_value, said)
    said = re.sub(rf"(?P<kind>(?<![\w-])(?:option|limit) )'?{name}'?(?![\w-])", alone, said)
    # Names that are words of English too ("rounds", "pinned") are options only where something says so, as above.
    return re.sub(rf"(?P<kind>){start}(?=\w+_){name}\b(?!\(|\.\w)", alone, said)


def _flag(known: Mapping[str, Argument], name: str, value: str = "") -> str:
    argument = known[name]
    if argument.read is None or not value:
        return argument.name
    return f"{argument.name} {value[1:-1] if value.startswith(chr(39)) else value}"
