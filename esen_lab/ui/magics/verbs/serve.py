"""The verb that serves the plan."""

from __future__ import annotations

from typing import Any

from esen_lab.errors import UsageError
from esen_lab.files import read_token
from esen_lab.ui import views
from esen_lab.ui.magics.arguments import Argument, seconds, text, whole_number
from esen_lab.ui.magics.verbs.verb import Given, Verb, options, show
from esen_lab.ui.session import Session
from esen_lab.ui.views import View


def _serve(session: Session, given: Given) -> Any:
    if given.stop:
        besides = (given.port, given.host, given.name, given.token_file, given.window, given.max_rows, given.deadline)
        if any(one is not None for one in besides):
            raise UsageError("--stop ends the server that runs", given="other options besides", hint="Leave them out.")
    lab = session.lab()
    if given.stop:
        ended = lab.serve(port=None)
        if ended is None:
            session.front.show(View(title="Nothing is served."))
            return None
        return show(session, ended, views.server(ended.status()))
    token = None if given.token_file is None else read_token(given.token_file)
    asked = options(
        port=given.port,
        host=given.host,
        name=given.name,
        token=token,
        window_s=given.window,
        max_rows=given.max_rows,
        deadline_s=given.deadline,
    )
    server = lab.serve(**asked)
    return show(session, server, views.server(server.status()))


SERVE = Verb(
    "serve the plan over HTTP in the background, as KServe and Triton do; it ends with the lab",
    _serve,
    (
        Argument("--port", "where (default: 8000; 0 takes a free one)", whole_number),
        Argument("--host", "the address to listen at (default: 127.0.0.1, this machine alone)", text, "HOST"),
        Argument("--name", "the model's name in addresses (default: ensemble)", text),
        Argument("--token-file", "clients must send what is in this file", text, "FILE", option="token"),
        Argument("--window", "how long a batch waits for one more request (default: as long as that pays)", seconds),
        Argument("--max-rows", "the largest batch that requests are joined to (default: 64)", whole_number),
        Argument("--deadline", "of requests that name none (default: they have none)", seconds),
        Argument("--stop", "end the server that runs; what has come is answered first"),
    ),
    example="%esen serve --port 8000",
    interrupted="Interrupted: the server may run, or be ending; %esen serve --stop ends it. The lab stays usable.",
)
