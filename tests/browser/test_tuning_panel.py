"""The sliders of `%esen tune` in a real JupyterLab in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Notebook, Server, opened_for_a_module

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
    "import time\ntime.sleep(3)",
)


@pytest.fixture(scope="module")
def tuned(browser: Any, server: Server) -> Iterator[Notebook]:
    """The notebook with its panel, executed."""
    with opened_for_a_module(browser, server, "tuning", CELLS) as opened:
        opened.run(0)
        opened.run(1)
        opened.page.wait_for_selector(".widget-slider", timeout=30_000)
        yield opened


@pytest.fixture
def page(tuned: Notebook) -> Any:
    return tuned.page


def wait_for(page: Any, text: str, seconds: float = 30) -> None:
    try:
        page.wait_for_function("(text) => document.body.innerText.includes(text)", arg=text, timeout=1000 * seconds)
    except playwright_api.TimeoutError:
        pytest.fail(f"{text!r} did not appear; the page says:\n{page.locator('.jp-Notebook').inner_text()}")


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_a_slider_moves_the_prediction(page: Any) -> None:
    before = page.locator(".esen-tuning").inner_text()
    units = CpuDevice().units
    assert f"{units} of {units} cores" in before
    handle = page.locator(".widget-slider .noUi-handle:visible").first
    handle.focus()
    script = """(before) => new Promise((resolve) => {
        const begun = performance.now();
        const shown = document.querySelector('.esen-tuning').closest('.widget-html-content') || document.body;
        const look = () => document.querySelector('.esen-tuning').innerText !== before
            ? resolve(performance.now() - begun) : requestAnimationFrame(look);
        document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true}));
        look();
    })"""
    took_ms = page.evaluate(script, before)
    print(f"from the key to the new prediction on the page: {took_ms:.0f} ms")
    assert took_ms < 2000  # the goal of 50 ms is held by the model's test; here a whole shared machine lies between
    assert f"{units - 1} of {units} cores" in page.locator(".esen-tuning").inner_text()


def test_undo_propose_apply_and_measure_work(page: Any) -> None:
    press(page, "Undo")
    wait_for(page, f"{CpuDevice().units} of {CpuDevice().units} cores")
    press(page, "Propose")
    wait_for(page, "Proposed by exact")
    press(page, "Apply")
    wait_for(page, "In force: ")
    press(page, "Measure")
    wait_for(page, "measured JCT")


def test_a_member_moves_to_a_lane_of_its_own_and_back(page: Any) -> None:
    press(page, "Reset")
    sliders = page.locator(".widget-slider:visible")
    page.get_by_role("checkbox").last.check()
    before = sliders.count()
    member, target = page.locator(".widget-dropdown select").nth(0), page.locator(".widget-dropdown select").nth(1)
    if before == 1:
        member.select_option("b")
        target.select_option("a lane of its own")
        press(page, "Move")
        page.wait_for_function("() => document.querySelectorAll('.widget-slider').length == 2", timeout=20_000)
    press(page, "Merge")
    page.wait_for_function("() => document.querySelectorAll('.widget-slider').length == 1", timeout=20_000)


def test_a_slider_moved_while_a_cell_is_busy_moves_the_prediction_at_the_latest_after_it(
    tuned: Notebook, page: Any
) -> None:
    page.get_by_role("checkbox").last.check()
    before = page.locator(".esen-tuning").inner_text()
    tuned.run(2, wait_s=None)
    handle = page.locator(".widget-slider .noUi-handle:visible").first
    handle.focus()
    page.keyboard.press("ArrowLeft" if float(handle.get_attribute("aria-valuenow")) > 1 else "ArrowRight")
    changed = "(before) => document.querySelector('.esen-tuning').innerText !== before"
    page.wait_for_function(changed, arg=before, timeout=30_000)
