"""Outputs that change or hold widgets: what of them is in the notebook's file, and what a later page is told."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ipywidgets import Label
from ipywidgets.widgets import widget as all_widgets

from esen_lab.ui.magics.outputs import MOST_CURRENT, Outputs
from esen_lab.ui.views import View
from esen_lab.ui.widgets.laid import Laid

NOON = 43_200.0
WIDGET = "application/vnd.jupyter.widget-view+json"


class Page:
    """What a file holds: outputs by display id, replaced in place."""

    def __init__(self) -> None:
        self.outputs: dict[str, dict[str, Any]] = {}

    def publish(self, data: dict[str, Any], transient: dict[str, str], update: bool = False) -> None:
        assert update == (transient["display_id"] in self.outputs), "shown once, then replaced"
        self.outputs[transient["display_id"]] = data

    def text(self) -> str:
        return "\n".join(str(data.get("text/plain")) for data in self.outputs.values())

    def html(self) -> str:
        return "\n".join(str(data.get("text/html", "")) for data in self.outputs.values())


@pytest.fixture
def page() -> Page:
    return Page()


@pytest.fixture
def shell(page: Page) -> Any:
    return SimpleNamespace(display_pub=page, user_ns={})


@pytest.fixture
def outputs(shell: Any) -> Iterator[Outputs]:
    made = Outputs(shell, clock=lambda: NOON)
    yield made
    made.close()


def laid() -> list[Laid]:
    return [widget for widget in all_widgets._instances.values() if isinstance(widget, Laid)]


def test_what_goes_on_says_as_of_when_and_what_has_ended_does_not(outputs: Outputs, page: Page) -> None:
    live = outputs.live(View(title="Profile running"))
    assert "Profile running" in page.text()
    assert "As of 1970-01-0" in page.text()
    assert "when it was running." in page.text()
    live.update(View(title="Profile finished"), last=True)
    assert page.text() == "Profile finished"
    assert len(page.outputs) == 1


def test_no_output_that_is_saved_holds_a_widget(outputs: Outputs, page: Page) -> None:
    label = Label("sliders")
    shown = outputs.widget(label, View(title="Plan editor"), "the sliders were open")
    assert [set(data) for data in page.outputs.values()] == [{"text/html", "text/plain"}] * 2
    assert "Plan editor" in page.text()
    assert "when the sliders were open." in page.text()
    (carrier,) = laid()
    assert carrier.shown is label
    assert f"class='esen-{carrier.key}'" in page.html()
    assert f"class='esen esen-{carrier.key}-still'" in page.html(), "what is hidden while the widget is laid over"
    assert shown.still is not None
    shown.still.update(View(title="Plan editor, at last"), last=True)
    shown.take_away()
    label.close()
    assert laid() == []
    assert page.text().strip() == "Plan editor, at last"


@pytest.mark.parametrize("sign", ["__vsc_ipynb_file__"])
def test_where_an_output_cannot_be_laid_over_the_widget_is_in_it_and_the_still_form_beside(
    outputs: Outputs, shell: Any, page: Page, sign: str
) -> None:
    shell.user_ns[sign] = "x.ipynb"
    label = Label("sliders")
    outputs.widget(label, View(title="Plan editor"), "the sliders were open").take_away()
    outputs.widget(label, None, "")
    label.close()
    assert [WIDGET in data for data in page.outputs.values()] == [False, False, True]
    assert laid() == []


def test_a_page_that_is_loaded_later_is_told_the_newest_state(outputs: Outputs, page: Page) -> None:
    live = outputs.live(View(title="Profile running"))
    (carrier,) = laid()
    assert f"esen-{carrier.key} esen-n{carrier.newest}'" in page.html()
    live.update(View(title="Profile finished"), last=True)
    assert f"esen-{carrier.key} esen-n{carrier.newest}'" in page.html(), "a page that heard of it has nothing laid over"
    assert "esen-n1'" not in page.html()
    assert "Profile finished" in carrier.shown.value
    outputs.close()
    assert laid() == []


def test_no_more_than_the_latest_are_kept_for_later_pages(outputs: Outputs) -> None:
    for number in range(MOST_CURRENT + 5):
        outputs.live(View(title=f"job {number}"))
    assert len(laid()) == MOST_CURRENT


class KernelPage(Page):
    """As that of a kernel, which has a way to the page; one without stands for a cell that captures its outputs."""

    pub_socket = object()


def test_what_ends_while_another_cell_captures_its_outputs_is_shown_in_its_place() -> None:
    page, captured = KernelPage(), Page()
    shell = SimpleNamespace(display_pub=page, user_ns={})
    outputs = Outputs(shell, clock=lambda: NOON)
    live = outputs.live(View(title="Profile running"))
    shown = outputs.widget(Label("a button"), None, "")
    shell.display_pub = captured
    live.update(View(title="Profile finished"), last=True)
    shown.take_away()
    assert captured.outputs == {}
    assert page.text().strip() == "Profile finished"
    assert "<div" not in list(page.outputs.values())[1].get("text/html", "")
    within = outputs.live(View(title="Comparing"))
    within.update(View(title="Compared"), last=True)
    assert captured.text() == "Compared", "what the capturing cell shows itself is captured whole"
    outputs.close()
