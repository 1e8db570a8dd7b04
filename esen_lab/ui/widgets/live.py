"""Live plots in a page: widgets without a server, a port or a network. One publisher thread sends everything.

    BokehSource   hidden; carries BokehJS from the kernel's own package to the page, once per page
    Commands      what the page asks for (see `commands.py`)
    LivePlots     shown; its state is rebuilt whenever a page asks, so a refresh shows the whole history

What is sent: see `feed.py`. A page that lost more than a message repeats sends "resync"; one that draws
slower or faster than before sends "pace".
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import anywidget
import traitlets
from ipywidgets import widget_serialization

from esen_lab.common.locks import Lock
from esen_lab.common.resources import begin
from esen_lab.ui.widgets.commands import SEND, Commands
from esen_lab.ui.widgets.feed import Feed
from esen_lab.ui.widgets.live_charts import bokeh_source
from esen_lab.ui.widgets.reading_columns import PlotReadings

LEAST_PACE_S = 0.1  # between two messages, also where a page draws faster
MOST_PACE_S = 2.0  # a page that hears nothing for longer takes what it shows for the past
_EARLY_S = 0.005  # samples are not taken at exact times: one that is a little early is not left for the next message


class BokehSource(anywidget.AnyWidget):
    """BokehJS, for the page to load."""

    _esm = "export default {}"
    source = traitlets.Unicode().tag(sync=True)
    version = traitlets.Unicode().tag(sync=True)

    def __init__(self) -> None:
        source, version = bokeh_source()
        super().__init__(source=source, version=version)


class LivePlots(anywidget.AnyWidget):
    """Plots of readings that go on.

    Args:
        readings: What to show.
        source: BokehJS, shared by all plots of a kernel.
    """

    _esm = SEND + files("esen_lab.ui").joinpath("assets/live.js").read_text(encoding="utf-8")
    _css = files("esen_lab.ui").joinpath("assets/live.css").read_text(encoding="utf-8")
    commands = traitlets.Instance(Commands).tag(sync=True, **widget_serialization)
    doc = traitlets.Unicode().tag(sync=True)
    loader = traitlets.Instance(BokehSource).tag(sync=True, **widget_serialization)

    def __init__(self, readings: PlotReadings, source: BokehSource) -> None:
        self._feed = Feed(readings)
        self._pace_s = LEAST_PACE_S
        self._due_s = 0.0
        self.ended: Callable[[], object] = lambda: None
        super().__init__(commands=Commands(self._asked), loader=source)

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> Any:
        """The state a page gets; with a document that holds all that is kept by now."""
        state = super().get_state(key=key, drop_defaults=drop_defaults)
        if "doc" in state:
            state["doc"] = json.dumps(self._feed.document())
        return state

    def _asked(self, content: dict[str, Any]) -> None:
        if content.get("kind") == "pace":
            self._pace_s = min(max(_seconds(content.get("ms")), LEAST_PACE_S), MOST_PACE_S)
        elif content.get("kind") == "resync":
            with self._feed.lock:
                self.send({"kind": "doc", "doc": self._feed.document()})

    def publish(self, now_s: float) -> None:
        """Send what is new, no faster than pages say that they draw it. Called by the publisher only.

        Args:
            now_s: Seconds that only grow.
        """
        if now_s < self._due_s:
            return
        self._due_s = now_s + self._pace_s - _EARLY_S
        with self._feed.lock:
            self.send(self._feed.fresh())

    def over(self, said: str) -> None:
        """Nothing comes any more: pages say why, also those that are loaded later."""
        with self._feed.lock:
            self._feed.over = said
            self.send({"kind": "over", "said": said})

    def close(self) -> None:
        """Take the plots from the page."""
        if self.comm is not None:  # a widget's end comes here too where it never began
            self.commands.close()
            self.ended()
        super().close()


def _seconds(ms: object) -> float:
    return ms / 1000 if isinstance(ms, (int, float)) and math.isfinite(ms) else MOST_PACE_S


class Publisher:
    """The one thread that sends: at each new sample, to every plot that is open.

    Args:
        changed: Called after each.
        over: Asked once a second at least: whether there is nothing to come any more.
        ended: Called when that is so, in the publisher's thread.
    """

    def __init__(
        self,
        changed: Callable[[], None] = lambda: None,
        *,
        over: Callable[[], bool] = lambda: False,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._changed = changed
        self._over = over
        self._ended = ended
        self._source: BokehSource | None = None
        self._open: list[LivePlots] = []
        self._lock = Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def open(self, readings: PlotReadings) -> LivePlots:
        """New plots of `readings`, kept current until `close`.

        Raises:
            DeviceError: The system gives no thread for it.
        """
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._closing.clear()
                thread = threading.Thread(target=self._run, args=(readings,), name="esen-publisher", daemon=True)
                begin(thread)
                self._thread = thread
            if self._source is None:
                self._source = BokehSource()
            plots = LivePlots(readings, self._source)
            self._open.append(plots)
            return plots

    @property
    def plots(self) -> Sequence[LivePlots]:
        """Those that are open."""
        with self._lock:
            return tuple(self._open)

    def _run(self, readings: PlotReadings) -> None:
        number = 0
        while not self._closing.is_set() and not self._over():
            try:
                if not readings.wait(number, timeout_s=1.0):
                    continue
                number = readings.number
            except Exception:  # readings that fail now may come again; plots show that they are the past
                self._closing.wait(1.0)
                continue
            for plots in self.plots:
                with contextlib.suppress(Exception):  # a page or a kernel that is going away: nobody is left to tell
                    plots.publish(time.monotonic())
            self._changed()
        if not self._closing.is_set():
            self._ended()

    def close(self) -> None:
        """End the thread and every plot. May be called again."""
        with self._lock:
            thread, self._thread = self._thread, None
            plots, self._open = self._open, []
            source, self._source = self._source, None
            self._closing.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=3.0)
        for each in plots:
            each.close()
        if source is not None:
            source.close()
