"""The tour in a real marimo server, looked at with Chromium: records, board and live plots."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import leaks
import psutil
import pytest
from conftest import until

pytest.importorskip("marimo", reason="marimo is not installed")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A marimo server that runs the tour for whoever opens it."""
    folder = tmp_path_factory.mktemp("marimo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {"PYTHONPATH": str(ROOT), "ESEN_LAB_HOME": str(folder / "esen_lab"), "HOME": str(folder)}
    options = ["--headless", "--no-token", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "marimo", "run", str(ROOT / "notebooks" / "tour_marimo.py"), *options],
            env={**os.environ, **known},
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except OSError:
            return False

    try:
        until(answers, 120, lambda: (folder / "server.log").read_text(errors="replace")[-2000:])
        yield url
    finally:
        started = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
        server.terminate()
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        assert leaks.still_alive(started, within_s=60) == [], "whatever a lab has started ends with its process"


@pytest.fixture(scope="module")
def toured(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1200, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(240_000)  # it measures, in a machine that may be busy
    page.goto(address)
    page.wait_for_selector(".esen-board .lane")
    page.wait_for_selector(".esen-live canvas")
    yield page
    context.close()


def test_records_are_shown_richly_and_tables_do_not_run_together(toured: Any) -> None:
    shown = toured.locator(".esen")
    assert shown.count() >= 4  # the lab, the profile, the plan, the report
    said = "\n".join(shown.all_inner_texts())
    for words in ("Lab with 3 sub-models", "Profile on", "Plan: ", "Run: JCT"):
        assert words in said
    assert toured.locator(".esen img").count() >= 3
    gaps = toured.evaluate("getComputedStyle(document.querySelector('.esen td')).paddingRight")
    assert float(gaps.removesuffix("px")) >= 8


def test_the_board_moves_and_the_kernel_answers(toured: Any) -> None:
    board = toured.locator(".esen-board")
    board.locator("input[type=checkbox]").check()
    lanes = board.locator(".lane").count()
    crowded = toured.evaluate(
        "[...document.querySelectorAll('.lane')].find((lane) => lane.querySelectorAll('.step').length > 1)"
        "?.querySelector('.step')?.dataset.key ?? null"
    )
    if crowded is not None:
        board.locator(f'[data-key="{crowded}"]').focus()
        toured.keyboard.press("n")
        until(lambda: board.locator(".lane").count() == lanes + 1, 60, board.inner_text)
    board.get_by_role("button", name="Undo", exact=True).click()  # it is offered once the kernel has heard
    until(lambda: board.get_by_role("button", name="Redo", exact=True).is_enabled(), 60, board.inner_text)


def test_live_plots_go_on(toured: Any) -> None:
    count = (
        "() => window.esenBokeh.documents.find((d) => d.get_model_by_name('samples'))"
        ".get_model_by_name('samples').data.t.length"
    )
    before = toured.evaluate(count)
    until(lambda: toured.evaluate(count) > before, 60)
