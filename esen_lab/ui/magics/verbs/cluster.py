"""The verb of a cluster: its nodes, reached and left."""

from __future__ import annotations

from typing import Any

from esen_lab.errors import UsageError
from esen_lab.ui import views
from esen_lab.ui.magics.arguments import Argument, text
from esen_lab.ui.magics.verbs.verb import Given, Verb, show
from esen_lab.ui.session import Session
from esen_lab.ui.views import View


def _cluster(session: Session, given: Given) -> Any:
    lab = session.lab()
    if given.leave and (given.load or given.address):
        raise UsageError("A cluster is reached or left, one at a time", given="both", hint="Leave --leave out.")
    if given.leave:
        lab.cluster.leave()
        session.front.show(View(title="No cluster is connected."))
        return None
    reached = lab.cluster.connect(given.address) if given.address else None
    if given.load:
        return session.attend("Loading nodes", lambda tell: lab.cluster.load(on_progress=tell), views.cluster)
    status = lab.cluster.status() if reached is None else reached
    if status is None:
        note = "`%esen cluster auto` reaches the one that runs on this machine, `%esen cluster HOST:6379` another."
        session.front.show(View(title="No cluster is connected.", notes=(note,)))
        return None
    return show(session, status, views.cluster(status))


CLUSTER = Verb(
    "the nodes of a cluster of Ray, for plans over several machines",
    _cluster,
    (
        Argument("address", "reach a cluster: auto, or HOST:6379", text, "ADDRESS", count="?"),
        Argument("--load", "have the plan in force loaded on its nodes now, not with the first run"),
        Argument("--leave", "end what runs on the nodes, and leave the cluster"),
    ),
    example="%esen cluster auto",
    interrupted="Interrupted: nodes may have been reached, loaded or left; %esen cluster shows them.",
)
