"""The pages of the documentation site: those of `docs/` and a few from outside, fit for Sphinx.

On a code host a link leads to a file. In the site it leads to that file's page; where a file has none, its words stay
without a link. Pictures for two themes become two images, of which a page shows the one of its theme.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OUTSIDE: Mapping[str, str] = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "extensions/esen-lab/PROTOCOL.md": "protocol.md",
}
"""Pages that lie elsewhere in the checkout, and where they are in the site."""
RENAMED: Mapping[str, str] = {"search.md": "searchers.md"}
"""Pages whose names Sphinx has for pages of its own, and what they are called in the site."""
GENERATED = ("tutorial.md", "reference/magics.md", "reference/command_line.md")
EVERY_OTHER = "every other page"
"""What stands in a table of contents for all pages of `docs/` that nothing else names."""
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
_PICTURE = re.compile(
    r"<picture>.*?srcset=\"([^\"]+)\".*?<img alt=\"([^\"]*)\" src=\"([^\"]+)\".*?</picture>", re.DOTALL
)
_TOC = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^(`{3,}|:{3,})[^\n]*\n.*?^\1\s*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_MERMAID = re.compile(r"^```mermaid\n.*?^```\n(?:\nThe same in words:\n)?", re.MULTILINE | re.DOTALL)


class LostPageError(Exception):
    """A table of contents names a page that is not there, or a page is in none."""


def site_pages(docs: Path = DOCS, root: Path = ROOT) -> dict[Path, str]:
    """Every page: its file in the checkout, and its name in the site."""
    names = {page: page.relative_to(docs).as_posix() for page in sorted(docs.rglob("*.md"))}
    found = {page: RENAMED.get(name, name) for page, name in names.items()}
    return found | {root / name: where for name, where in OUTSIDE.items() if (root / name).is_file()}


def copy_pages(target: Path, docs: Path = DOCS, root: Path = ROOT) -> list[str]:
    """Write all pages, pictures and settings to an empty folder; returns the names of the pages.

    Raises:
        LostPageError: See `filled`.
    """
    shutil.copytree(docs, target, ignore=shutil.ignore_patterns("*.md", "__pycache__"))
    pages = site_pages(docs, root)
    for page, name in pages.items():
        text = page.read_text(encoding="utf-8")
        if name == "index.md":
            text = filled(text, [*pages.values(), *GENERATED])
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(fit(text, page, name, pages, docs), encoding="utf-8")
    return list(pages.values())


def fit(text: str, page: Path, name: str, pages: Mapping[Path, str], docs: Path = DOCS) -> str:
    """A page's text as the site needs it.

    Args:
        text: What the file holds.
        page: The file.
        name: The page's name in the site.
        pages: See `site_pages`.
        docs: The folder whose other files (pictures) are in the site, too.
    """
    text = _MERMAID.sub("", text)
    text = _PICTURE.sub(_two_images, text)

    def link(found: re.Match[str]) -> str:
        mark, words, target = found.groups()
        where, hash_, anchor = target.partition("#")
        if not where or re.match(r"[a-z]+:", where):
            return found[0]
        file = Path(os.path.normpath(page.parent / where))
        there = pages.get(file)
        if there is None and where in GENERATED:
            there = where
        if there is None and file.is_relative_to(docs) and file.is_file():
            there = file.relative_to(docs).as_posix()
        if there is None:
            return str(words)
        beside = os.path.relpath(there, PurePosixPath(name).parent)
        return f"{mark}[{words}]({beside}{hash_}{anchor})"

    return _outside_code(text, link)


def _outside_code(text: str, link: object) -> str:
    """Links replaced, but for what looks like one inside code."""
    made, at = [], 0
    for code in _CODE.finditer(text):
        made += [_LINK.sub(link, text[at : code.start()]), code[0]]  # type: ignore[call-overload]
        at = code.end()
    return "".join([*made, _LINK.sub(link, text[at:])])  # type: ignore[call-overload]


def _two_images(found: re.Match[str]) -> str:
    dark, words, light = found.groups()
    return "\n\n".join(
        f":::{{image}} {file}\n:alt: {words}\n:class: only-{theme}\n:::"
        for theme, file in (("light", light), ("dark", dark))
    )


def filled(index: str, pages: Sequence[str]) -> str:
    """The index with every page in a table of contents: `folder/*` and `every other page` written out.

    Raises:
        LostPageError: It names a page that is not there, or one twice, or leaves one out, or has a name of Sphinx's;
            the message says what to do.
    """
    names = {name.removesuffix(".md") for name in pages} - {"index"}
    taken = sorted(names & {"genindex", "py-modindex", "search"})
    if taken:
        raise LostPageError(f"Sphinx has pages of these names: {', '.join(taken)}. Name them in RENAMED.")
    told = [line.strip() for toc in _TOC.findall(index) for line in toc.splitlines()]
    told = [line for line in told if line and not line.startswith(":") and line != EVERY_OTHER]
    folders = {line.removesuffix("*") for line in told if line.endswith("/*")}
    named = [line for line in told if not line.endswith("/*")]
    lost = sorted(set(named) - names)
    if lost:
        raise LostPageError(f"docs/index.md names pages that are not there: {', '.join(lost)}. Take their lines out.")
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise LostPageError(f"docs/index.md names pages twice: {', '.join(twice)}. One line each is enough.")
    rest = sorted(names - set(named))
    in_folders = {folder: [name for name in rest if name.startswith(folder)] for folder in folders}
    others = [name for name in rest if not any(name in inside for inside in in_folders.values())]
    deep = [name for name in others if "/" in name]
    if deep or (others and EVERY_OTHER not in index):
        lines = ", ".join(deep or others)
        raise LostPageError(f"docs/index.md leaves pages out: {lines}. Add a line for each to one of its toctrees.")

    def written(toc: re.Match[str]) -> str:
        lines = []
        for line in toc[0].splitlines():
            entries = others if line == EVERY_OTHER else in_folders.get(line.removesuffix("*"), [line])
            lines += entries if line == EVERY_OTHER or line.endswith("/*") else [line]
        return "\n".join(lines)

    return _TOC.sub(written, index)
