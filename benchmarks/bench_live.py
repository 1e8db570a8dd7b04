"""What live plots cost the page after an hour at every permitted rate: two views, their frames and memory.

    python benchmarks/bench_live.py [--minutes 3] [--every 50ms,100ms,500ms,5s]

The hour before is put into the sampler as samples, so that views begin with all of it; then time goes on for some
minutes, in a real JupyterLab in Chromium. A row is one part of these minutes: gaps between frames of the page, the
part of the time that passed in gaps of more than 50 ms, how long a drawing took, and what page and kernel hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat

sys.path.append(str(Path(__file__).parents[1] / "tools"))
from real_lab import LabServer, chromium
from screenshots import open_and_run

PARTS = 3
NOTEBOOK = "live.ipynb"
HEAD = """| every | minutes | frame, ms: median / p99 / longest | gaps > 50 ms | drawing, ms | page, MB | kernel, MB |
|---|---|---|---|---|---|---|"""
FILL = """import gc, psutil, time
from esen_lab.devices import Sample
sampler = lab.readings._sampler
for number in range(round(3590 / {every_s})):
    values = {{"cpu": 40.0 + number % 7, "memory": 1e9}}
    at_s = time.time() - {every_s} * (number + 10)
    sampler._samples.appendleft(Sample(number=1 - number, at_s=at_s, values=values))"""
HELD = "gc.collect(); print(psutil.Process().memory_info().rss)"
# The page's frames over some time, and how long drawings took meanwhile.
FRAMES = """(length_ms) => new Promise((resolve) => {
    const gaps = [], draws = window.__esen_draws;
    draws.took_ms.length = 0;
    const begun = performance.now();
    let last = begun;
    const frame = (now) => {
        gaps.push(now - last);
        last = now;
        if (now - begun < length_ms) return requestAnimationFrame(frame);
        resolve({gaps, took: [...draws.took_ms]});
    };
    requestAnimationFrame(frame);
})"""
ASK = """(code) => new Promise((resolve) => {
    const notebook = [...window.jupyterapp.shell.widgets("main")].find((w) => w.context);
    const asked = notebook.sessionContext.session.kernel.requestExecute({ code });
    let printed = "";
    asked.onIOPub = (message) => { printed += message.content.text ?? ""; };
    asked.done.then(() => resolve(printed));
})"""


def main() -> int:
    """Print a table; returns the exit status."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--minutes", type=float, default=3.0, help="that time goes on, at each rate")
    words.add_argument("--every", default="50ms,100ms,500ms,5s", help="the rates")
    given = words.parse_args()
    with chromium() as browser:
        print(HEAD)
        for every in given.every.split(","):
            with tempfile.TemporaryDirectory() as folder:
                rate(browser, Path(folder), every, 60_000 * given.minutes / PARTS)
    return 0


def rate(browser: Any, folder: Path, every: str, part_ms: float) -> None:
    """Print the rows of one rate."""
    every_s = float(every.removesuffix("ms")) / 1000 if every.endswith("ms") else float(every.removesuffix("s"))
    cells = ["%load_ext esen_lab", f"%esen watch --every {every} --history 3600", FILL.format(every_s=every_s)]
    served = folder / "served"
    served.mkdir()
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(document, served / NOTEBOOK)
    with LabServer(folder / "lab", served) as server:
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        open_and_run(page, server.url, 120, NOTEBOOK)
        two_views(page)
        devtools = page.context.new_cdp_session(page)
        for part in range(PARTS):
            found = page.evaluate(FRAMES, part_ms)
            devtools.send("HeapProfiler.collectGarbage")
            heap = devtools.send("Runtime.getHeapUsage")["usedSize"]
            minutes = f"{part * part_ms / 60_000:.1f} to {(part + 1) * part_ms / 60_000:.1f}"
            print(row(every, minutes, found, heap, int(page.evaluate(ASK, HELD))), flush=True)
        page.close()


def two_views(page: Any) -> None:
    """Load the page anew, so that it begins with the whole hour, and open a second view of the plots."""
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    page.reload()
    page.wait_for_selector(".esen-live canvas", timeout=90_000)
    page.locator(".esen-bar label").first.click(button="right", position={"x": 2, "y": 2})
    page.click('.lm-Menu-itemLabel:text-is("Create New View for Cell Output")')
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and page.locator(".esen-live").count() < 2:
        page.wait_for_timeout(200)
    page.wait_for_timeout(5000)


def row(every: str, minutes: str, found: dict[str, list[float]], heap: int, rss: int) -> str:
    """One line of the table."""
    gaps, took = sorted(found["gaps"]), sorted(found["took"])
    slow = sum(gap for gap in gaps if gap > 50) / max(sum(gaps), 1e-9)
    frames = f"{gaps[len(gaps) // 2]:.0f} / {gaps[int(0.99 * (len(gaps) - 1))]:.0f} / {gaps[-1]:.0f}"
    drawn = f"{took[len(took) // 2]:.0f}" if took else "-"
    return f"| {every} | {minutes} | {frames} | {slow:.1%} | {drawn} | {heap / 1e6:.1f} | {rss / 1e6:.0f} |"


if __name__ == "__main__":
    sys.exit(main())
