"""The view of a server."""

from __future__ import annotations

from typing import Any

from esen_lab.common.surroundings import step
from esen_lab.ui.views.blocks import View, facts


def server(record: Any) -> View:
    """A `ServerStatus`: where clients find it, how it stands, what it has answered."""
    if record.state == "ended":
        return View(title=f"{record.name} is served no longer", blocks=(facts(*record.facts()),))
    stop = step("lab.serve(None)", "%esen serve --stop")
    return View(
        title=f"{record.name} is served",
        blocks=(facts(*record.facts()),),
        notes=(f"`curl {record.url.removesuffix('/infer')}` says what it takes.", f"`{stop}` ends it."),
    )
