"""HTML and SVG, written here and nowhere else, so that text from anywhere is always escaped.

Markup is made by `element` and `joined` and by nothing else. Whatever they are given that is not markup already is
text: it is escaped, and what has no shape of its own is made visible. An f-string, `+` and `%` turn markup into an
ordinary string again, hence into text: who forgets `element` sees tags on the page, and never makes them.

A test looks through the package for markup that is made elsewhere.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from html import escape

from esen_lab.terminal import visible

# What views, pictures and sliders are made of: nothing in it runs, loads or leads anywhere.
TAGS = frozenset({"b", "br", "code", "details", "div", "img", "pre", "progress", "span", "summary"}) | frozenset(
    {"table", "td", "th", "tr", "svg", "style", "text", "path", "rect", "polyline", "circle", "title"}
)
_EMPTY = frozenset({"br", "img", "path", "rect", "polyline", "circle"})
_ON_PAGES = {"alt", "title", "class", "style", "max", "value", "src"}
_ON_PICTURES = {"aria-label", "role", "xmlns", "viewBox", "width", "height", "font-size", "font-family", "transform"}
_ON_SHAPES = {"fill", "stroke", "stroke-width", "stroke-dasharray", "x", "y", "d", "r", "cx", "cy", "points"}
ATTRIBUTES = frozenset(_ON_PAGES | _ON_PICTURES | _ON_SHAPES)
_HARMLESS = re.compile(r"[\w .,:;#%()/+=-]*", re.ASCII)  # most of what is put in, and quickly told
_CSS = re.compile(r"[\w .,:;#%(){}@+'\\/*-]*", re.ASCII)
_PLAIN = re.compile(r"[\w .,:%)/+-]", re.ASCII)  # no "(": a text may say "url(", which no rule of ours does
ON_TO_THE_RIGHT = "\N{LEFT-TO-RIGHT MARK}"
# Of Hebrew, Arabic, Syriac, Thaana, N'Ko and the like.
_FROM_RIGHT = re.compile(r"[\w.-]*[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc][\w.-]*")
_IMAGE = re.compile(r"data:image/svg\+xml;base64,[A-Za-z0-9+/=]*")


class Markup(str):
    """HTML or SVG, made here. Not to be called elsewhere."""

    __slots__ = ()


NOTHING = Markup()


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """One element.

    Args:
        tag: One of `TAGS`.
        children: What it holds; text is escaped, markup goes in as it is.
        attributes: From `ATTRIBUTES`, written with "_" in place of "-" and at the end of a word of Python's; always
            text. None leaves one out.

    Raises:
        ValueError: A tag, an attribute or an image's source that is not among those.
    """
    if tag not in TAGS:
        raise ValueError(f"no tag of ours: {tag}")
    mark = '"' if tag == "img" else "'"  # as whoever takes pictures out of saved notebooks looks for them
    written = [f"<{tag}"]
    for name, value in attributes.items():
        if value is not None:
            if name == "src" and not _IMAGE.fullmatch(str(value)):
                raise ValueError("an image of ours is an SVG in its own address")
            # What is markup elsewhere is text in an attribute.
            written.append(f" {_attribute(name)}={mark}{text(str(value))}{mark}")
    if tag in _EMPTY and not children:
        return Markup(f"{''.join(written)}/>")
    return Markup(f"{''.join(written)}>{''.join(map(text, children))}</{tag}>")


def style(*rules: str) -> Markup:
    """Rules of CSS, as they are: they are ours, and what they say in words comes from `css_text`.

    Raises:
        ValueError: They could end the element, or fetch something.
    """
    css = "".join(rules)
    if not _CSS.fullmatch(css) or "url(" in css or "@import" in css:
        raise ValueError("rules of ours hold no markup, and lead nowhere")
    return Markup(f"<style>{css}</style>")


@functools.lru_cache(maxsize=512)
def css_text(value: str) -> str:
    """A text as a string of CSS: what is neither a plain letter nor a digit is written by its number."""
    return "'" + "".join(c if _PLAIN.fullmatch(c) else f"\\{ord(c):x} " for c in visible(value)) + "'"


def joined(parts: Iterable[str], between: str = "") -> Markup:
    """Parts one after another; text among them, and `between`, is escaped."""
    return Markup(text(between).join(map(text, parts)))


def text(value: object) -> Markup:
    """Anything as what can stand in an element or an attribute; markup stays as it is."""
    if isinstance(value, Markup):
        return value
    written = str(value)
    return _kept(written) if len(written) <= _SHORT else _escaped(written)


def _escaped(written: str) -> Markup:
    if _HARMLESS.fullmatch(written):
        return Markup(written)
    return Markup(escape(directed(written if written.isprintable() else visible(written))))


def directed(written: str) -> str:
    """A text in which a name in letters from right to left does not turn what stands behind it.

    Without a mark behind it, "name 1.2 ms" is shown as "1.2 name ms", and lanes change places with their sub-models.
    """
    return _FROM_RIGHT.sub(rf"\g<0>{ON_TO_THE_RIGHT}", written)


_SHORT = 48  # characters of what is kept: names, figures, colours and places come again and again
_kept = functools.lru_cache(maxsize=4096)(_escaped)


@functools.cache
def _attribute(name: str) -> str:
    written = name.rstrip("_").replace("_", "-")
    if written not in ATTRIBUTES:
        raise ValueError(f"no attribute of ours: {written}")
    return written
