"""Jobs in a real JupyterLab: progress that moves and a button that stops, while a cell is busy."""

from __future__ import annotations

from typing import Any

from conftest import slow_networks, until

SLOW = slow_networks(8)


def test_a_profile_shows_its_points_as_they_come_and_stops_by_its_button_while_a_cell_is_busy(
    notebook: Any,
) -> None:
    start = "%esen profile --budget 3 --fresh"
    opened = notebook([SLOW, start, "import time\ntime.sleep(20)\nprint(lab.job.snapshot().state)"])
    opened.run(0, wait_s=180)
    opened.run(1)
    shown = opened.cell(1).locator(".jp-OutputArea")
    opened.run(2, wait_s=None)
    until(lambda: shown.locator("img").count() >= 1, 90, shown.inner_text)
    until(lambda: "1 of" in shown.inner_text() or "2 of" in shown.inner_text(), 90, shown.inner_text)
    opened.page.click("button.esen-stop")
    until(lambda: "Profile cancelled" in shown.inner_text(), 12, shown.inner_text)
    assert opened.cell(2).locator(".jp-InputPrompt").inner_text().strip() == "[*]:", "the cell was busy all the time"
    until(lambda: opened.page.locator("button.esen-stop").count() == 0, 5)


def test_an_interrupt_frees_the_cell_and_leaves_the_job_and_its_button(notebook: Any) -> None:
    opened = notebook([SLOW, "%esen profile --budget 3 --fresh --wait", "print(lab.job.done); lab.close()"])
    opened.run(0, wait_s=180)
    opened.run(1, wait_s=None)
    shown = opened.cell(1).locator(".jp-OutputArea")
    until(lambda: opened.page.locator("button.esen-stop").count() == 1, 90, shown.inner_text)
    opened.menu("Kernel", "Interrupt Kernel")
    opened.wait_until_ran(1, 20)
    assert "goes on in the background" in shown.inner_text()
    assert "False" in opened.run(2).first.inner_text()
