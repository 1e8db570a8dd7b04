"""What one notebook has open: its lab, its live displays. Everything a verb may touch, and nothing of IPython."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from esen_lab.common.locks import Lock
from esen_lab.ui.colours import COLOURS
from esen_lab.ui.simulated import SaysSimulated, said
from esen_lab.ui.views import View
from esen_lab.ui.widgets.live_displays import Follower, Live, Slow
from esen_lab.ui.widgets.still import Still

if TYPE_CHECKING:
    from esen_lab.lab import Lab

MOST_PANELS = 8  # of one notebook; the oldest goes when one more is opened
HOMES = ("lab", "esen")  # where the lab lives in the notebook, first choice first


class Notebook(Protocol):
    """What the notebook gives to a verb."""

    @property
    def namespace(self) -> MutableMapping[str, Any]:
        """The user's variables."""

    @property
    def names(self) -> Mapping[str, Any]:
        """What an expression may name: the user's variables, and those of the function that the line stands in."""

    @property
    def updates_in_place(self) -> bool:
        """Whether `live` displays can change after they were shown (a notebook), or not (a terminal)."""

    def evaluate(self, expression: str) -> Any:
        """The value of the user's expression.

        Raises:
            UsageError: It is not a Python expression.
            Exception: Whatever it raises, made to show as the user's own error.
        """

    def expand(self, text: str) -> str:
        """`text` with `$name` and `{expression}` of the notebook filled in."""

    def show(self, view: View) -> None:
        """Put `view` under the running cell, as HTML and as text."""

    def live(self, view: View) -> Live:
        """Put `view` under the running cell so that it can be replaced later, from any thread."""

    def show_widget(self, widget: Any, still: View | None = None, then: str = "") -> ShownWidget:
        """Put a widget under the running cell.

        Args:
            widget: The widget.
            still: What stands there where the widget is not: in the file, in pages without its kernel.
            then: What went on when `still` was drawn, for whoever reads it later: "the sliders were open".
        """

    def hidden(self, result: Any) -> Any:
        """`result`, which the cell that ends with it does not show; None where only that keeps it from being shown."""

    def mark_shown(self, record: object) -> None:
        """Keep the notebook from showing `record` once more as the value of the cell that just showed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownWidget:
    """A widget under a cell.

    Attributes:
        still: The output of its still form, to be kept current; None where it has none.
        take_away: Takes the widget away, from any thread; its still form stays.
    """

    still: Live | None
    take_away: Callable[[], None]


def lab_class() -> type[Lab]:
    """The real `Lab`; imported at the first need, because it brings torch along."""
    from esen_lab.lab import Lab

    return Lab


class Session:
    """One notebook's state: made when the extension is loaded, closed when it is unloaded or the kernel ends.

    Args:
        front: The notebook.
        lab_class: Returns the class of labs; called at the first need.
    """

    def __init__(self, front: Notebook, lab_class: Callable[[], type[Any]] = lab_class) -> None:
        self.front = cast(Notebook, SaysSimulated(front, self._said))
        self.follower = Follower()
        self._lab_class = lab_class
        self._class: type[Any] | None = None  # known once somebody has imported it
        self._made: list[Any] = []  # labs that were made here, and are therefore closed here
        self._panels: list[_Panel] = []
        self._buttons: list[_Button] = []
        self._last: Any = None  # the lab that was made last: no name of the notebook may be left to it
        self._nameless = False  # that none is left was said
        self._lock = Lock()
        self.watching: Any = None  # what `%esen watch` has open

    def known_lab(self) -> Any:
        """The lab if there is one, else None. Imports nothing: completion calls it at every key."""
        with self._lock:
            if self._class is None and "esen_lab.lab" in sys.modules:
                self._class = self._lab_class()
            if self._class is None:
                return None
            for home in HOMES:
                found = self.front.namespace.get(home)
                if isinstance(found, self._class):
                    return found
            return self._last

    def lab(self, device: str | None = None) -> Any:
        """The notebook's lab: a `Lab` that the user has named `lab`, else one that is made now and named so.

        A variable `lab` that is something else stays untouched; the lab is then named `esen`.

        Args:
            device: The device for a lab that is made now; None for the best one.
        """
        with self._lock:
            self._class = self._lab_class()
            found = self.known_lab()
            if found is None:
                found = self._last = self._class(device)
                self._made.append(found)
            elif found is not self._last or any(self.front.namespace.get(home) is found for home in HOMES):
                return found
            elif self._nameless and all(home in self.front.namespace for home in HOMES):
                return found  # that it has no name was said when it lost the last one
            # It is new, or the user has given its name to something else.
            self._name(found)
            return found

    def _name(self, lab: Any) -> None:
        home = next((home for home in HOMES if home not in self.front.namespace), None)
        self._nameless = home is None
        if home is not None:
            self.front.namespace[home] = lab
        if home != HOMES[0]:
            where = f"named {home!r}" if home else "without a name here"
            note = f"{HOMES[0]!r} is a variable of yours and stays so; the workbench's lab is {where}."
            self.front.show(View(notes=(note,)))

    def _said(self, view: View) -> View:
        lab = self.known_lab()
        return view if lab is None else said(view, lab.device)

    def learn_colours(self) -> None:
        """Sub-models get their colours in the order in which they were registered, not in that of the first picture."""
        lab = self.known_lab()
        if lab is not None:
            COLOURS.learn(lab.ensemble.names)

    @property
    def open_labs(self) -> tuple[Any, ...]:
        """Every lab that was made here, and the one in use."""
        return tuple(dict.fromkeys((*self._made, *filter(None, [self.known_lab()]))))

    def follow(self, job: Any, draw: Callable[[Any], View]) -> threading.Event:
        """Show `draw(job.snapshot())` and keep it current in place until the job is done.

        Returns:
            Set once the last state is shown.

        Raises:
            DeviceError: The system gives no thread for it; the job goes on.
        """
        first = draw(job.snapshot())
        button = None if job.done else self._stop_button(job)
        live = self.front.live(first)
        try:
            return self.follower.follow(job, _Ending(live, button) if button else live, draw, shown=first)
        except BaseException:
            if button is not None:
                button.take_away()
            raise

    def attend(self, title: str, work: Callable[[Callable[..., None]], Any], draw: Callable[[Any], View]) -> Any:
        """Do work in the running cell: show how far it is once it takes noticeable time, and its result in that place.

        Args:
            title: What is going on.
            work: Called with what it tells (done, all, what is going on, and a view of what there is so far, if it
                likes); gives the record.
            draw: The record's view.

        Returns:
            The record, marked as shown.
        """
        display = Slow(title, self.front.show, self.front.live)
        try:
            found = work(display.tell)
        except BaseException:
            display.stop()
            raise
        display.finish(draw(found))
        self.front.mark_shown(found)
        return found

    def _stop_button(self, job: Any) -> _Button | None:
        """A button that cancels the job, above its display; None where there are no widgets."""
        if not self.front.updates_in_place:
            return None
        try:
            from esen_lab.ui.widgets.commands import StopButton
        except ImportError:
            return None
        widget = StopButton(job.cancel)
        button = _Button(widget, self.front.show_widget(widget).take_away)
        with self._lock:
            self._buttons = [other for other in self._buttons if other.shown]
            self._buttons.append(button)
        return button

    def stop_watching(self) -> bool:
        """End `%esen watch`; whether it was on."""
        watching, self.watching = self.watching, None
        if watching is not None:
            watching.close()
        return watching is not None

    def open_panel(self, editor: Any, draw: Callable[[Any], View]) -> bool:
        """Put board and sliders for a plan editor under the running cell; False where there are no widgets.

        Args:
            editor: The editor.
            draw: The view of its state: what the notebook keeps of it.
        """
        try:
            from esen_lab.ui.widgets.board import Board
            from esen_lab.ui.widgets.sliders import SliderPanel
        except ImportError:
            return False
        board, sliders = Board(editor), SliderPanel(editor)
        self._open({board: board, sliders: sliders.box}, editor, draw, "board and sliders were open")
        return True

    def open_thresholds(self, editor: Any, draw: Callable[[Any], View]) -> bool:
        """Put sliders for the thresholds of a cascade under the running cell; as `open_panel`."""
        try:
            from esen_lab.ui.widgets.thresholds import ThresholdPanel
        except ImportError:
            return False
        panel = ThresholdPanel(editor)
        self._open({panel: panel.box}, editor, draw, "the sliders of thresholds were open")
        return True

    def _open(self, parts: dict[Any, Any], editor: Any, draw: Callable[[Any], View], then: str) -> None:
        """Show the widget of each part; the first one has the still form."""
        first, *rest = parts.values()
        shown = [self.front.show_widget(first, draw(editor.state), then), *map(self.front.show_widget, rest)]
        open_panel = _Panel(tuple(parts), shown, editor, draw)
        with self._lock:
            self._panels.append(open_panel)
            surplus = self._panels[:-MOST_PANELS]
            del self._panels[:-MOST_PANELS]
        for old in surplus:
            old.close()

    def close(self) -> None:
        """End the live displays, and every process and job of the labs in use. Idempotent.

        The variable `lab` stays where it is: what was registered and found is the user's.
        """
        with self._lock:
            buttons, panels, self._panels = list(self._buttons), self._panels, []
            labs = {id(lab): lab for lab in (*self._made, self.known_lab()) if lab is not None}
        # Ended without the lock: a display that is drawn at this moment asks for the lab, and is waited for.
        self.stop_watching()
        self.follower.close()
        for button in buttons:
            button.take_away()
        for panel in panels:
            panel.close()
        for lab in labs.values():
            lab.close()
        with self._lock:
            self._made = [lab for lab in self._made if id(lab) not in labs]


class _Button:
    """A stop button as long as it is of use."""

    def __init__(self, widget: Any, take_away: Callable[[], None]) -> None:
        self._widget = widget
        self._take_away = take_away
        self.shown = True

    def take_away(self) -> None:
        if self.shown:
            self.shown = False
            self._take_away()
            self._widget.close()


class _Panel:
    """Open board and sliders, and their still form, which ends with what they came to."""

    def __init__(
        self, parts: Sequence[Any], shown: Sequence[ShownWidget], editor: Any, draw: Callable[[Any], View]
    ) -> None:
        self._parts = parts
        self._shown = shown
        still = shown[0].still
        self._still = None if still is None else Still(still, lambda: draw(editor.state))
        self._stop = editor.listen(self._still.changed) if self._still is not None else _nothing

    def close(self) -> None:
        self._stop()
        if self._still is not None:
            self._still.close()
        for shown in self._shown:
            shown.take_away()
        for part in self._parts:
            part.close()


def _nothing() -> None:
    """There is nothing to stop."""


class _Ending:
    """A display whose last update takes the stop button away."""

    def __init__(self, live: Live, button: _Button) -> None:
        self._live = live
        self._button = button

    def update(self, view: View, *, last: bool = False) -> None:
        self._live.update(view, last=last)
        if last:
            self._button.take_away()
