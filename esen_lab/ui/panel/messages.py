"""What pages and kernel may say to each other, and whether a message is that: one schema for both, messages.json.

The page checks what comes by the same file (extensions/esen-lab/src/messages.ts). The file is JSON Schema, in those of
its words that both sides understand; a test holds it to them.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esen_lab.terminal import visible

SCHEMA_FILE = Path(__file__).with_name("messages.json")
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": (list, tuple),
    "string": str,
    "boolean": bool,
    "null": type(None),
}
_EXACT = 2**53  # whole numbers beyond are not told apart by a page
_MOST = sys.float_info.max
_DEEPEST = 50
_LONGEST = 20_000  # of a text; what is longer is cut


@functools.cache
def schema() -> Mapping[str, Any]:
    """The schema of all messages: openings, to_kernel, to_page, monitor, sections."""
    found: Mapping[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return found


def problem_of_command(data: Any) -> str:
    """What is wrong with a page's command, or "". One of a kind that is not known is not wrong."""
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        return "a command is an object with a kind"
    rule = schema()["to_kernel"].get(data["kind"])
    return "" if rule is None else problem(data, rule)


def problem(value: Any, rule: Mapping[str, Any], where: str = "") -> str:
    """What is wrong with a value, such as "have: array wanted, 5 given", or ""."""
    kinds = rule.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return _wrong(where, f"{' or '.join(kinds)} wanted", value)
    if value is None:
        return ""
    if "enum" in rule and value not in rule["enum"]:
        return _wrong(where, f"one of {', '.join(rule['enum'])} wanted", value)
    if isinstance(value, str):
        return _wrong(where, "a shorter text wanted", value) if len(value) > rule.get("maxLength", math.inf) else ""
    if isinstance(value, (int, float)):
        least, most = rule.get("minimum", -math.inf), rule.get("maximum", math.inf)
        return "" if least <= value <= most else _wrong(where, f"{least} to {most} wanted", value)
    if isinstance(value, (list, tuple)):
        if len(value) > rule.get("maxItems", math.inf):
            return _wrong(where, f"at most {rule['maxItems']} items wanted", len(value))
        items = rule.get("items")
        return "" if items is None else _first(problem(each, items, f"{where}[{n}]") for n, each in enumerate(value))
    return _problem_of_object(value, rule, where)


def _problem_of_object(value: Mapping[str, Any], rule: Mapping[str, Any], where: str) -> str:
    for name in rule.get("required", ()):
        if name not in value:
            return f"{_below(where, name)}: missing"
    known, others = rule.get("properties", {}), rule.get("additionalProperties")
    rules = {name: known.get(name, others) for name in value}
    return _first(
        problem(value[name], wanted, _below(where, name)) for name, wanted in rules.items() if wanted is not None
    )


def _is(value: Any, kind: str) -> bool:
    if kind in ("number", "integer"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if kind == "number":
            return -_MOST <= value <= _MOST  # neither NaN nor infinity is
        return abs(value) <= _EXACT and (isinstance(value, int) or value.is_integer())
    return isinstance(value, _TYPES[kind])


def _below(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)[:100]


def _wrong(where: str, wanted: str, value: Any) -> str:
    given = ascii(value) if isinstance(value, (str, int, float, type(None))) else type(value).__name__
    return f"{where or 'message'}: {wanted}, {given[:60]} given"


def _first(problems: Any) -> str:
    return next(filter(None, problems), "")


def plain(value: Any, *, whole: bool = False, depth: int = 0) -> Any:
    """`value` as JSON that every page reads: no NaN or infinity, no number too large, no broken text, nothing endless.

    A number that is not finite is absent (None), as a reading that failed is.

    Args:
        value: Anything.
        whole: Whether texts go as they are, such as a program; else they are for people: made visible, and cut where
            they are very long.
        depth: How deep it lies in what is sent.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, whole)
    if isinstance(value, int):
        return int(value) if abs(value) <= _EXACT else float(value) if abs(value) <= _MOST else None
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if depth >= _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {_text(str(key), whole): plain(each, whole=whole, depth=depth + 1) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each, whole=whole, depth=depth + 1) for each in value]
    return _text(str(value), whole)


def _text(text: str, whole: bool) -> str:
    if whole:
        return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
    if not text.isprintable():
        text = visible(text[: _LONGEST + 1])
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
