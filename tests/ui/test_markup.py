"""The one door of HTML and SVG, and that the package has no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from esen_lab.cost_model import fit_points
from esen_lab.ui.markup import ATTRIBUTES, TAGS, Markup, css_text, element, joined, style, text
from esen_lab.ui.pictures import image
from esen_lab.ui.pictures.rows import Bar, Bars
from esen_lab.ui.widgets.board_view import models_data

PACKAGE = Path(__file__).parents[2] / "esen_lab"
PAGES = sorted(
    path
    for folder in (PACKAGE / "ui/assets", PACKAGE.parent / "extensions/esen-lab/src")
    for path in folder.rglob("*")
    if path.suffix in {".js", ".ts", ".tsx"} and "__tests__" not in path.parts
)
DOOR = "ui/markup.py"
EVIL = "<img src=x onerror=alert(1)>'\"&\x1b"
ESCAPED = "&lt;img src=x onerror=alert(1)&gt;&#x27;&quot;&amp;\\x1b"


def test_text_is_escaped_wherever_it_stands() -> None:
    assert text(EVIL) == ESCAPED
    assert joined([EVIL, element("b", EVIL)], EVIL) == f"{ESCAPED}{ESCAPED}<b>{ESCAPED}</b>"
    assert element("div", EVIL, title=None, class_=EVIL) == f"<div class='{ESCAPED}'>{ESCAPED}</div>"
    assert element("img", alt=EVIL) == f'<img alt="{ESCAPED}"/>'


@pytest.mark.parametrize("name", ["נטו", "رشته_2", "a.שם-v2"])
def test_a_name_from_right_to_left_turns_nothing_that_stands_behind_it(name: str) -> None:
    assert text(f"1: {name} | 2: deep") == f"1: {name}\N{LEFT-TO-RIGHT MARK} | 2: deep"
    assert element("b", f"{name} 27 ms") == f"<b>{name}\N{LEFT-TO-RIGHT MARK} 27 ms</b>"
    shown = str(image(Bars(bars=(Bar(label=name, median_s=0.02, spread_s=0.0),))))
    assert f"{name}\N{LEFT-TO-RIGHT MARK} 20.0 ms" in shown
    assert "\\u200e" not in shown
    (known,) = models_data({name: fit_points(name, {1: 0.02}, units=1)}, 1, "core")["models"]
    assert (known["name"], known["label"]) == (name, f"{name}\N{LEFT-TO-RIGHT MARK}")


def test_markup_goes_into_markup_as_it_is_and_becomes_text_when_it_is_mixed_by_hand() -> None:
    bold = element("b", "x")
    assert element("div", bold) == "<div><b>x</b></div>"
    for mixed in (f"{bold}", bold + "", "%s" % bold, bold.replace("x", "y"), "".join([bold]), str(bold)):  # noqa: UP031
        assert not isinstance(mixed, Markup)
        assert "<b>" not in element("div", mixed)


def test_an_attribute_holds_no_markup() -> None:
    assert element("div", class_=element("b", "x")) == "<div class='&lt;b&gt;x&lt;/b&gt;'></div>"


@pytest.mark.parametrize("tag", ["script", "iframe", "a", "foreignObject", "b onclick=x", "object", "B", ""])
def test_only_tags_that_do_nothing_can_be_made(tag: str) -> None:
    with pytest.raises(ValueError, match="no tag of ours"):
        element(tag)


@pytest.mark.parametrize("name", ["onload", "href", "srcdoc", "xlink:href", "x y", "formaction", "id", "style='"])
def test_only_attributes_that_do_nothing_can_be_made(name: str) -> None:
    with pytest.raises(ValueError, match="no attribute of ours"):
        element("div", **{name: "x"})


@pytest.mark.parametrize(
    "source", ["javascript:alert(1)", "http://x", "data:text/html;base64,AA==", "data:image/svg+xml,x"]
)
def test_an_image_comes_from_its_own_address(source: str) -> None:
    with pytest.raises(ValueError, match="image of ours"):
        element("img", src=source)


def test_nothing_of_the_lists_can_run() -> None:
    assert not TAGS & {
        "script",
        "iframe",
        "object",
        "embed",
        "a",
        "form",
        "link",
        "meta",
        "base",
        "use",
        "image",
        "foreignObject",
    }
    assert not [name for name in ATTRIBUTES if name.startswith("on") or name in {"href", "srcdoc", "action", "data"}]


# --- no other door ----------------------------------------------------------------------------------------------------


def _made_elsewhere(source: Path) -> Iterator[str]:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    known = sorted({*TAGS - {"text"}, "a", "p", "i", "script", "iframe", "h1", "h2", "h3", "ul", "li"})
    tags = re.compile(rf"</?({'|'.join(known)})[\s/>]", re.IGNORECASE)
    for node in ast.walk(tree):
        where = f"{source.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            if tags.search(node.value):
                yield f"{where} writes a tag"
        elif isinstance(node, ast.ImportFrom) and node.module == "html" and {n.name for n in node.names} - {"unescape"}:
            yield f"{where} escapes by itself"
        elif isinstance(node, ast.Import) and any(
            name.name.split(".")[0] in {"html", "markupsafe", "jinja2"} for name in node.names
        ):
            yield f"{where} imports html"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "Markup":
                yield f"{where} says of a text that it is markup"
            if called.split(".")[-1] in {
                "HTML",
                "HTMLMath",
                "Javascript",
                "Markdown",
                "Latex",
                "SVG",
                "Div",
                "display_html",
            }:
                yield f"{where} shows markup past the door"


def test_no_other_file_makes_markup() -> None:
    found = [
        said
        for source in sorted(PACKAGE.rglob("*.py"))
        if str(source.relative_to(PACKAGE)) != DOOR
        for said in _made_elsewhere(source)
    ]
    assert found == []


def test_the_search_for_other_doors_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_markup.PACKAGE", tmp_path)
    (tmp_path / "x.py").write_text(
        "from html import escape\nimport html\na = f'<b>{1}</b>'\nb = Markup('x')\nc = widgets.HTML('x')\nd = '<td>'\n"
    )
    assert len({said.split(" ")[0] for said in _made_elsewhere(tmp_path / "x.py")}) == 6


def test_pages_put_text_into_elements_and_never_markup() -> None:
    """Our TypeScript and JavaScript: a fixed template may be markup, whatever is filled in may not."""
    assert len(PAGES) > 10
    for path in PAGES:
        code = path.read_text(encoding="utf-8")
        for found in re.finditer(r"(innerHTML|outerHTML|srcdoc)\s*\+?=\s*(`[^`]*`|.*)", code):
            assert found[2].startswith("`"), f"{path.name}: {found[0]}"
            assert "${" not in found[2], f"{path.name}: {found[0]}"
        for word in (
            "insertAdjacentHTML",
            "document.write",
            "dangerouslySetInnerHTML",
            "createContextualFragment",
            "eval(",
        ):
            assert word not in code, f"{path.name} has {word}"
        assert [f for f in re.findall(r"new Function\((.*?)\)", code) if f != 'loader.get("source"'] == []
        assert not re.search(r"""setAttribute\(\s*["'`](on|href|src)""", code), path.name


def test_pages_make_one_link_and_look_at_its_address() -> None:
    """What comes of another address than one of http or https is in the extension's own tests."""
    code = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
    made = [(name, address) for name, text in code.items() for address in re.findall(r"\bhref: *([^,}\s]+)", text)]
    assert made == [("draw.ts", "dashboard")]
    assert "const dashboard = webAddress(nodes.dashboard);" in code["draw.ts"]
    assert [name for name, text in code.items() if re.search(r"\.href\s*=|window\.open|location\.assign", text)] == []


def test_what_is_printed_goes_through_one_door() -> None:
    """Programs that talk to their own parent on a pipe are named; a live line of a terminal is made of `to_text`."""
    talking = {
        "devices/cuda/probe.py",
        "devices/cuda/mps_guard.py",
        "devices/cuda/mps_trial.py",
        "devices/self_test_program.py",
        "visible.py",
    }
    found = []
    for source in sorted(PACKAGE.rglob("*.py")):
        name = str(source.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            prints = called in {"print", "sys.stdout.write", "sys.stderr.write"}
            if prints and name not in talking and "to_text(" not in ast.unparse(node):
                found.append(f"{name}:{getattr(node, 'lineno', 0)}")
    assert found == []


def test_a_text_of_a_rule_is_text_whatever_it_says() -> None:
    for said in ("url(x)", "@import 'x'", "</style>", "a'b", "}*{"):
        assert "url(" not in style(f"td::before{{content:{css_text(said)}}}")
