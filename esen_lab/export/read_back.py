"""What is to be exported is read again before it is written: what cannot be is refused here, and not where it runs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from esen_lab.common.surroundings import model_cell
from esen_lab.errors import EsenError, UsageError
from esen_lab.export.bundle import OtherRule, bundle_of


def check_readable(files: Mapping[str, bytes]) -> None:
    """Refuse files of an export that cannot be read again, or whose combine rule is another one then.

    Args:
        files: What `bundle_files` gave, with answers.

    Raises:
        UsageError: They are not the same; the message says what.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OtherRule)
            bundle_of(files)
    except OtherRule as problem:
        raise UsageError(
            "What is saved of a combine rule answers as the rule does",
            given=str(problem),
            hint="Define it with def in one cell, with plain values or in a module, and set it again.",
        ) from problem
    except EsenError as problem:
        raise UsageError(
            "What is exported can be read again",
            given=": ".join(filter(None, (problem.rule, problem.given))),
            hint=f"Build the sub-model {model_cell()} instead; a combine rule goes into a module.",
        ) from problem
