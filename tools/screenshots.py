"""Pictures of the real thing for the README: JupyterLab in headless Chromium, in both themes (`make screenshots`).

It executes notebooks/tuning.ipynb in a JupyterLab of its own, measures from the panel, and keeps the board as it is
then, and the window with panel and monitor, as docs/images/*-light.png and *-dark.png, each under 200 kB.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from real_lab import ROOT, LabServer, chromium

IMAGES = ROOT / "docs" / "images"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
MOST_BYTES = 200_000


def main() -> int:
    """Make all pictures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=IMAGES, help="where they go (default: docs/images)")
    parser.add_argument("--timeout", type=float, default=240.0, metavar="S", help="for one run of the notebook")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        given.out.mkdir(parents=True, exist_ok=True)
        notebooks = Path(folder) / "notebooks"
        notebooks.mkdir()
        shutil.copy(ROOT / "notebooks" / "tuning.ipynb", notebooks / "tuning.ipynb")
        for theme, name in THEMES.items():
            settings = {
                "apputils-extension/themes": {"theme": name},
                "notebook-extension/tracker": {"windowingMode": "none"},  # all cells are on the page, seen or not
            }
            with LabServer(Path(folder) / theme, notebooks, settings=settings) as server:
                page = browser.new_page(viewport={"width": 1200, "height": 1400})
                photograph(page, server.url, theme, given.out, given.timeout)
                page.close()
    too_large = [path.name for path in given.out.glob("*.png") if path.stat().st_size > MOST_BYTES]
    if too_large:
        print(f"Larger than {MOST_BYTES} bytes: {', '.join(too_large)}", file=sys.stderr)
    return 1 if too_large else 0


def open_and_run(
    page: Any, address: str, timeout_s: float, notebook: str = "tuning.ipynb", under: str = "lab/tree"
) -> None:
    """Open a notebook, and run all its cells; returns when all are done."""
    page.goto(f"{address}/{under}/{notebook}?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    select = page.locator(".jp-Dialog button.jp-mod-accept")  # "Select Kernel"
    ready = page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")
    select.or_(ready).first.wait_for(timeout=60_000)
    page.wait_for_timeout(3000)
    if select.count():
        select.click()
        select.wait_for(state="detached")
    ready.first.wait_for(timeout=60_000)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    done = """() => {
        const failed = document.querySelector(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']");
        if (failed) throw new Error(failed.innerText);
        const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.textContent);
        return prompts.length > 0 && prompts.every(text => /\\[\\d+\\]/.test(text));
    }"""
    page.wait_for_function(done, timeout=timeout_s * 1000)


def photograph(page: Any, address: str, theme: str, out: Path, timeout_s: float) -> None:
    """Run the notebook, use the panel, and keep the outputs."""
    try:
        open_and_run(page, address, timeout_s)
    except Exception:
        page.screenshot(path=str(out / f"failed-{theme}.png"))  # what it looked like when it stood still
        raise
    panel = page.locator(".jp-OutputArea-output:has(.esen-board)").last
    panel.scroll_into_view_if_needed()
    panel.get_by_role("button", name="Measure", exact=True).click()
    page.wait_for_function("() => document.body.innerText.includes('measured JCT')", timeout=60_000)
    panel.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    path = out / f"tune-{theme}.png"
    panel.screenshot(path=str(path))
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
    window(page, theme, out)


def window(page: Any, theme: str, out: Path) -> None:
    """The whole window: a notebook, the monitor's tab beside it, the panel, the status bar."""
    page.set_viewport_size({"width": 1440, "height": 900})
    for command in ("esen-lab:open-monitor", "esen-lab:open-panel"):
        page.evaluate("(command) => window.jupyterapp.commands.execute(command)", command)
    page.evaluate("window.jupyterapp.shell.collapseLeft()")
    page.wait_for_selector(".esen-monitor canvas", timeout=60_000)
    # Something to look at: the ensemble at work.
    run = "import time\nfor _ in range(40):\n    lab.run(x); time.sleep(0.1)"
    page.evaluate(
        """(code) => {
            const panel = [...window.jupyterapp.shell.widgets("main")].find((w) => w.context);
            return panel.sessionContext.session.kernel.requestExecute({ code }).done;
        }""",
        run,
    )
    page.wait_for_timeout(1500)
    path = out / f"panel-{theme}.png"
    page.screenshot(path=str(path))
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
