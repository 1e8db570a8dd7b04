"""The pages of the documentation site, as `tools/docs*.py` puts them together; `make docs` builds them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from docs_notebook import page_of, shown  # noqa: E402
from docs_pages import GENERATED, LostPageError, copy_pages, filled, fit, site_pages  # noqa: E402
from docs_reference import command_line_page, magics_page  # noqa: E402

import docs  # noqa: E402

TOC = "```{toctree}\n:hidden:\n\na\nhowto/*\nevery other page\n```\n"


def test_a_new_page_is_in_a_table_of_contents_by_itself() -> None:
    made = filled(TOC, ["index.md", "a.md", "new.md", "howto/x.md", "howto/y.md"])
    assert made.splitlines()[3:-1] == ["a", "howto/x", "howto/y", "new"]


@pytest.mark.parametrize(
    ("index", "pages", "told"),
    [
        (TOC, ["howto/x.md"], "names pages that are not there: a. Take their lines out"),
        (TOC.replace("\na\n", "\na\na\n"), ["a.md"], "names pages twice: a"),
        (TOC, ["a.md", "deep/b.md"], "leaves pages out: deep/b. Add a line"),
        (TOC, ["a.md", "search.md"], "Sphinx has pages of these names: search"),
        (TOC.replace("every other page\n", ""), ["a.md", "b.md"], "leaves pages out: b. Add a line"),
    ],
)
def test_a_page_that_is_lost_is_said_with_what_to_do(index: str, pages: list[str], told: str) -> None:
    with pytest.raises(LostPageError, match=told):
        filled(index, ["index.md", *pages])


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("[c](../CONTRIBUTING.md#tests)", "[c](contributing.md#tests)"),
        (
            "[d](decisions/0001-everything-that-runs-is-a-plan.md)",
            "[d](decisions/0001-everything-that-runs-is-a-plan.md)",
        ),
        ("[code](../esen_lab/errors.py)", "code"),
        ("[s](search.md#searchers)", "[s](searchers.md#searchers)"),
        ("[web](https://semver.org)", "[web](https://semver.org)"),
        ("[here](#below)", "[here](#below)"),
        ("![p](search_time.svg)", "![p](search_time.svg)"),
        ("[t](tutorial.md)", "[t](tutorial.md)"),
        ("`[c](../CONTRIBUTING.md)`", "`[c](../CONTRIBUTING.md)`"),
        ("```text\n[c](../x.md)\n```\n", "```text\n[c](../x.md)\n```\n"),
    ],
)
def test_a_link_leads_to_a_page_of_the_site_or_is_words(text: str, made: str) -> None:
    page = ROOT / "docs" / "design.md"
    assert fit(text, page, "design.md", site_pages()) == made


def test_a_page_from_outside_links_into_the_site() -> None:
    text = "[a](docs/design.md#dependencies) and [b](docs/howto/gpu.md)"
    assert fit(text, ROOT / "CONTRIBUTING.md", "contributing.md", site_pages()) == (
        "[a](design.md#dependencies) and [b](howto/gpu.md)"
    )


def test_a_picture_for_two_themes_is_two_images() -> None:
    text = (
        '<picture>\n<source media="x" srcset="images/a-dark.png">\n<img alt="a b" src="images/a-light.png">\n</picture>'
    )
    made = fit(text, ROOT / "docs" / "index.md", "index.md", site_pages())
    assert re.findall(r"images/a-(\w+).png\n:alt: a b\n:class: only-(\w+)", made) == [("light",) * 2, ("dark",) * 2]


def test_every_page_of_the_checkout_is_in_the_site(tmp_path: Path) -> None:
    names = copy_pages(tmp_path / "source")
    index = (tmp_path / "source" / "index.md").read_text(encoding="utf-8")
    contents = set(re.findall(r"^[\w/.-]+$", index, re.MULTILINE))
    assert {name.removesuffix(".md") for name in (*names, *GENERATED)} - contents == {"index"}
    assert "howto/history.md" in names
    assert (tmp_path / "source" / "conf.py").is_file()


def test_the_reference_has_every_verb_and_command() -> None:
    from esen_lab.ui.magics.verbs import VERBS

    page = magics_page()
    assert set(re.findall(r"^## %esen (\w+)", page, re.MULTILINE)) == set(VERBS) - {"model"}
    assert "## %%esen model" in page
    assert "## esen-lab run" in command_line_page()


def output(kind: str, **known: object) -> dict[str, object]:
    return {"output_type": kind, **known}


def test_a_notebook_becomes_a_page_with_what_its_cells_showed() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": "print(1)",
            "outputs": [
                output("stream", name="stdout", text="\x1b[1mone"),
                output("stream", name="stdout", text=["\n", "two\n"]),
                output("display_data", data={"text/html": ["<b>", "three</b>"], "text/plain": "3"}),
            ],
        },
        {"cell_type": "code", "source": "", "outputs": []},
    ]
    page = page_of({"cells": cells}, "how it was made")
    assert page == (
        "# Title\ntext\n\nhow it was made\n\n```ipython3\nprint(1)\n```\n\n```text\none\ntwo\n```\n\n"
        '```{raw} html\n<div class="cell-output">\n<b>three</b>\n</div>\n```\n'
    )


@pytest.mark.parametrize(
    ("one", "made"),
    [
        (output("execute_result", data={"text/plain": "4"}), "```text\n4\n```"),
        (output("stream", name="stdout", text="10 %\r20 %\rdone"), "```text\ndone\n```"),
        (output("stream", name="stdout", text="```\nx"), "````text\n```\nx\n````"),
        (output("error", traceback=["a", "b"]), "```text\na\nb\n```"),
        (output("display_data", data={"application/vnd.jupyter.widget-view+json": {}, "text/plain": "W()"}), ""),
        (output("display_data", data={"image/unknown": ""}), ""),
        (output("stream", name="stdout", text=" \n"), ""),
    ],
)
def test_an_output_is_shown_as_a_reader_sees_it(one: dict[str, object], made: str) -> None:
    assert shown(one) == made


def test_an_executed_notebook_counts_while_its_cells_are_those_of_today(tmp_path: Path) -> None:
    executed = tmp_path / "executed.ipynb"
    assert not docs.is_current(executed, docs.NOTEBOOK)
    notebook = json.loads(docs.NOTEBOOK.read_text(encoding="utf-8"))
    executed.write_text(json.dumps(notebook), encoding="utf-8")
    assert docs.is_current(executed, docs.NOTEBOOK)
    assert "as it was executed" in docs.tutorial(executed)
    notebook["cells"][0]["source"] = ["# Another one"]
    executed.write_text(json.dumps(notebook), encoding="utf-8")
    assert not docs.is_current(executed, docs.NOTEBOOK)
    assert "not executed" in docs.tutorial(executed)


def test_the_site_is_built_by_one_command_in_which_a_warning_is_an_error() -> None:
    assert "--fail-on-warning" in (ROOT / "tools" / "docs.py").read_text(encoding="utf-8")
    assert "make docs" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
