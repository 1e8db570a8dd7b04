"""What the kernel says to its pages: a hello, everything once, then what changed; and what it does when they ask.

One thread looks at the lab a few times a second while there are pages, oftener while something is going on, and sleeps
when there are none. A page is told at most as often as it asked for. Everything else (`opened`, `command`, a cell that
begins or ends) only leaves a word for that thread, so nothing a page does makes a cell wait.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from esen_lab import __version__
from esen_lab.errors import EsenError

PROTOCOL = 1
MOST_PAGES = 8  # a page that was closed without a word falls out when others come
BUSY_LOOK_S = 0.1
IDLE_LOOK_S = 0.5
_LEAST_HZ, _MOST_HZ, _USUAL_HZ = 0.5, 10.0, 4.0
_MONITOR_LOOK_S = 0.25
# Readings change at every look: told this often, and never in the way of news.
_READINGS = {"device"}
_READINGS_S = 1.0
_PATIENCE_S = 2.0  # a lab that changes may be unreadable for a moment; for longer is worth a word


class Comm(Protocol):
    """The little of a comm that is used. `send` may be called from any thread."""

    def send(self, data: dict[str, Any]) -> None:
        """Send to the page."""

    def close(self) -> None:
        """Hang up."""


class Subject(Protocol):
    """What the pages are told of."""

    def sections(self) -> Mapping[str, Any]:
        """The sections of the state."""

    def busy(self) -> bool:
        """Whether things change by themselves at present."""

    def stop(self, job: str | None) -> None:
        """Cancel one job, or all."""

    def open_monitor(self, interval_s: float, history_s: float) -> Monitor:
        """Readings for plots.

        Raises:
            EsenError: There are none.
        """


class Monitor(Protocol):
    """Readings for plots, while somebody looks."""

    def bokeh(self) -> tuple[str, str]:
        """BokehJS and its version."""

    def document(self) -> dict[str, Any]:
        """The plots with all that is kept."""

    def fresh(self) -> dict[str, Any] | None:
        """What came since, as one message; None when nothing did."""

    def close(self) -> None:
        """Look no more."""


@dataclass(slots=True, eq=False)
class _Page:
    """One page: what it was told, and when it may be told more."""

    name: str
    comm: Comm
    rate_hz: float
    seq: int = -1
    known: dict[str, Any] = field(default_factory=dict)
    due_s: float = 0.0  # when it may be told news
    readings_due_s: float = 0.0
    whole: bool = True  # it is owed everything
    warned: bool = False  # it knows that the lab cannot be read at present
    monitor: Monitor | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)  # what it wants done, in order


class Talk:
    """The conversation with all pages of one kernel.

    Args:
        subject: What is told.
        clock: Seconds that only grow.
    """

    def __init__(self, subject: Subject, clock: Callable[[], float] = time.monotonic) -> None:
        self._subject = subject
        self._clock = clock
        self._kernel = uuid4().hex
        self.control = False  # whether pages are to send their commands on the control channel
        self._lock = threading.Lock()  # the pages, and what they asked
        self._pages: dict[str, _Page] = {}
        self._news = threading.Event()
        self._closing = False
        self._unreadable_since: float | None = None
        self._thread: threading.Thread | None = None

    # --- from the pages, in whatever thread a comm is heard -------------------------------------------------------

    def opened(self, comm: Comm, data: Mapping[str, Any]) -> None:
        """A page opened its state comm with `data`."""
        if data.get("protocol") != PROTOCOL:
            text = (
                f"esen_lab {__version__} in this kernel speaks protocol {PROTOCOL}, the panel speaks "
                f"{data.get('protocol')}. Install the same version of esen_lab where JupyterLab runs and where the "
                "kernel runs, then reload the page."
            )
            told = {"kind": "mismatch", "seq": 0, "protocol": PROTOCOL, "version": __version__, "text": text}
            comm.send(told)
            comm.close()
            return
        page = _Page(name=str(data.get("page", "")), comm=comm, rate_hz=_rate(data.get("rate_hz")))
        with self._lock:
            if self._closing:
                return
            surplus = [self._pages.pop(page.name, None)]
            while len(self._pages) >= MOST_PAGES:
                surplus.append(self._pages.pop(next(iter(self._pages))))
            self._pages[page.name] = page
            if self._thread is None:
                # A daemon, so that a kernel that is told to exit never waits for it.
                self._thread = threading.Thread(target=self._run, name="esen-panel", daemon=True)
                self._thread.start()
        for old in surplus:
            _let_go(old)
        self._news.set()

    def closed(self, comm: Comm) -> None:
        """A page closed its state comm."""
        with self._lock:
            gone = next((page for page in self._pages.values() if page.comm is comm), None)
            if gone is not None:
                del self._pages[gone.name]
        _let_go(gone)
        self._news.set()

    def command(self, name: str, data: object) -> None:
        """The page of this name sent a command."""
        if not isinstance(data, dict):
            return
        if data.get("kind") == "stop":
            # At once: whoever presses stop does not want to wait for a look.
            self._do(lambda: self._subject.stop(data.get("job")), name)
        with self._lock:
            page = self._pages.get(name)
            if page is None:
                return
            match data.get("kind"):
                case "resync":
                    page.whole = True
                case "rate":
                    page.rate_hz = _rate(data.get("rate_hz"))
                case "monitor":
                    page.asked.append(data)
                case "bye":
                    del self._pages[name]
        if data.get("kind") == "bye":
            _let_go(page)
        self._news.set()

    def stirred(self) -> None:
        """Something has happened: look soon."""
        self._news.set()

    @property
    def pages(self) -> int:
        """How many pages there are."""
        with self._lock:
            return len(self._pages)

    def close(self, text: str) -> None:
        """Say goodbye to every page and end the thread. May be called again."""
        with self._lock:
            self._closing = True
            pages = list(self._pages.values())
            self._pages.clear()
            thread, self._thread = self._thread, None
        self._news.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=3.0)
        for page in pages:
            self._send(page, {"kind": "bye", "text": text})
            _let_go(page)
            with contextlib.suppress(Exception):
                page.comm.close()

    # --- to the pages, in one thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._closing or not self._pages:
                    self._thread = None
                    return
            pause = self.look()
            self._news.wait(pause)
            self._news.clear()

    def look(self) -> float:
        """Tell every page what it is due. Called by the thread; by tests that have none.

        Returns:
            Seconds until the next look.
        """
        with self._lock:
            pages = list(self._pages.values())
        now = self._clock()
        sections: dict[str, Any] = {}
        pause = BUSY_LOOK_S
        try:
            sections = dict(self._subject.sections())
            pause = BUSY_LOOK_S if self._subject.busy() else IDLE_LOOK_S
            self._unreadable_since = None
            for page in pages:
                page.warned = False
        except Exception as problem:  # a lab in the middle of a change: the next look sees it whole
            self._cannot_read(problem, pages, now)
        for page in pages:
            if sections:
                pause = min(pause, self._tell(page, sections, now))
            if page.seq < 0:
                continue
            for asked in self._taken(page):
                self._monitor(page, asked)
            if page.monitor is not None:
                self._plots(page)
                pause = min(pause, _MONITOR_LOOK_S)
        return pause

    def _cannot_read(self, problem: Exception, pages: list[_Page], now: float) -> None:
        """Tell the pages once, if it lasts: what is broken must not look like a kernel that does not answer."""
        if self._unreadable_since is None:
            self._unreadable_since = now
        if now - self._unreadable_since < _PATIENCE_S:
            return
        why = " ".join(f"{type(problem).__name__}: {problem}".split())
        for page in pages:
            if page.warned:
                continue
            page.warned = True
            self._greet(page)
            self._send(page, {"kind": "said", "level": "error", "text": f"The lab cannot be shown at present: {why}"})

    def _greet(self, page: _Page) -> None:
        if page.seq < 0:
            hello = {"protocol": PROTOCOL, "version": __version__, "kernel": self._kernel, "control": self.control}
            self._send(page, {"kind": "hello", **hello})

    def _taken(self, page: _Page) -> list[dict[str, Any]]:
        with self._lock:
            asked, page.asked = page.asked, []
        return asked

    def _tell(self, page: _Page, sections: dict[str, Any], now: float) -> float:
        """Send what is new to a page, if it is time; returns the seconds until it is."""
        self._greet(page)
        changed = {name: value for name, value in sections.items() if page.known.get(name, _UNTOLD) != value}
        if not page.whole:
            # News go as often as the page asked; readings alone once a second, so that news never wait behind them.
            due_s = page.due_s if set(changed) - _READINGS else page.readings_due_s
            if not changed:
                return IDLE_LOOK_S
            if now < due_s:
                return due_s - now
        if page.whole:
            page.whole = False
            self._send(page, {"kind": "state", "sections": sections})
        else:
            self._send(page, {"kind": "patch", "sections": changed})
        page.known = sections
        page.readings_due_s = now + _READINGS_S
        if not changed or set(changed) - _READINGS:
            page.due_s = now + 1 / page.rate_hz
        return IDLE_LOOK_S

    def _monitor(self, page: _Page, asked: Mapping[str, Any]) -> None:
        """Turn a page's plots on (or send them anew) or off."""
        if not asked.get("on"):
            monitor, page.monitor = page.monitor, None
            if monitor is not None:
                monitor.close()
            return
        try:
            if page.monitor is None:
                interval_s, history_s = float(asked.get("interval_s", 0.5)), float(asked.get("history_s", 1800.0))
                page.monitor = self._subject.open_monitor(interval_s, history_s)
            source, version = page.monitor.bokeh()
        except Exception as problem:
            self._send(page, {"kind": "monitor", "what": "none", "text": " ".join(str(problem).split())})
            return
        if version not in asked.get("have", ()):
            self._send(page, {"kind": "monitor", "what": "bokeh", "version": version, "source": source})
        self._send(page, {"kind": "monitor", "what": "doc", "bokeh": version, "doc": page.monitor.document()})

    def _plots(self, page: _Page) -> None:
        assert page.monitor is not None
        try:
            message = page.monitor.fresh()
            if message is not None and message["kind"] == "doc":
                message = {"what": "doc", "bokeh": page.monitor.bokeh()[1], "doc": message["doc"]}
            elif message is not None:
                message = {**message, "what": "rows"}
        except Exception as problem:  # whatever it is, the pages are told other things than plots as well
            _let_go(page)
            self._send(page, {"kind": "monitor", "what": "none", "text": " ".join(str(problem).split())})
            return
        if message is not None:
            self._send(page, {**message, "kind": "monitor"})

    def _do(self, act: Callable[[], None], name: str) -> None:
        try:
            act()
        except EsenError as problem:
            with self._lock:
                page = self._pages.get(name)
            if page is not None:
                self._send(page, {"kind": "said", "level": "error", "text": str(problem)})

    def _send(self, page: _Page, message: dict[str, Any]) -> None:
        with self._lock:
            page.seq += 1
            seq = page.seq
            try:
                page.comm.send({**message, "seq": seq})
            except Exception:  # the page or the kernel is going away: nobody is left to tell
                self._pages.pop(page.name, None)


_UNTOLD = object()


def _rate(given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        return _USUAL_HZ
    return min(_MOST_HZ, max(_LEAST_HZ, float(given)))


def _let_go(page: _Page | None) -> None:
    """Close the plots of a page that is gone."""
    if page is not None and page.monitor is not None:
        monitor, page.monitor = page.monitor, None
        with contextlib.suppress(Exception):
            monitor.close()
