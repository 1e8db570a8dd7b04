"""A server as people write it by hand: `python load_servers.py PORT`. No batching, the members one after another.

Threads of Python's own HTTP server, a binary body as `bench_load.py` sends it, torch at its defaults. Nothing of
esen_lab is imported.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from load_models import WIDTH, Mean

MODEL = Mean()


class Plain(BaseHTTPRequestHandler):
    """Answers each request for itself."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Run the ensemble on the rows in the body."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        rows = bytearray(body[int(self.headers["Inference-Header-Content-Length"]) :])
        answer = MODEL(torch.frombuffer(rows, dtype=torch.float32).reshape(-1, WIDTH)).numpy().tobytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        """Say that it is there."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name that the class has
        """Say nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Plain).serve_forever()
