"""Pictures of every view, to be looked at: in JupyterLab in both themes and three widths, Notebook 7, and exported.

    python tools/views.py OUT [--only lab|notebook|html|marimo]

Each output of a notebook of its own is kept by itself, as OUT/<where>-<theme>-<width>-<cell>.png. Nothing here is part
of the pages: the README's pictures are those of `make screenshots`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Any

import nbformat
from real_lab import ROOT, LabServer, chromium
from screenshots import THEMES, open_and_run

WIDTHS = (600, 900, 1400)
NOTEBOOK = "views.ipynb"
# Names and kinds of networks that no test has.
CELLS = {
    "register": """import torch
from torch import nn
%load_ext esen_lab
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.out = nn.MultiheadAttention(48, 4, batch_first=True), nn.Linear(48, 7)
    def forward(self, x):
        return self.out(self.heads(x, x, x)[0].mean(1))
class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.out = nn.GRU(48, 96, batch_first=True), nn.Linear(96, 7)
    def forward(self, x):
        return self.out(self.gru(x)[0][:, -1])
class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv1d(48, 512, 5), nn.Linear(512, 7)
    def forward(self, x):
        return self.out(self.conv(x.transpose(1, 2)).amax(2))
torch.manual_seed(3)
windows, labels = torch.randn(64, 40, 48), torch.randint(0, 7, (64,))
temporal_attention_over_windows_v2 = Attention().eval()
gru, convolution = Gru().eval(), Convolution().eval()
%esen register temporal_attention_over_windows_v2 --example windows
%esen register gru
%esen register convolution
%esen list""",
    "device": "%esen device",
    "profile": "profile = %esen profile --budget 60ms --backends eager --wait",
    "points": "%esen measurements",
    "fit": "%esen fit",
    "search": "plan = %esen search --wait",
    "tune": "%esen tune",
    "run": "y = %esen run windows",
    "compare": "table = %esen compare windows --rounds 5 --labels labels",
    "members": "%esen members windows labels",
    "cascade": "%esen cascade windows labels",
    "watch": "%esen watch --every 50ms",
    "load": "%esen loadtest windows --rates 20 --seconds 2",
    "history": "%esen history",
    "status": "%esen status",
    "help": "%esen help",
    "cluster": "%esen cluster",
    "draft": "%esen tune move gru",
}


def main() -> int:
    """Make all pictures; returns the exit status."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", type=Path, metavar="OUT")
    words.add_argument("--only", choices=("lab", "notebook", "html", "marimo"), help="one place alone")
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        given.out.mkdir(parents=True, exist_ok=True)
        if given.only in (None, "lab", "html"):
            in_lab(browser, Path(folder), given.out)
        if given.only in (None, "notebook"):
            in_notebook_7(browser, Path(folder), given.out)
        if given.only in (None, "marimo"):
            in_marimo(browser, Path(folder), given.out)
    return 0


def written(folder: Path) -> Path:
    """A folder with the notebook in it."""
    folder.mkdir(parents=True)
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS.values()]
    document = nbformat.v4.new_notebook(cells=cells)
    document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(document, folder / NOTEBOOK)
    return folder


def in_lab(browser: Any, folder: Path, out: Path) -> None:
    """JupyterLab in every theme and width; then the notebook as it was saved, as HTML."""
    served = written(folder / "served")
    settings = {"notebook-extension/tracker": {"windowingMode": "none"}}
    with LabServer(folder / "lab", served, settings=settings) as server:
        page = browser.new_page(viewport={"width": 1400, "height": 1400})
        open_and_run(page, server.url, 240, NOTEBOOK)
        page.evaluate("window.jupyterapp.shell.collapseLeft()")
        page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        for theme, name in THEMES.items():
            page.evaluate("(theme) => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 4000})
                page.wait_for_timeout(1500)
                keep_outputs(page, out, f"lab-{theme}-{width}")
        for theme, name in THEMES.items():
            page.evaluate("(theme) => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
            panel_and_monitor(page, out, theme)
        page.close()
    words = [sys.executable, "-m", "nbconvert", "--to", "html", str(served / NOTEBOOK)]
    subprocess.run(words, check=True, capture_output=True)
    page = browser.new_page(viewport={"width": 900, "height": 1400})
    page.goto((served / NOTEBOOK).with_suffix(".html").as_uri())
    page.wait_for_timeout(1500)
    keep_outputs(page, out, "html-light-900")
    page.close()


def panel_and_monitor(page: Any, out: Path, theme: str) -> None:
    """Both beside the notebook, in a window of a usual size and in a narrow one."""
    for command in ("esen-lab:open-monitor", "esen-lab:open-panel"):
        page.evaluate("(command) => window.jupyterapp.commands.execute(command)", command)
    page.wait_for_selector(".esen-monitor canvas", timeout=60_000)
    for width in (1400, 900):
        page.set_viewport_size({"width": width, "height": 1400})
        page.wait_for_timeout(1500)
        page.screenshot(path=str(out / f"window-{theme}-{width}.png"))


def in_notebook_7(browser: Any, folder: Path, out: Path) -> None:
    """The notebook in Notebook 7, with its panel."""
    settings = {"notebook-extension/tracker": {"windowingMode": "none"}}
    with LabServer(folder / "n7", written(folder / "n7served"), application="notebook", settings=settings) as server:
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        open_and_run(page, server.url, 240, NOTEBOOK, "notebooks")
        keep_outputs(page, out, "notebook7-light-1200")
        page.evaluate("window.jupyterapp.commands.execute('esen-lab:open-panel')")
        page.wait_for_selector(".esen-body", timeout=30_000)
        page.wait_for_timeout(1500)
        page.screenshot(path=str(out / "notebook7-panel.png"))
        page.close()


def keep_outputs(page: Any, out: Path, prefix: str) -> None:
    """The outputs of each cell of the page, by themselves."""
    cells = page.locator(".jp-CodeCell")
    for place, name in enumerate(CELLS):
        shown = cells.nth(place).locator(".jp-Cell-outputWrapper")
        shown.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        shown.screenshot(path=str(out / f"{prefix}-{name}.png"))


@contextmanager
def marimo(folder: Path) -> Iterator[str]:
    """A marimo server that runs the tour for whoever opens it; its address."""
    config = folder / ".config" / "marimo" / "marimo.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[display]\ntheme = "system"\n', encoding="utf-8")  # the browser's: light and dark
    options = ["--headless", "--no-token", "--host", "127.0.0.1", "--port", "28719"]
    known = {
        "PYTHONPATH": str(ROOT),
        "ESEN_LAB_HOME": str(folder / "esen_lab"),
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / ".config"),
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "marimo", "run", str(ROOT / "notebooks" / "tour_marimo.py"), *options],
        env={**os.environ, **known},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen("http://127.0.0.1:28719", timeout=2).close()
                break
            except OSError:
                sleep(0.5)
        yield "http://127.0.0.1:28719"
    finally:
        server.terminate()
        server.wait(timeout=30)


def in_marimo(browser: Any, folder: Path, out: Path) -> None:
    """The tour in marimo, as wide as a window and as narrow as half of one, light and dark."""
    with marimo(folder / "marimo") as address:
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        page.set_default_timeout(240_000)
        page.goto(address)
        page.wait_for_selector(".esen-live canvas")
        page.wait_for_timeout(8000)  # live plots have something to show
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for width in (1200, 600):
                page.set_viewport_size({"width": width, "height": 1400})
                page.wait_for_timeout(1500)
                page.screenshot(path=str(out / f"marimo-{scheme}-{width}.png"), full_page=True)
                for place, shown in enumerate(page.locator(".output-area, .output").all()):
                    if shown.is_visible() and shown.locator(".esen, .esen-board, .esen-live").count():
                        shown.screenshot(path=str(out / f"marimo-{scheme}-{width}-{place}.png"))
        page.close()


if __name__ == "__main__":
    sys.exit(main())
