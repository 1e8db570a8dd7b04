"""Reference pages made from the parsers themselves: the magics' verbs, and the command line."""

from __future__ import annotations

import argparse

from docs_notebook import fenced


def magics_page() -> str:
    """Every verb of `%esen` and `%%esen`, with the help that `-h` shows."""
    from esen_lab.ui.magics.arguments import parser
    from esen_lab.ui.magics.verbs import CELL_VERBS, VERBS

    parts = [
        "# Magics",
        "`%load_ext esen_lab` brings them. `%esen` alone says where the lab stands and what comes next; "
        "`%esen VERB -h` shows what is below.",
    ]
    for magic, verbs in (("%%esen", CELL_VERBS), ("%esen", VERBS)):
        for name, verb in verbs.items():
            if magic == "%esen" and name in CELL_VERBS:
                continue
            epilog = f"example:\n  {verb.example}" if verb.example else ""
            made = parser(f"{magic} {name}", verb.summary, verb.arguments, epilog=epilog)
            parts += [f"## {magic} {name}", fenced(made.format_help().rstrip(), "text")]
    return "\n\n".join(parts) + "\n"


def command_line_page() -> str:
    """`esen-lab` and its commands."""
    from esen_lab.cli import _parser

    made = _parser()
    parts = ["# Command line", "`esen-lab`, or `python -m esen_lab`.", fenced(made.format_help().rstrip(), "text")]
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                parts += [f"## esen-lab {name}", fenced(command.format_help().rstrip(), "text")]
    return "\n\n".join(parts) + "\n"
