"""What the kernel says to its pages: a hello, everything once, then what changed; and what it does when they ask.

One thread looks at the lab whenever its bell rings while there are pages, and reads the device once a second; without
pages there is none. A page is told at most as often as it asked for, and the last state always. Everything else
(`opened`, `command`, a cell that begins or ends) only leaves a word for that thread, so nothing a page does makes a
cell wait.

No message of a page ends that thread or any other: what a page sends is checked against messages.json, and what goes
wrong all the same is told to the page it went wrong for. Should the thread end in spite of that, the next word for it
starts it anew.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from esen_lab import __version__
from esen_lab.common.locks import Lock
from esen_lab.common.resources import begin
from esen_lab.errors import DeviceError, EsenError
from esen_lab.ui.panel.messages import plain, problem, problem_of_command, schema

PROTOCOL = 2
MOST_PAGES = 8  # a page that was closed without a word falls out when others come
LOOK_S = 1.0  # without news: readings of the device, and times that pass
AGAIN_S = 0.1  # after a look that failed
_USUAL_HZ = 4.0
_BREATH_S = 0.05  # between two looks, however many words are left
_MONITOR_LOOK_S = 0.25
# Readings change at every look: told this often, and never in the way of news.
_READINGS = {"device", "nodes"}
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

    def listen(self, stirred: Callable[[], None]) -> Callable[[], None]:
        """Call `stirred`, from any thread, whenever the sections may have changed; returns what ends that."""

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
    asked: dict[str, Any] | None = None  # what it wants of the monitor: the last word counts
    failed: str = ""  # what went wrong for it last, and was told


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
        self._lock = Lock()  # the pages, and what they asked
        self._pages: dict[str, _Page] = {}
        self._news = threading.Event()
        self._closing = False
        self._unreadable_since: float | None = None
        self._thread: threading.Thread | None = None

    # --- from the pages, in whatever thread a comm is heard -------------------------------------------------------

    def opened(self, comm: Comm, data: Mapping[str, Any]) -> None:
        """A page opened its state comm with `data`."""
        if data.get("protocol") != PROTOCOL:
            other = str(plain(data.get("protocol")))[:20]
            text = (
                f"esen_lab {__version__} in this kernel speaks protocol {PROTOCOL}, the panel speaks "
                f"{other}. Install the same version of esen_lab where JupyterLab runs and where the "
                "kernel runs, then reload the page."
            )
            told = {"kind": "mismatch", "seq": 0, "protocol": PROTOCOL, "version": __version__, "text": text}
            _hang_up(comm, told)
            return
        wrong = problem(dict(data), schema()["openings"]["state"])
        if wrong.startswith("page"):
            _hang_up(comm, {"kind": "bye", "seq": 0, "text": f"The panel did not say which page it is: {wrong}."})
            return
        page = _Page(name=data["page"], comm=comm, rate_hz=_rate(data.get("rate_hz"), _USUAL_HZ))
        with self._lock:
            if self._closing:
                return
            surplus = [self._pages.pop(page.name, None)]
            while len(self._pages) >= MOST_PAGES:
                surplus.append(self._pages.pop(next(iter(self._pages))))
            self._pages[page.name] = page
        for old in surplus:
            _let_go(old)
            if old is not None and old.comm is not comm:
                with contextlib.suppress(Exception):
                    old.comm.close()  # so that neither the kernel nor a page that is still there keeps half of it
        self.stirred()

    def closed(self, comm: Comm) -> None:
        """A page closed its state comm."""
        with self._lock:
            gone = next((page for page in self._pages.values() if page.comm is comm), None)
            if gone is not None:
                del self._pages[gone.name]
        _let_go(gone)
        self._news.set()

    def command(self, name: str, data: object) -> None:
        """The page of this name sent a command. One that is wrong is answered, and nothing is done."""
        wrong = problem_of_command(data)
        with self._lock:
            page = self._pages.get(name)
        if wrong:
            self._refuse(page, data, wrong)
            return
        assert isinstance(data, dict)
        if data["kind"] == "stop":
            # At once: whoever presses stop does not want to wait for a look.
            self._do(lambda: self._subject.stop(data.get("job")), page)
        if page is None:
            return
        with self._lock:
            match data["kind"]:
                case "resync":
                    page.whole = True
                case "rate":
                    page.rate_hz = _rate(data["rate_hz"], page.rate_hz)
                case "monitor":
                    page.asked = data
                case "bye":
                    self._pages.pop(name, None)
        if data["kind"] == "bye":
            _let_go(page)
        self.stirred()

    def _refuse(self, page: _Page | None, data: object, wrong: str) -> None:
        """Answer a wrong command where the page shows such answers; what wants no answer gets none."""
        kind = data.get("kind") if isinstance(data, dict) else None
        if page is None or page.seq < 0 or kind not in ("monitor", "stop"):
            return
        text = f"The panel sent a message that is not understood ({kind}: {wrong}). Reload the page."
        if kind == "monitor":
            self._send(page, {"kind": "monitor", "what": "none", "text": text})
        else:
            self._send(page, {"kind": "said", "level": "error", "text": text})

    def stirred(self) -> None:
        """Something has happened: look soon."""
        with self._lock:
            if self._pages and not self._closing and not _lives(self._thread):
                # A daemon, so that a kernel that is told to exit never waits for it.
                thread = threading.Thread(target=self._run, name="esen-panel", daemon=True)
                with contextlib.suppress(DeviceError):  # the system gives no more threads: the next word tries again
                    begin(thread)
                    self._thread = thread
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
        deaf = self._subject.listen(self._news.set)
        try:
            self._look_on()
        finally:
            deaf()

    def _look_on(self) -> None:
        while True:
            with self._lock:
                if self._closing or not self._pages:
                    self._thread = None
                    return
            try:
                pause = self.look()
            except BaseException as failure:  # of a fault of ours, no page shall hear nothing
                _log.info("a look failed", exc_info=failure)
                pause = AGAIN_S
            time.sleep(_BREATH_S)
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
        pause = AGAIN_S
        try:
            sections = plain(self._subject.sections())
            pause = LOOK_S
            self._unreadable_since = None
            for page in pages:
                page.warned = False
        except BaseException as failure:  # a lab in the middle of a change: the next look sees it whole
            sections = {}
            self._cannot_read(failure, pages, now)
        for page in pages:
            try:
                pause = min(pause, self._look_after(page, sections, now))
            except BaseException as failure:  # one page's trouble is not the others'
                self._failed(page, failure)
        return pause

    def _look_after(self, page: _Page, sections: dict[str, Any], now: float) -> float:
        """Tell a page what it is due; returns the seconds until it may be due more."""
        pause = self._tell(page, sections, now) if sections else LOOK_S
        if page.seq < 0:
            return pause
        with self._lock:
            asked, page.asked = page.asked, None
        if asked is not None:
            self._monitor(page, asked)
            with self._lock:
                gone = self._pages.get(page.name) is not page
            if gone:  # meanwhile, and nobody else lets go of what was opened for it just now
                _let_go(page)
        if page.monitor is not None:
            self._plots(page)
            pause = min(pause, _MONITOR_LOOK_S)
        return pause

    def _failed(self, page: _Page, failure: BaseException) -> None:
        """Tell a page once that something went wrong for it."""
        _log.info("a page could not be told", exc_info=failure)
        why = " ".join(f"{type(failure).__name__}: {failure}".split())
        if page.failed != why:
            page.failed = why
            text = f"The panel is not complete at present: {why}"
            self._send(page, {"kind": "said", "level": "error", "text": text})

    def _cannot_read(self, failure: BaseException, pages: list[_Page], now: float) -> None:
        """Tell the pages once, if it lasts: what is broken must not look like a kernel that does not answer."""
        if self._unreadable_since is None:
            self._unreadable_since = now
        if now - self._unreadable_since < _PATIENCE_S:
            return
        why = " ".join(f"{type(failure).__name__}: {failure}".split())
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

    def _tell(self, page: _Page, sections: dict[str, Any], now: float) -> float:
        """Send what is new to a page, if it is time; returns the seconds until it is."""
        self._greet(page)
        changed = {name: value for name, value in sections.items() if page.known.get(name, _UNTOLD) != value}
        if not page.whole:
            # News go as often as the page asked; readings alone once a second, so that news never wait behind them.
            due_s = page.due_s if set(changed) - _READINGS else page.readings_due_s
            if not changed:
                return LOOK_S
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
        return LOOK_S

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
            document = page.monitor.document()
        except Exception as failure:
            _let_go(page)
            self._send(page, {"kind": "monitor", "what": "none", "text": " ".join(str(failure).split())})
            return
        if version not in asked.get("have", ()):
            self._send(page, {"kind": "monitor", "what": "bokeh", "version": version, "source": source})
        self._send(page, {"kind": "monitor", "what": "doc", "bokeh": version, "doc": document})

    def _plots(self, page: _Page) -> None:
        assert page.monitor is not None
        try:
            message = page.monitor.fresh()
            if message is not None and message["kind"] == "doc":
                message = {"what": "doc", "bokeh": page.monitor.bokeh()[1], "doc": message["doc"]}
            elif message is not None:
                message = {**message, "what": "rows"}
        except Exception as failure:  # whatever it is, the pages are told other things than plots as well
            _let_go(page)
            self._send(page, {"kind": "monitor", "what": "none", "text": " ".join(str(failure).split())})
            return
        if message is not None:
            self._send(page, {**message, "kind": "monitor"})

    def _do(self, act: Callable[[], None], page: _Page | None) -> None:
        try:
            act()
        except Exception as failure:
            text = str(failure) if isinstance(failure, EsenError) else f"{type(failure).__name__}: {failure}"
            if page is not None:
                self._send(page, {"kind": "said", "level": "error", "text": text})

    def _send(self, page: _Page, message: dict[str, Any]) -> None:
        # Sections are plain already; what plots are made of is sent whole; any other text is one that people read.
        ready = message["kind"] in ("state", "patch")
        told = message if ready else plain(message, whole=message["kind"] == "monitor" and "text" not in message)
        with self._lock:
            page.seq += 1
            try:
                page.comm.send({**told, "seq": page.seq})
            except Exception:  # the page or the kernel is going away: nobody is left to tell
                if self._pages.get(page.name) is page:
                    del self._pages[page.name]
            else:
                return
        _let_go(page)


_log = logging.getLogger(__name__)
_UNTOLD = object()


def _lives(thread: threading.Thread | None) -> bool:
    """Whether there is a thread that has not ended; after a fork, one of the other process has."""
    return thread is not None and not (isinstance(thread, threading.Thread) and not thread.is_alive())


def _rate(given: object, otherwise: float) -> float:
    """A rate that a page asks for, within what is served."""
    rule = schema()["to_kernel"]["rate"]["properties"]["rate_hz"]
    if problem(given, {"type": "number"}):
        return otherwise
    assert isinstance(given, (int, float))
    return min(float(rule["maximum"]), max(float(rule["minimum"]), float(given)))


def _hang_up(comm: Comm, last: dict[str, Any]) -> None:
    """A last word to a page that is not spoken to."""
    with contextlib.suppress(Exception):
        comm.send(last)
    with contextlib.suppress(Exception):
        comm.close()


def _let_go(page: _Page | None) -> None:
    """Close the plots of a page that is gone."""
    if page is not None and page.monitor is not None:
        monitor, page.monitor = page.monitor, None
        with contextlib.suppress(Exception):
            monitor.close()
