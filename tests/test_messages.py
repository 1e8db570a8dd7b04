"""The form of what users are told: every error that the package raises, read from its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from esen_lab import errors
from esen_lab.common.words import did_you_mean, listed
from esen_lab.errors import EsenError, UsageError
from esen_lab.ui.magics.verbs import CELL_VERBS, VERBS

PACKAGE = Path(__file__).parents[1] / "esen_lab"
KINDS = {name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, EsenError)}
KINDS |= {"unknown"}  # `common/words.py` makes those about names


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One place that makes an error; texts have "{}" where something is filled in, None: it is made elsewhere."""

    where: str
    kind: str
    rule: str | None
    given: str | None
    hint: str | None


def _text(node: ast.expr | None) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def sites(source: Path) -> Iterator[Site]:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        kind = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
        if not isinstance(node, ast.Call) or kind not in KINDS or not node.args:
            continue
        more = {word.arg: _text(word.value) for word in node.keywords}
        where = f"{source.name}:{node.lineno}"
        yield Site(where=where, kind=kind, rule=_text(node.args[0]), given=more.get("given"), hint=more.get("hint"))


SITES = [site for source in sorted(PACKAGE.rglob("*.py")) for site in sites(source)]


_RULES: tuple[tuple[str, str], ...] = (
    (r"\s|.*\s\Z|\Z", "a rule is a sentence, without spaces around it"),
    (r".*\.\Z", "a rule has no full stop of its own"),
    (r"(?!(torch|reach|int8|unexpected)\b|[a-z_]+[:_.])[a-z]", "a rule begins as a sentence does"),
    # "'x.py' can be written. Given: its folder is not there": said of the case at hand, the rule is not true.
    (
        r"\{\} (can be|is an? [.\w]+ or|has at most|is there|is whole)\b",
        "a rule is of all such things, not of the one that breaks it",
    ),
    (r"(?i).*\b(invalid|illegal|must not|oops)\b", "a rule says what holds, not that something is bad"),
    (r"There is (no|nothing)\b(?! to)", "a rule says what holds; what was there instead is given"),
)
_GIVEN = ((r"\s*\Z|.*\.\.\Z", "what was given is not empty, and has no full stops"),)
_HINTS = (
    (r"(?!pip install).*[a-z)]\Z", "a hint is a sentence"),
    (r"(?!.*%esen cancel).*job\.cancel\(\)", "a hint fits who is told: notebooks have `%esen cancel`"),
)


def complaints(site: Site) -> Iterator[str]:
    """What is wrong with the form of an error."""
    for text, wrong in ((site.rule, _RULES), (site.given, _GIVEN), (site.hint or None, _HINTS)):
        yield from (told for form, told in wrong if text is not None and re.match(form, text, re.DOTALL))


def test_every_message_has_the_form() -> None:
    assert len(SITES) > 400
    assert [f"{site.where}: {told}" for site in SITES for told in complaints(site)] == []


@pytest.mark.parametrize(
    "code",
    [
        'UsageError(f"{x!r} can be written", given="it is not")',
        'UsageError("There is no plan")',
        'UsageError("invalid value")',
        'UsageError("A lane has cores.", given="none")',
        'UsageError("A lane has cores", given="")',
        'UsageError("A lane has cores", given="none", hint="give one")',
        'UsageError("One job runs", given="two", hint="Stop it: job.cancel().")',
    ],
)
def test_the_search_finds_what_has_not(tmp_path: Path, code: str) -> None:
    source = tmp_path / "x.py"
    source.write_text(f"raise {code}\n")
    assert [told for site in sites(source) for told in complaints(site)]


def test_nothing_that_was_given_is_said_to_be_nothing() -> None:
    assert str(UsageError("A name has letters", given="")) == "A name has letters. Given: nothing."
    assert str(UsageError("A name has letters", given="  ")) == "A name has letters. Given: only spaces."


def test_a_name_that_is_nearly_right_is_asked_about_whatever_it_names() -> None:
    assert did_you_mean("meen", ["mean", "majority"]) == "Did you mean mean?"
    assert did_you_mean("OpenVino", ["openvino", "eager"]) == "Did you mean openvino?"
    assert did_you_mean("xyz", ["mean"]) == did_you_mean(3, ["mean"]) == ""


def test_one_name_is_a_list_of_itself() -> None:
    assert listed("eager") == ["eager"]
    assert listed("eager, inductor") == ["eager", "inductor"]
    assert listed(("eager",)) == ("eager",)


@pytest.mark.parametrize("name", [*VERBS, *(f"%{name}" for name in CELL_VERBS)])
def test_every_verb_has_an_example_that_is_of_that_verb(name: str) -> None:
    table, magic = (CELL_VERBS, "%%esen") if name.startswith("%") else (VERBS, "%esen")
    bare = name.removeprefix("%")
    assert f"{magic} {bare}" in table[bare].example or f"%%esen {bare}" in table[bare].example
