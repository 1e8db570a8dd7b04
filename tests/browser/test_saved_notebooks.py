"""Notebooks that were saved in the middle, as who opens them later sees them: with the kernel, without, exported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Notebook, Server, a_page, opened_for_a_module, until

LOAD = """%load_ext esen_lab
import time
import torch
from torch import nn
class Slow(nn.Module):  # a point takes seconds on any machine
    def forward(self, x):
        time.sleep(0.2)
        return x + 0
x = torch.randn(4, 8)
a, b = Slow(), nn.Linear(8, 8)
%esen register a --example x
%esen register b"""
CELLS = (
    LOAD,
    "%esen profile b --budget 20ms --backends eager --wait\n%esen profile a --budget 20ms --backends eager --wait",
    "%esen tune",
    "%esen watch --every 200ms",
    "%esen profile --fresh --budget 2 --backends eager",
)


@pytest.fixture(scope="module")
def saved(browser: Any, server: Server) -> Iterator[Notebook]:
    """Saved while a profile runs, plots move and sliders are open; then the page is closed."""
    with opened_for_a_module(browser, server, "middle", CELLS) as opened:
        opened.run(0, wait_s=180)
        opened.run(1, wait_s=180)
        opened.run(2)
        opened.run(3)
        until(lambda: opened.page.locator(".esen-laid .widget-slider").count() >= 1, 180)
        until(lambda: opened.samples().get("t"), 90)
        still = opened.cell(3).locator(".jp-OutputArea")
        until(lambda: "Watched for" in still.evaluate("(area) => area.textContent"), 30)
        opened.run(4)
        save(opened)
        opened.page.goto("about:blank")
        yield opened


def save(opened: Notebook) -> None:
    opened.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")


def outputs(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [output["data"] for cell in cells for output in cell.get("outputs", []) if "data" in output]


def test_the_file_holds_no_widget_and_says_as_of_when_everything_was(saved: Notebook) -> None:
    held = outputs(saved.path)
    assert not [kind for data in held for kind in data if "widget" in kind]
    text = "".join("".join(data.get("text/plain", "")) for data in held)
    for then in ("it was running", "board and sliders were open", "the device was being watched"):
        assert re.search(rf"As of \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d, when {then}\.", text), text


def test_an_export_to_html_has_the_pictures_and_no_widget(saved: Notebook) -> None:
    words = [sys.executable, "-m", "nbconvert", "--to", "html", "--stdout", str(saved.path)]
    page = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "jupyter.widget" not in page
    labels = re.findall(r'<img alt="([^"]*)"', page)
    assert "readings over time" in labels
    assert "the plan: shares by predicted time" in labels
    assert "Error displaying" not in page


def test_with_its_kernel_it_shows_what_has_become_of_it_and_goes_on(saved: Notebook) -> None:
    saved.open()
    shown = saved.cell(4).locator(".jp-OutputArea")
    # Points are measured in turns, also with whatever else measures on this machine.
    until(lambda: "Profile finished" in shown.inner_text(), 300, shown.inner_text)
    assert "Profile running" not in shown.inner_text()
    page = saved.page
    until(lambda: page.locator(".esen-laid .widget-slider").count() >= 1, 180, page.locator(".jp-Notebook").inner_text)
    plots = len(saved.samples().get("t", []))

    def grown() -> bool:
        # Plots out of sight are not drawn, and what is laid over outputs above them, once it is there, moves them.
        page.locator(".esen-live").last.scroll_into_view_if_needed()
        return len(saved.samples().get("t", [])) > plots

    until(grown, 180, saved.samples)
    assert "Error displaying" not in page.locator(".jp-Notebook").inner_text()
    page.goto("about:blank")


@pytest.mark.parametrize("application", ["jupyterlab", "notebook"])
def test_without_a_kernel_it_shows_everything_still_and_no_error(
    saved: Notebook, browser: Any, tmp_path: Path, application: str
) -> None:
    with a_page(browser) as page:
        page.set_viewport_size({"width": 1400, "height": 5000})  # cells out of sight are not drawn
        server = Server(tmp_path, application=application)
        try:
            path = server.work / saved.path.name
            path.write_text(saved.path.read_text())
            where = "lab/tree" if application == "jupyterlab" else "notebooks"
            page.goto(f"{server.url}/{where}/{path.name}")
            page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
            shown = page.locator(".jp-Notebook")
            until(lambda: shown.inner_text().count("As of ") == 3, 60, shown.inner_text)
            page.wait_for_timeout(1500)  # the widget manager has looked for its models by now
            text = shown.inner_text()
            assert "Error" not in text
            assert "Plan editor" in text
            assert page.locator('img[alt="readings over time"]').count() == 1
            assert page.locator('img[alt="the plan: shares by predicted time"]').count() == 1
            server.end_kernels()
        finally:
            server.stop()
