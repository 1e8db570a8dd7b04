"""`%esen watch` in a real JupyterLab."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import leaks
import psutil
import pytest
from conftest import BUSY, Notebook, Server, opened_for_a_module, until

LOAD = "%load_ext esen_lab\n%esen watch --every 200ms"


def length(notebook: Notebook) -> int:
    return len(notebook.samples().get("t", []))


@pytest.fixture(scope="module")
def watched(browser: Any, server: Server) -> Iterator[Notebook]:
    """A notebook with live plots, for the tests that leave them live."""
    cells = [LOAD, BUSY, "lab.readings.marks.add('profile', 'begin')"]
    with opened_for_a_module(browser, server, "watched", cells) as opened:
        opened.run(0, wait_s=180)
        until(lambda: length(opened) >= 3, 90)
        yield opened


def test_plots_move_while_a_cell_is_busy(watched: Notebook) -> None:
    opened = watched
    with opened.busy(1):
        before = length(opened)
        until(lambda: length(opened) >= before + 10, 60)
    data = opened.samples()
    assert {"cpu", "memory"} <= set(data)
    assert all(later > earlier for earlier, later in itertools.pairwise(data["t"]))


def test_marks_show_when_runs_and_plans_happen(watched: Notebook) -> None:
    opened = watched
    opened.run(2)

    def marks() -> list[str]:
        found: list[str] = opened.page.evaluate(
            "Array.from(window.esenBokeh.documents.at(-1).get_model_by_name('marks').data.what)"
        )
        return found

    until(lambda: "profile begins" in marks(), 60, marks)


def test_pause_holds_the_plot_and_live_follows_again(watched: Notebook) -> None:
    opened = watched

    def end() -> float:
        found: float = opened.page.evaluate("window.esenBokeh.documents.at(-1).get_model_by_name('time').end")
        return found

    opened.page.click("button.esen-pause:has-text('Pause')")
    held, count = end(), length(opened)
    until(lambda: length(opened) >= count + 5, 60)
    assert end() == held, "samples go on, the view does not"
    opened.page.click("button.esen-pause:has-text('Live')")
    until(lambda: end() > held, 60)


def test_times_below_narrow_plots_stand_apart_and_no_name_is_cut(watched: Notebook) -> None:
    page = watched.page
    page.set_viewport_size({"width": 600, "height": 1100})
    measure = """() => {
        const el = document.querySelector(".esen-live"), { right } = el.getBoundingClientRect();
        const models = [...window.esenBokeh.documents.at(-1)._all_models.values()];
        return {
            width: el.clientWidth,
            times: models.filter((one) => one.type === "DatetimeAxis").map((one) => one.ticker.desired_num_ticks),
            cut: [...el.querySelectorAll(".esen-names span")]
                .filter((one) => one.getBoundingClientRect().right > right + 1).map((one) => one.textContent),
        };
    }"""
    try:
        until(lambda: page.locator(".esen-narrow .esen-names span").count() > 0, 60)
        found = page.evaluate(measure)
        assert found["cut"] == []
        assert found["times"]
        assert max(found["times"]) * 60 <= max(found["width"], 120), found
    finally:
        page.set_viewport_size({"width": 1400, "height": 1100})


def test_two_views_of_one_output_are_both_live(watched: Notebook) -> None:
    opened = watched
    opened.page.locator(".esen-bar label").first.click(button="right", position={"x": 2, "y": 2})
    opened.page.click('.lm-Menu-itemLabel:text-is("Create New View for Cell Output")')
    until(lambda: len(opened.samples(0).get("t", [])) >= 3 and len(opened.samples(1).get("t", [])) >= 3, 90)
    first, second = (len(opened.samples(view)["t"]) for view in (0, 1))
    until(lambda: len(opened.samples(0)["t"]) > first and len(opened.samples(1)["t"]) > second, 60)
    one, other = opened.samples(0)["t"], opened.samples(1)["t"]
    assert set(one[:10]) == set(other[:10]), "the new view has the history from before it was made"


def test_a_refresh_keeps_the_history_and_goes_on(watched: Notebook) -> None:
    opened = watched
    until(lambda: length(opened) >= 15, 60)
    opened.save()
    first = opened.samples()["t"][2]
    opened.page.reload()
    until(lambda: length(opened) >= 15, 60, opened.page.locator(".jp-OutputArea").first.inner_text)
    data = opened.samples()
    assert first in data["t"]
    assert len(set(data["t"])) == len(data["t"]), "no sample twice"
    before = length(opened)
    until(lambda: length(opened) > before, 60)


def test_a_restarted_kernel_leaves_a_visible_stale_mark_and_no_worker(notebook: Any) -> None:
    register = (
        "import torch, os, psutil\nx = torch.randn(2, 4)\nnet = torch.nn.Linear(4, 4)\n%esen register net --example x\n"
        "y = %esen run x\nprint([p.pid for p in psutil.Process().children(recursive=True)])"
    )
    opened = notebook([LOAD, register])
    opened.run(0)
    until(lambda: length(opened) >= 3, 90)
    printed = opened.run(1, wait_s=180).last.inner_text()
    pids = [int(word) for word in printed.strip("[] \n").split(",")]
    workers = [psutil.Process(pid) for pid in pids]
    assert workers
    opened.menu("Kernel", "Restart Kernel…")
    opened.page.click('.jp-Dialog button:has-text("Restart")')
    said = opened.page.locator(".esen-said").first
    until(lambda: "Stale" in said.inner_text(), 90, said.inner_text)
    assert opened.page.locator(".esen-stale").count() >= 1
    assert leaks.still_alive(workers, within_s=60) == []


def test_stop_leaves_a_summary_and_unloading_leaves_nothing(notebook: Any) -> None:
    check = (
        "import threading, time, ipywidgets\n"
        "until = time.monotonic() + 60\n"
        "while any(t.name.startswith('esen') for t in threading.enumerate()) and time.monotonic() < until:\n"
        "    time.sleep(0.05)\n"
        "print(sorted(t.name for t in threading.enumerate() if t.name.startswith('esen')),\n"
        "      'esen' in get_ipython().magics_manager.magics['line'],\n"
        "      len(ipywidgets.Widget._instances if hasattr(ipywidgets.Widget, '_instances') else {}))"
    )
    opened = notebook([LOAD, "%esen watch --stop", LOAD.splitlines()[1], "%unload_ext esen_lab", check])
    opened.run(0)
    until(lambda: length(opened) >= 5, 90)
    opened.run(1)
    until(lambda: "Watched for" in " ".join(opened.outputs(0).all_inner_texts()), 60)
    until(lambda: opened.page.locator(".esen-live").count() == 0, 60)
    opened.run(2)
    until(lambda: opened.page.locator(".esen-live").count() == 1, 90)
    opened.run(3)
    assert "[] False" in opened.run(4).last.inner_text()
    until(lambda: opened.page.locator(".esen-live").count() == 0, 60)


def test_run_all_stops_at_an_error(notebook: Any) -> None:
    opened = notebook(["%load_ext esen_lab", "%esen run nothing_of_that_name", "print('went on')"])
    opened.menu("Run", "Run All Cells")
    until(lambda: opened.outputs(1).count() >= 1, 60)
    opened.page.wait_for_timeout(1000)
    assert opened.outputs(2).count() == 0


def test_long_streaming_keeps_the_memory_of_kernel_and_page_flat(notebook: Any) -> None:
    # Half an hour at 2 Hz, scaled down: three times the history that is kept, at 20 Hz.
    rss = "import psutil, gc; gc.collect(); print(psutil.Process().memory_info().rss)"
    opened = notebook(["%load_ext esen_lab\n%esen watch --every 50ms --history 3", rss])
    opened.run(0)
    devtools = opened.page.context.new_cdp_session(opened.page)

    def heap() -> int:
        devtools.send("HeapProfiler.collectGarbage")
        return int(devtools.send("Runtime.getHeapUsage")["usedSize"])

    def kernel() -> int:
        return int(opened.run(1).last.inner_text())

    first = until(lambda: opened.samples().get("t"), 90)[0]
    until(lambda: opened.samples()["t"][0] > first, 60)  # the history is full
    kernel()
    before = heap(), kernel()
    start = opened.samples()["t"][-1]
    until(lambda: opened.samples()["t"][-1] - start > 9_000, 60)
    assert len(opened.samples()["t"]) <= 60
    after = heap(), kernel()
    assert after[0] - before[0] < 3_000_000, f"page: {before[0]} -> {after[0]} bytes"
    assert after[1] - before[1] < 8_000_000, f"kernel: {before[1]} -> {after[1]} bytes"


def test_two_notebooks_watch_one_device_and_both_are_live(notebook: Any, page: Any) -> None:
    first = notebook([LOAD])
    first.run(0)
    until(lambda: length(first) >= 3, 90)
    other = Notebook(page.context.new_page(), first.server, first.path.with_name("other_watch.ipynb"))
    other.path.write_text(first.path.read_text())
    other.open().run(0)
    until(lambda: length(other) >= 3, 90)
    before = length(first), length(other)
    until(lambda: length(first) > before[0] and length(other) > before[1], 60)


FILL = """from esen_lab.devices import Sample
sampler = lab.readings._sampler
for number in range({count}):
    values = {{"cpu": 40.0 + number % 7, "memory": 1e9}}
    at_s = time.time() - {every_s} * (number + 10)
    sampler._samples.appendleft(Sample(number=1 - number, at_s=at_s, values=values))"""


@pytest.mark.timing
@pytest.mark.parametrize("every_s", [0.05, 0.1, 0.5])
def test_at_every_rate_two_views_of_an_hour_leave_the_page_to_the_user(notebook: Any, every_s: float) -> None:
    # An hour, scaled down: its samples are there from the start, and time goes on for some seconds.
    watch = f"%esen watch --every {1000 * every_s:.0f}ms --history 3600"
    fill = FILL.format(count=round(3590 / every_s), every_s=every_s)
    opened = notebook(["%load_ext esen_lab\nimport time\nfrom esen_lab import Lab\nlab = Lab()", watch, fill])
    opened.run(0, wait_s=180)
    opened.run(1)
    until(lambda: opened.samples().get("t"), 90)
    opened.run(2)
    page = opened.page
    opened.save()
    page.reload()
    until(lambda: opened.samples().get("t"), 90)
    page.locator(".esen-bar label").first.click(button="right", position={"x": 2, "y": 2})
    page.click('.lm-Menu-itemLabel:text-is("Create New View for Cell Output")')
    until(lambda: opened.samples(0).get("t") and opened.samples(1).get("t"), 90)
    page.wait_for_timeout(3000)
    found = page.evaluate(
        """() => new Promise((resolve) => {
            const gaps = [];
            const drawn = window.__esen_draws.took_ms.length;
            window.__esen_draws.took_ms.length = 0;
            const begun = performance.now();
            let last = begun;
            const frame = (now) => {
                gaps.push(now - last);
                last = now;
                if (now - begun < 8000) return requestAnimationFrame(frame);
                gaps.sort((a, b) => a - b);
                const took = [...window.__esen_draws.took_ms].sort((a, b) => a - b);
                resolve({
                    drawings: took.length,
                    draw_ms: took[Math.floor(took.length / 2)],
                    frame_ms: gaps[Math.floor(gaps.length / 2)],
                    slow: gaps.filter((gap) => gap > 50).reduce((sum, gap) => sum + gap, 0) / 8000,
                    heap: performance.memory?.usedJSHeapSize,
                });
            };
            requestAnimationFrame(frame);
        })"""
    )
    print(f"every {every_s} s: {found}")
    assert found["drawings"] >= 4, "the plots move"
    assert found["draw_ms"] < 50
    assert found["frame_ms"] < 50
    for view in (0, 1):
        data = opened.samples(view)
        assert len(data["t"]) <= 1300
        recent = data["cpu"][-20:]
        assert sum(value != value for value in recent) <= 1, "a line without holes"
    page.locator(".esen-pause").first.click()
    until(lambda: "Held" in page.locator(".esen-said").first.inner_text(), 60)
