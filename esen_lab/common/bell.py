"""Who is told when something changes.

Listeners   called one after another, in the thread that changed it: for what must be known before it goes on
Bell        rings with the new state: each listener hears it in a thread of its own, every state in its order
"""

from __future__ import annotations

import contextlib
import queue
import threading
import warnings
from collections.abc import Callable
from typing import Generic, TypeVar

from esen_lab.common.locks import Lock
from esen_lab.common.resources import begin
from esen_lab.errors import DeviceError

State = TypeVar("State")

_IDLE_S = 1.0  # then a listener's thread ends; a later ring starts another
_MOST_UNHEARD = 1000  # of one listener that does not come back; the oldest states are left out then


class Listeners(Generic[State]):
    """Callbacks that are told a state. May be used from any thread; none is called under a lock of this object."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._callbacks: tuple[Callable[[State], object], ...] = ()

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def add(self, callback: Callable[[State], object]) -> Callable[[], None]:
        """Tell `callback` from now on; returns what ends that, which may be called again."""
        with self._lock:
            self._callbacks = (*self._callbacks, callback)
        return lambda: self.drop(callback)

    def drop(self, callback: Callable[[State], object]) -> None:
        """Tell `callback` nothing more."""
        with self._lock:
            self._callbacks = tuple(other for other in self._callbacks if other != callback)

    def tell(self, state: State) -> list[Exception]:
        """Call each; one that raises is dropped, and what it raised is returned."""
        problems = []
        for callback in self._callbacks:
            try:
                callback(state)
            except Exception as problem:
                self.drop(callback)
                problems.append(problem)
        return problems


class Bell(Generic[State]):
    """Rings with the new state after each change. May be used from any thread.

    Whoever rings waits for nobody: a listener that is slow is late itself, one that raises is dropped with a warning.
    """

    def __init__(self) -> None:
        self._listeners: Listeners[State] = Listeners()

    def listen(self, callback: Callable[[State], object]) -> Callable[[], None]:
        """Call `callback` with the state after each change, in their order, in a thread of its own.

        Whoever wants to be told less often leaves states out himself: the last one is the one that holds.

        Returns:
            Call it to hear nothing more. It does not wait for a call that is under way.
        """
        hearer = _Hearer(callback)
        stop = self._listeners.add(hearer.tell)

        def end() -> None:
            stop()
            hearer.end()

        return end

    def ring(self, state: State) -> None:
        """Tell everybody; returns at once."""
        self._listeners.tell(state)


class _Hearer(Generic[State]):
    """One listener of a bell: its thread lives as long as there is something to hear, and a moment longer."""

    def __init__(self, callback: Callable[[State], object]) -> None:
        self._callback = callback
        self._unheard: queue.SimpleQueue[tuple[State] | None] = queue.SimpleQueue()
        self._lock = Lock()
        self._ended = False
        self._thread: threading.Thread | None = None

    def tell(self, state: State) -> None:
        """Leave word for the thread."""
        self._unheard.put((state,))
        if self._unheard.qsize() > _MOST_UNHEARD:
            self._unheard.get_nowait()
        with self._lock:
            if not self._ended and (self._thread is None or not self._thread.is_alive()):
                self._thread = None
                thread = threading.Thread(target=self._hear, name="esen_lab bell", daemon=True)
                with contextlib.suppress(DeviceError):  # no thread to be had: what is unheard waits for the next ring
                    begin(thread)
                    self._thread = thread

    def end(self) -> None:
        """Hear nothing more."""
        self._ended = True
        self._unheard.put(None)

    def _hear(self) -> None:
        while not self._ended:
            try:
                word = self._unheard.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._unheard.empty():
                        self._thread = None
                        return
                continue
            if word is None or self._ended:
                return
            try:
                self._callback(*word)
            except Exception as problem:
                self._ended = True
                dropped("the bell", problem)


def dropped(of: str, problem: BaseException) -> None:
    """Warn that a listener was dropped for what it raised; never raises, whatever the filters of warnings say."""
    try:
        text = f"A listener of {of} is not told any more: it raised {type(problem).__name__}: {problem}"
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:
        return
