"""How many files what users do goes through: the child of house.py, which traces it.

    python tools/house_journeys.py PACKAGE     prints {journey: [files, moves]} as JSON

A journey is gone once to warm up and once traced. Its files are those of the package of which any function was called,
in any thread that it starts; its moves are how often a thread's next call of the package is in another file than its
last one.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

# The panel of sliders, now and in revisions before.
PANELS = (("esen_lab.ui.widgets.sliders", "SliderPanel"), ("esen_lab.notebook.panels", "TuningPanel"))


class Trace:
    """Files entered and moves between them, while it is on.

    Args:
        package: The folder whose files count.
    """

    def __init__(self, package: str) -> None:
        self._package = package.rstrip("/") + "/"
        self.files: set[str] = set()
        self.moves = 0
        self._last: dict[int, str] = {}  # by thread

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Trace this thread, and those that start meanwhile."""
        threading.setprofile(self._called)
        sys.setprofile(self._called)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]  # None ends it

    def _called(self, frame: FrameType, event: str, argument: object) -> None:  # noqa: ARG002  Python's signature
        here = frame.f_code.co_filename
        if event == "call" and here.startswith(self._package):
            thread = threading.get_ident()
            self.files.add(here)
            self.moves += self._last.get(thread, here) != here
            self._last[thread] = here


class Page:
    """A page's side of a comm: takes what it is sent."""

    def send(self, data: dict[str, Any]) -> None:
        """Nothing is drawn."""

    def close(self) -> None:
        """Nothing is held."""


Journey = Iterator[tuple[Callable[[], object], Callable[[], object]]]  # yields (what warms up, what is traced), once


def run(shell: Any) -> Journey:
    """A run on warm lanes."""
    line = partial(shell.run_line_magic, "esen", "run x")
    yield line, line


def search(shell: Any) -> Journey:
    """A search of the plan that is in force."""
    line = partial(shell.run_line_magic, "esen", "search")
    yield line, line


def look(shell: Any) -> Journey:
    """One look of the JupyterLab panel, with one page."""
    talk = shell.magics_manager.magics["line"]["esen"].__self__._panel.talk
    talk._thread = threading.current_thread()  # so that nobody else looks
    protocol = importlib.import_module(type(talk).__module__).PROTOCOL
    try:
        talk.opened(Page(), {"protocol": protocol, "page": "a page", "rate_hz": 4})
        if not getattr(talk, "pages", 1):
            raise LookupError("the page was refused")
        yield talk.look, talk.look
    finally:
        talk._thread = None


def slide(shell: Any) -> Journey:
    """One move of a slider."""
    with sliders(shell) as panel:
        yield partial(move, panel), partial(move, panel)


def apply(shell: Any) -> Journey:
    """Apply, with board and sliders open; in revisions before the board, a click on the button of the sliders."""

    def warm() -> None:
        move(panel)
        click()
        move(panel)

    with sliders(shell) as panel, contextlib.ExitStack() as open_:
        if "apply" in panel.buttons:
            click = partial(_clicked, panel)
        else:
            board = importlib.import_module("esen_lab.ui.widgets.board").Board(panel._editor)
            open_.callback(board.close)
            click = partial(_ordered, board)
        yield warm, click


def _clicked(panel: Any) -> None:
    panel.buttons["apply"].click()
    for thread in list(panel._threads):
        thread.join(60)


def _ordered(board: Any) -> None:
    board.commands.receive({"kind": "apply", "page": "a page", "number": board._heard.get("a page", 0) + 1})
    board._acts.settle(60)


JOURNEYS: dict[str, Callable[[Any], Journey]] = {
    "%esen run x": run,
    "%esen search": search,
    "Apply with one panel": apply,
    "one look of the panel": look,
    "a slider": slide,
}


@contextlib.contextmanager
def sliders(shell: Any) -> Iterator[Any]:
    """A panel of sliders over a draft with one lane."""
    editor = shell.user_ns["lab"].tune()
    if len(editor.state.lanes) == 2:
        editor.merge("wide", "deep")
    panel = panel_class()(editor)
    try:
        yield panel
    finally:
        panel.close()


def move(panel: Any) -> None:
    """Move the first slider to its other end."""
    slider = panel._rows[0].slider
    slider.value = slider.max if slider.value < slider.max else 1


def panel_class() -> Any:
    """The class of panels of the package that is measured."""
    for home, name in PANELS:
        with contextlib.suppress(ModuleNotFoundError):
            return getattr(importlib.import_module(home), name)
    raise LookupError(f"none of {PANELS} is there")


def prepared() -> Any:
    """A shell with the extension, two tiny sub-models, their profile and a plan."""
    import torch
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell(config=config)
    shell.extension_manager.load_extension("esen_lab")
    deep = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    shell.user_ns.update(x=torch.ones(2, 8), wide=torch.nn.Linear(8, 4), deep=deep)
    for words in ("device cpu", "register wide --example x", "register deep --example x"):
        shell.run_line_magic("esen", words)
    shell.user_ns["lab"].profile(budget_s=0.1).result(timeout=200)
    shell.run_line_magic("esen", "search")
    return shell


def main(package: str) -> int:
    """Go all journeys and print what was counted; returns the exit status."""
    found = {}
    with contextlib.redirect_stdout(io.StringIO()):
        shell = prepared()
        for name, journey in JOURNEYS.items():
            try:
                for warm_up, traced in journey(shell):
                    warm_up()
                    trace = Trace(package)
                    with trace.on():
                        traced()
                    found[name] = [len(trace.files), trace.moves]
            except (AttributeError, LookupError, TypeError) as problem:  # another revision has other names
                print(f"{name}: not counted: {problem!r}", file=sys.stderr)
        shell.user_ns["lab"].close()
        shell.extension_manager.unload_extension("esen_lab")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
