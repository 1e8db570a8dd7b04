"""Board and sliders of `%esen tune` in a real JupyterLab; the board's own gestures are in ui/test_board_page.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import BUSY, Notebook, Server, opened_for_a_module, until

from esen_lab.devices.cpu.device import CpuDevice

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.skipif(CpuDevice().units < 2, reason="a slider moves where there are two cores")

CELLS = (
    """import torch
from torch import nn
%load_ext esen_lab
x = torch.randn(16, 64)
a, b = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512)), nn.Linear(64, 512)
%esen register a --example x
%esen register b
%esen combine stack
profile = %esen profile --budget 50ms --wait""",
    "%esen tune",
    BUSY + "print([lane.members for lane in lab.tune().state.lanes])",
)


@pytest.fixture(scope="module")
def tuned(browser: Any, server: Server) -> Iterator[Notebook]:
    """The notebook with board and sliders, executed."""
    with opened_for_a_module(browser, server, "tuning", CELLS) as opened:
        opened.run(0)
        opened.run(1)
        opened.page.wait_for_selector(".widget-slider", timeout=60_000)
        opened.page.wait_for_selector(".esen-board .lane", timeout=60_000)
        yield opened


@pytest.fixture
def page(tuned: Notebook) -> Any:
    return tuned.page


def wait_for(page: Any, text: str, seconds: float = 60) -> None:
    try:
        page.wait_for_function("(text) => document.body.innerText.includes(text)", arg=text, timeout=1000 * seconds)
    except playwright_api.TimeoutError:
        pytest.fail(f"{text!r} did not appear; the page says:\n{page.locator('.jp-Notebook').inner_text()}")


def press(page: Any, name: str) -> None:
    page.locator(".esen-board").get_by_role("button", name=name, exact=True).click()


def test_a_slider_moves_the_prediction_of_sliders_and_board(page: Any) -> None:
    before = page.locator(".esen-tuning").inner_text()
    units = CpuDevice().units
    assert f"{units} of {units} cores" in before
    handle = page.locator(".widget-slider .noUi-handle:visible").first
    handle.focus()
    script = """(before) => new Promise((resolve) => {
        const begun = performance.now();
        const look = () => document.querySelector('.esen-tuning').innerText !== before
            ? resolve(performance.now() - begun) : requestAnimationFrame(look);
        document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true}));
        look();
    })"""
    took_ms = page.evaluate(script, before)
    print(f"from the key to the new prediction on the page: {took_ms:.0f} ms")
    assert f"{units - 1} of {units} cores" in page.locator(".esen-tuning").inner_text()
    wait_for(page, f"{units - 1} of {units} cores · not in force")


def test_undo_propose_apply_and_measure_work(page: Any) -> None:
    press(page, "Undo")
    wait_for(page, f"{CpuDevice().units} of {CpuDevice().units} cores")
    press(page, "Propose")
    wait_for(page, "Proposed by exact")
    press(page, "Apply")
    wait_for(page, "In force: ")
    press(page, "Measure")
    wait_for(page, "measured JCT")
    page.wait_for_selector(".esen-board .span", timeout=60_000)


def test_a_member_is_dragged_to_a_lane_of_its_own_and_back_by_keys(page: Any) -> None:
    press(page, "Reset")
    page.locator(".esen-board input[type=checkbox]").check()
    lanes = page.locator(".esen-board .lane")
    if lanes.count() == 1:
        step, free = page.locator('[data-key="step b"]'), page.locator(".esen-board .free")
        free.scroll_into_view_if_needed()
        start, end = step.bounding_box(), free.bounding_box()
        page.mouse.move(start["x"] + 6, start["y"] + 6)
        page.mouse.down()
        page.mouse.move(end["x"] + 80, end["y"] + 12, steps=5)
        assert "Predicted JCT" in page.locator(".esen-board .tip").inner_text()
        page.mouse.up()
    page.wait_for_function("() => document.querySelectorAll('.widget-slider').length == 2", timeout=60_000)
    page.locator('[data-key="step b"]').focus()
    page.keyboard.press("ArrowUp" if lanes.nth(1).locator('[data-key="step b"]').count() else "ArrowDown")
    page.wait_for_function("() => document.querySelectorAll('.widget-slider').length == 1", timeout=60_000)


def test_the_board_moves_and_the_kernel_hears_while_a_cell_is_busy(tuned: Notebook, page: Any) -> None:
    page.locator(".esen-board input[type=checkbox]").check()
    with tuned.busy(2):
        page.locator('[data-key="step b"]').focus()
        page.keyboard.press("n")
        assert page.locator(".esen-board .lane").count() == 2, "predicted by the page itself, at once"
        page.wait_for_function("() => document.querySelectorAll('.widget-slider').length == 2", timeout=60_000)
    assert "[('a',), ('b',)]" in tuned.outputs(2).first.inner_text()


def test_a_refresh_shows_the_draft_as_it_is(tuned: Notebook, page: Any) -> None:
    drawn = page.locator(".esen-board .figures").inner_text()
    tuned.save()
    page.reload()
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    tuned.wait_for_kernel()
    page.wait_for_selector(".esen-board .lane", timeout=60_000)
    figures = page.locator(".esen-board .figures")
    until(lambda: figures.inner_text() == drawn, 60, figures.inner_text)
