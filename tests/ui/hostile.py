"""Text as an attacker would write it into a file, records full of it, and what may come out at the other end."""

from __future__ import annotations

import copy
import re
import unicodedata
import xml.etree.ElementTree as ET
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from esen_lab.common.units import BACKENDS
from esen_lab.ui.markup import ATTRIBUTES, TAGS

MARKUP = "<img src=x onerror=alert(1)></script><script>alert(1)</script>'\"><svg onload=alert(1)>`<b>`]]>-->"
STEERING = (
    "\x1b]8;;http://evil\x07\x1b[2J\x9b2J\r\n\x00\x08\u202e\u2066\ufeff\ud800\u2028\x7f$$\\href{javascript:x}{y}$$"
)
EVIL = MARKUP + STEERING
CHECKED = {"serial", "threads", "vmap", *BACKENDS}  # words that a file must use, or is refused
KEYS = {"kind", "name", "units", "unit", "details", "simulated"} | {  # under which plain rows are read
    *("class", "parameters", "memory_bytes", "recipe", "example", "fingerprint", "notes")
}


def evil(value: Any) -> Any:
    """The same value with hostile text at the front of every text in it, keys and private fields included."""
    if isinstance(value, Enum) or value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return value if value in CHECKED else EVIL + value
    if isinstance(value, Path):
        return Path((MARKUP + STEERING.replace("\0", "").replace("\ud800", "")).replace("/", "\u2215") + str(value))
    if isinstance(value, Mapping):
        return {key if key in KEYS else evil(key): evil(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list, set, frozenset)):
        return type(value)(map(evil, value))
    if is_dataclass(value) and not isinstance(value, type):
        made = copy.copy(value)
        for field in fields(value):
            object.__setattr__(made, field.name, evil(getattr(value, field.name)))
        return made
    return value


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, f"a tag that nobody of us made: {tag}"
        for name, value in attrs:
            assert name in ATTRIBUTES, f"an attribute that nobody of us made: {tag} {name}"
            if name == "src":
                found = re.fullmatch(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", value or "")
                assert found, value
                self.images.append(b64decode(found[1]).decode())

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(f"a declaration: {decl}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data}")


def check_html(markup: str) -> list[str]:
    """Fail on anything but our own harmless tags; returns the pictures in it."""
    tags = _Tags()
    tags.feed(markup)
    tags.close()
    check_text(markup)
    for svg in tags.images:
        check_svg(svg)
    return tags.images


def check_svg(svg: str) -> None:
    """Fail unless it is a well-formed picture of our own shapes."""
    for node in ET.fromstring(svg).iter():
        tag = node.tag.removeprefix("{http://www.w3.org/2000/svg}")
        assert tag in TAGS, tag
        assert set(node.attrib) <= ATTRIBUTES, node.attrib
        assert not any(
            "url(" in value or "javascript" in value for name, value in node.attrib.items() if name != "aria-label"
        )


def check_text(text: str) -> None:
    """Fail on anything that steers a terminal or reorders a line."""
    for character in text:
        assert character in "\n\t" or character.isprintable() or unicodedata.category(character) == "Zs", ascii(
            character
        )
