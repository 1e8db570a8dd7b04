"""What the lab's options are called on a magic's line: errors name them as Python does.

`max_lanes` is `--lanes` there, and `on_failure='leave-out'` is `--leave-out`. Which is which is said by the arguments
of the verb (`Argument.option`), so that no error below has to know of flags.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from esen_lab.ui.magics.arguments import Argument

# What stands behind "name=": a text, a list or dict, an ellipsis, or a word without the full stop after it.
_VALUE = r"""(?P<value>'[^']*'|\[[^\]]*\]|\{[^}]*\}|\.\.\.|[\w.+-]*\w)"""


def in_flags(said: str, arguments: Sequence[Argument]) -> str:
    """A text of the lab in the words of a verb.

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
