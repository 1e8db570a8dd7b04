"""Jobs in a real JupyterLab: progress that moves and a button that stops, while a cell is busy."""

from __future__ import annotations

import re
from typing import Any

from conftest import BUSY, slow_networks, until

SLOW = slow_networks(8)


def test_a_profile_shows_its_points_as_they_come_and_stops_by_its_button_while_a_cell_is_busy(
    notebook: Any,
) -> None:
    start = "%esen profile --budget 3 --fresh"
    opened = notebook([SLOW, start, BUSY])
    opened.run(0, wait_s=180)
    opened.run(1)
    shown = opened.cell(1).locator(".jp-OutputArea")
    with opened.busy(2):
        until(lambda: shown.locator("img").count() >= 1, 90, shown.inner_text)
        until(lambda: re.search(r"\b[1-9]\d* of \d", shown.inner_text()), 90, shown.inner_text)
        opened.page.click("button.esen-stop")
        until(lambda: "Profile cancelled" in shown.inner_text(), 60, shown.inner_text)
    until(lambda: opened.page.locator("button.esen-stop").count() == 0, 60)


def test_an_interrupt_frees_the_cell_and_leaves_the_job_and_its_button(notebook: Any) -> None:
    opened = notebook([SLOW, "%esen profile --budget 3 --fresh --wait", "print(lab.job.done); lab.close()"])
    opened.run(0, wait_s=180)
    opened.run(1, wait_s=None)
    shown = opened.cell(1).locator(".jp-OutputArea")
    until(lambda: opened.page.locator("button.esen-stop").count() == 1, 90, shown.inner_text)
    opened.menu("Kernel", "Interrupt Kernel")
    opened.wait_until_ran(1)
    assert "goes on in the background" in shown.inner_text()
    assert "False" in opened.run(2).first.inner_text()
