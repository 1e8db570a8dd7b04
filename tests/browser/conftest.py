"""A real JupyterLab and a real browser. Skipped, with the reason, where there is no Chromium or Chrome."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools"))
from real_lab import BROWSERS, LabServer, browser_path, chromium

# The notebook of a path, whatever else is in front.
_FIND = """(path) => [...(window.jupyterapp?.shell.widgets("main") ?? [])].find((w) => w.context?.path === path)"""


def slow_networks(count: int) -> str:
    """A cell that makes a lab of so many networks whose points take seconds each."""
    return f"""%load_ext esen_lab
import time
import torch
from torch import nn
from esen_lab import Lab
class Slow(nn.Module):  # a point takes seconds on any machine
    def forward(self, x):
        time.sleep(0.2)
        return x
x = torch.randn(4, 8)
lab = Lab()
for i in range({count}):
    lab.register(f"net{{i}}", Slow(), example=x)
lab.run(x);  # the first import of torch in a new environment takes its time; what is asked about comes after
"""


BUSY = """import os, time
while not os.path.exists("let_go"):
    time.sleep(0.05)
"""
"""A cell for `Notebook.busy`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.slow)  # each starts a kernel in a browser
            if browser_path() is None:
                item.add_marker(pytest.mark.skip(reason=f"no browser here: none of {', '.join(BROWSERS)} on PATH"))


class Notebook:
    """One notebook open in JupyterLab, driven as a user does."""

    def __init__(self, page: Any, server: Server, path: Path) -> None:
        self.page = page
        self.server = server
        self.path = path

    def open(self) -> Notebook:
        # The kernel first: JupyterLab drops a request to run that comes while it still makes a session of its own.
        self.server.start_kernel(self.path.name)
        # A workspace of its own: the default one would open the notebooks of earlier tests as well.
        self.page.goto(f"{self.server.url}/lab/workspaces/{self.path.stem}/tree/{self.path.name}")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        self.wait_for_kernel()
        return self

    def wait_for_kernel(self, timeout_s: float = 60) -> None:
        """Until the notebook's kernel is connected and idle: JupyterLab drops what it is asked to run before."""
        ready = f"""async (path) => {{
            const context = ({_FIND})(path)?.context?.sessionContext;
            if (!context) return false;
            await context.ready;
            const kernel = context.session?.kernel;
            if (kernel?.connectionStatus !== "connected" || kernel.status !== "idle") return false;
            return (await kernel.info).status === "ok";
        }}"""
        until(lambda: self.page.evaluate(ready, self.path.name), timeout_s)

    def cell(self, index: int) -> Any:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def run(self, index: int, *, wait_s: float | None = 120) -> Any:
        """Run one cell; with `wait_s` None without waiting for its end. Returns its outputs' locator."""
        prompt = self.cell(index).locator(".jp-InputPrompt")
        before = prompt.inner_text()
        # By JupyterLab's own command: of the keys that stand for it, a page that has just been loaded drops some.
        self.page.evaluate(
            f"""([path, index]) => {{
                const panel = ({_FIND})(path);
                window.jupyterapp.shell.activateById(panel.id);
                panel.content.activeCellIndex = index;
                void window.jupyterapp.commands.execute("notebook:run-cell");
            }}""",
            [self.path.name, index],
        )
        until(lambda: prompt.inner_text() != before, 60, prompt.inner_text)
        if wait_s is not None:
            self.wait_until_ran(index, wait_s)
        return self.outputs(index)

    def run_code(self, code: str) -> None:
        """Have the kernel run this without a cell."""
        self.page.evaluate(
            f"""([path, code]) => ({_FIND})(path).sessionContext.session.kernel.requestExecute({{ code }}).done""",
            [self.path.name, code],
        )

    @contextlib.contextmanager
    def busy(self, index: int) -> Iterator[None]:
        """The kernel runs the cell, which begins with `BUSY`, until the end of the block."""
        let_go = self.server.work / "let_go"
        let_go.unlink(missing_ok=True)
        try:
            self.run(index, wait_s=None)
            yield
            assert self.cell(index).locator(".jp-InputPrompt").inner_text().strip() == "[*]:"
        finally:
            let_go.touch()
        self.wait_until_ran(index)

    def save(self) -> None:
        """Returns when it is done."""
        self.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")

    def wait_until_ran(self, index: int, timeout_s: float = 60) -> None:
        prompt = self.cell(index).locator(".jp-InputPrompt")
        until(lambda: _ran(prompt), timeout_s, prompt.inner_text)

    def outputs(self, index: int) -> Any:
        return self.cell(index).locator(".jp-OutputArea-output")

    def menu(self, *words: str) -> None:
        """Click through the menu bar."""
        self.page.click(f'.lm-MenuBar-itemLabel:text-is("{words[0]}")')
        for word in words[1:]:
            self.page.click(f'.lm-Menu-itemLabel:text-is("{word}")')

    def samples(self, view: int = -1) -> dict[str, list[float]]:
        """The columns of the live plots' data in the page."""
        found: dict[str, list[float]] = self.page.evaluate(
            """(view) => {
                const docs = (window.esenBokeh?.documents ?? []).filter((d) => d.get_model_by_name("samples"));
                const doc = docs.at(view);
                if (!doc) return {};
                const data = doc.get_model_by_name("samples").data;
                return Object.fromEntries(Object.entries(data).map(([k, v]) => [k, Array.from(v)]));
            }""",
            view,
        )
        return found


def _ran(prompt: Any) -> bool:
    return str(prompt.inner_text()).strip("[]: ").isdigit()


class Server(LabServer):
    """JupyterLab, the notebooks that it serves, and their kernels.

    Args:
        folder: For its files.
        before: A folder whose packages come before the installed ones, or "".
        application: "jupyterlab", or "notebook" for Notebook 7.
    """

    def __init__(self, folder: Path, before: str = "", application: str = "jupyterlab") -> None:
        self.kept: set[str] = set()  # notebooks that outlive a test
        self.work = folder / "work"
        self.work.mkdir()
        super().__init__(folder, self.work, application=application, before=before)

    def ask(self, path: str, method: str = "GET", body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api/{path}", method=method, data=data)
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def write(self, name: str, cells: Sequence[str]) -> Path:
        """A notebook of these cells, in the folder that is served."""
        path = self.work / f"{name}.ipynb"
        document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(document, path)
        return path

    def start_kernel(self, notebook: str) -> None:
        kernel = {"name": "python3"}
        session = {"path": notebook, "name": notebook, "type": "notebook", "kernel": kernel}
        self.ask("sessions", "POST", session)

    def end_kernels(self) -> None:
        """End every kernel but those of the notebooks in `kept`."""

        def left() -> list[Any]:
            return [session for session in self.ask("sessions") if session["path"] not in self.kept]

        def none_left() -> bool:
            for session in left():
                with contextlib.suppress(urllib.error.HTTPError):  # one that is being restarted: ask again
                    self.ask(f"sessions/{session['id']}", "DELETE")
            return not left()

        until(none_left, 60, lambda: self.ask("sessions"))


def until(condition: Callable[[], Any], timeout_s: float, told: Callable[[], object] = lambda: "") -> Any:
    """Wait until `condition()` is true and return it; `told` says what there was instead."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {told()}")
        time.sleep(0.05)


@pytest.fixture(scope="session", params=["", *os.environ.get("ESEN_LAB_TEST_IPYKERNELS", "").split()])
def ipykernel_version(request: pytest.FixtureRequest) -> str:
    """The version of ipykernel under test: the installed one, and those that `make test-ipykernels` names."""
    return str(request.param) or metadata.version("ipykernel")


# For a module, not for the whole run: a browser starts helpers when it likes, and other tests must not see them.
@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ipykernel_version: str) -> Iterator[Server]:
    path = ""
    if ipykernel_version != metadata.version("ipykernel"):
        path = str(tmp_path_factory.mktemp("ipykernel"))
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", path]
        subprocess.run([*install, f"ipykernel=={ipykernel_version}"], check=True)
    made = Server(tmp_path_factory.mktemp("lab"), path)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium("--disable-background-networking", "--disable-dev-shm-usage") as launched:
        yield launched


@contextlib.contextmanager
def a_page(browser: Any) -> Iterator[Any]:
    """A page with nothing of earlier ones."""
    context = browser.new_context(viewport={"width": 1400, "height": 1100})
    made = context.new_page()
    made.set_default_timeout(60_000)  # a machine with other work takes its time to load a page
    made.set_default_navigation_timeout(90_000)
    yield made
    context.close()


@contextlib.contextmanager
def opened_for_a_module(browser: Any, server: Server, name: str, cells: Sequence[str]) -> Iterator[Notebook]:
    """A notebook that several tests use one after another: starting a kernel and a page takes seconds each time."""
    with a_page(browser) as page:
        server.kept.add(f"{name}.ipynb")
        yield Notebook(page, server, server.write(name, cells)).open()
        server.kept.clear()
    server.end_kernels()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with a_page(browser) as made:
        yield made


@pytest.fixture
def notebook(
    page: Any, server: Server, request: pytest.FixtureRequest
) -> Iterator[Callable[[Sequence[str]], Notebook]]:
    """Write a notebook of these cells and open it."""

    def make(cells: Sequence[str]) -> Notebook:
        path = server.write(request.node.name.partition("[")[0], cells)
        return Notebook(page, server, path).open()

    yield make
    server.end_kernels()
