"""Sliders for the thresholds of a cascade: `%esen tune` where the plan in force has stages.

As in `sliders.py`: setting a widget from here calls its observers too, which `_showing` tells from a user's move; the
editor is never called with the panel's lock held; what takes time runs beside the callback; an older state than is
shown is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from esen_lab.common.locks import Lock
from esen_lab.common.units import format_confidence
from esen_lab.errors import EsenError
from esen_lab.ui.markup import element, joined
from esen_lab.ui.widgets.acts import Acts
from esen_lab.ui.widgets.sliders import Shows


class ThresholdPanel:
    """A panel over the thresholds of a cascade. `box` is the widget; `close` ends it.

    Args:
        editor: See `esen_lab.studies.thresholds.ThresholdEditor`.
    """

    def __init__(self, editor: Any) -> None:
        self._editor = editor
        self._lock = Lock()
        self._showing = False
        self._revision = -1
        self._acts = Acts(self._refused)
        wide = widgets.Layout(width="330px")
        self.sliders = [
            widgets.FloatSlider(
                value=0.9,
                min=0.01,
                max=1.0,
                step=0.01,
                description=f"stage {number}",
                tooltip=f"how sure an answer must be to leave after stage {number}",
                layout=wide,
            )
            for number in range(1, len(editor.state.thresholds) + 1)
        ]
        self.words = [Shows() for _ in editor.state.cascade.stages]
        self.figures, self.message = Shows(), Shows()
        self.apply = widgets.Button(description="Apply", tooltip="put these thresholds in force")
        self.reset = widgets.Button(description="Reset", tooltip="back to those in force")
        rows = [
            widgets.HBox([self.sliders[number], words] if number < len(self.sliders) else [words])
            for number, words in enumerate(self.words)
        ]
        self.box = widgets.VBox([self.figures, *rows, widgets.HBox([self.apply, self.reset]), self.message])
        for number, slider in enumerate(self.sliders, 1):
            slider.observe(lambda change, stage=number: self._moved(change["new"], stage), names="value")
        self.apply.on_click(lambda _: self._acts.beside(editor.apply))
        self.reset.on_click(lambda _: self._users(editor.reset))
        self._stop = editor.listen(self._show)
        self._show(editor.state)

    def _moved(self, threshold: float, stage: int) -> None:
        self._users(lambda: self._editor.set(round(threshold, 9), stage))

    def _users(self, act: Callable[[], Any]) -> None:
        with self._lock:
            if self._showing:
                return
        self._acts.now(act)

    def _refused(self, problem: EsenError, _where: object) -> None:
        self._show(self._editor.state)  # a slider goes back to what is
        with self._lock:
            self.message.show(element("span", str(problem), style="color:#D55E00"))

    def _show(self, state: Any) -> None:
        with self._lock:
            if state.revision < self._revision:
                return
            self._revision = state.revision
            self._showing = True
            try:
                with self.box.hold_sync():
                    self._draw(state)
            finally:
                self._showing = False

    def _draw(self, state: Any) -> None:
        first, *others = state.figures
        self.figures.show(joined([element("b", first), *others], " · "))
        for slider, threshold in zip(self.sliders, state.thresholds, strict=True):
            slider.readout_format = _readout(threshold)
            slider.value = threshold
        for words, stage in zip(self.words, state.cascade.stages, strict=True):
            words.show(joined([element("b", " + ".join(stage.names)), f" reached by {100 * stage.reach:.1f} %"]))
        self.message.show(element("span", state.message, style="color:#D55E00") if state.message else "")
        self.apply.disabled = state.in_force

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop following, and take the widgets away. What a button started is waited for, a little. Idempotent."""
        self._stop()
        self._acts.settle(timeout_s)
        _close(self.box)


def _readout(threshold: float) -> str:
    """The format of a slider's figure: two decimals, or as many as people are shown of it elsewhere."""
    decimals = len(format_confidence(threshold).partition(".")[2])
    return f".{max(2, decimals)}f"


def _close(widget: Any) -> None:
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()
