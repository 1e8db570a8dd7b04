"""Board and live plots for Python: wherever anywidget lives (JupyterLab, Notebook 7, marimo), without the magics."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esen_lab.lab import Lab
    from esen_lab.planner.editor import PlanEditor

_OVER = "The lab was closed, or goes on with another device: what you see is the past, and nothing comes any more."


def board(of: Lab | PlanEditor) -> Any:
    """The board of a plan editor: a plan's lanes, moved by hand. Show it as a cell's value; `close()` ends it.

    Args:
        of: A lab whose sub-models are profiled, or a plan editor, such as one of stored cost models.

    Raises:
        UsageError: Some sub-model has not been measured.
        ImportError: anywidget is not installed.
    """
    from esen_lab.ui.widgets.board import Board

    editor: Any = of
    if not hasattr(of, "propose"):  # a lab has one
        editor = editor.tune()
    return Board(editor)


def watch(lab: Lab, *, every_s: float = 0.5, history_s: float = 300.0) -> Any:
    """Live plots of the device of a lab. Show them as a cell's value; `close()` ends them, and so does `lab.close()`.

    Args:
        lab: The lab.
        every_s: Seconds between samples.
        history_s: How much is kept, in seconds.

    Raises:
        ImportError: anywidget or bokeh is not installed.
        DeviceError: The system gives no thread for them.
    """
    from esen_lab.ui.widgets.live import Publisher
    from esen_lab.ui.widgets.reading_columns import PlotReadings

    readings = lab.readings
    sampler = readings.watch(interval_s=every_s, history_s=history_s)

    def over() -> None:
        for shown in publisher.plots:
            with contextlib.suppress(Exception):  # a page or a kernel that is going away: nobody is left to tell
                shown.over(_OVER)

    publisher = Publisher(over=lambda: not sampler.running, ended=over)
    try:
        plots = publisher.open(PlotReadings.of(lab, sampler))
    except BaseException:
        publisher.close()
        readings.unwatch(sampler)
        raise

    def end() -> None:
        plots.ended = _nothing  # the publisher closes its plots, which ends here once more
        publisher.close()
        readings.unwatch(sampler)

    plots.ended = end
    return plots


def _nothing() -> None:
    """There is nothing to end."""
