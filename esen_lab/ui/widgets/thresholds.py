"""Sliders for the thresholds of a cascade: `%esen tune` where the plan in force has stages."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from esen_lab.common.units import format_confidence
from esen_lab.ui.markup import element, joined
from esen_lab.ui.widgets.panel import EditorPanel, Shows, red

_LEAST = 0.01


class ThresholdPanel(EditorPanel):
    """A panel over the thresholds of a cascade.

    Args:
        editor: See `esen_lab.studies.thresholds.ThresholdEditor`.
    """

    def __init__(self, editor: Any) -> None:
        super().__init__(editor)
        wide = widgets.Layout(width="330px")
        self.sliders = [
            widgets.FloatSlider(
                value=0.9,
                min=_LEAST,
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
        self._follow()

    def _moved(self, threshold: float, stage: int) -> None:
        self._users(lambda: self._editor.set(round(threshold, 9), stage))

    def _draw(self, state: Any) -> None:
        first, *others = state.figures
        self.figures.show(joined([element("b", first), *others], " · "))
        for slider, threshold in zip(self.sliders, state.thresholds, strict=True):
            slider.min = min(slider.min, threshold)  # one that was found, or typed, may be lower than a slider begins
            slider.readout_format = _readout(threshold)
            slider.value = threshold
        for words, stage in zip(self.words, state.cascade.stages, strict=True):
            words.show(joined([element("b", " + ".join(stage.names)), f" reached by {100 * stage.reach:.1f} %"]))
        self.message.show(red(self._told or state.message))
        self.apply.disabled = state.in_force


def _readout(threshold: float) -> str:
    """The format of a slider's figure: two decimals, or as many as people are shown of it elsewhere."""
    decimals = len(format_confidence(threshold).partition(".")[2])
    return f".{max(2, decimals)}f"
