"""The view of a server."""

from __future__ import annotations

from typing import Any

from esen_lab.ui.views.blocks import View, facts


def server(record: Any) -> View:
    """A `Server`: where clients find it, how it stands, what it has answered."""
    ended = record.state == "ended"
    notes = (
        ()
        if ended
        else (f"`curl {record.url.removesuffix('/infer')}` says what it takes.", "`%esen serve --stop` ends it.")
    )
    title = (
        f"{record.settings.name} was served at {record.address}"
        if ended
        else f"{record.settings.name} at {record.address}"
    )
    return View(title=title, blocks=(facts(*record.facts()),), notes=notes)
