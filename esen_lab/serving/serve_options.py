"""The options of `esen-lab serve`, and the settings that they make."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from esen_lab.common.command_line import seconds, whole
from esen_lab.files import read_token
from esen_lab.serving.server_settings import RESERVED, ServeSettings

TOKEN = "ESEN_LAB_TOKEN"  # noqa: S105  the name of a variable


def serve_options(parser: argparse.ArgumentParser) -> None:
    """Add them; what is not given is left to `ServeSettings`."""
    default = {field.name: field.default for field in fields(ServeSettings)}
    parser.add_argument("plan", metavar="PLAN", help="an exported folder, its plan.json, or its script")
    parser.add_argument("--trust", action="store_true", help="run the code in PLAN although you did not export it here")
    parser.add_argument("--device", metavar="NAME", help="a device other than the plan's")
    parser.add_argument("--host", help=f"the address to listen at (default {default['host']}: this machine alone)")
    parser.add_argument("--port", type=whole(0), metavar="N", help=f"default {default['port']}; 0 takes a free one")
    parser.add_argument("--name", help="the model's name in addresses (default: the plan's)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="clients must send what is in it")
    parser.add_argument(
        "--window",
        dest="window_s",
        type=seconds(above_zero=False),
        metavar="S",
        help="how long a batch waits for one more request, in seconds (default: as long as that pays; 0: never)",
    )
    for name, what in (
        ("max-rows", "the largest batch that requests are joined to; 1: they are not"),
        ("max-waiting", "how many requests may wait; one more is answered 503"),
        ("max-body-bytes", "the largest request"),
        ("max-connections", "how many there may be"),
    ):
        key = name.replace("-", "_")
        parser.add_argument(f"--{name}", type=whole(1), metavar="N", help=f"{what} (default {default[key]})")
    for name, what in (
        ("deadline", "of requests that name none (default: they have none)"),
        ("read-timeout", "how long a client may take to send a request"),
        ("drain", "how long the end waits for requests that have come"),
    ):
        parser.add_argument(
            f"--{name}",
            dest=f"{name.replace('-', '_')}_s",
            type=seconds(above_zero=name != "drain"),
            metavar="S",
            help=what,
        )
    parser.add_argument(
        "--any-size", action="store_true", default=None, help="take inputs of other sizes than the example's"
    )
    parser.add_argument("--access-log", action="store_true", default=None, help="log each request")
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="default info"
    )


def settings_of(options: argparse.Namespace, name: str, environment: Mapping[str, str] = os.environ) -> ServeSettings:
    """What a command line and the environment say.

    Args:
        options: Of `serve_options`.
        name: Of the model, where none is given.
        environment: Where a token may be.

    Raises:
        UsageError: Something is not possible.
        StoreError: The token's file cannot be read.
    """
    known = {field.name for field in fields(ServeSettings)}
    given = {key: value for key, value in vars(options).items() if key in known and value is not None}
    # Never from the command line: every user of a machine sees those of all processes.
    token = read_token(options.token_file) if options.token_file is not None else environment.get(TOKEN, "").strip()
    return ServeSettings(**{"name": name, **given, "token": token})


def name_of(folder: Path) -> str:
    """A model's name for a folder: "plan" for "plan_files"; "ensemble" where that makes none that may be."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.absolute().name.removesuffix("_files")).strip("-._")[:64]
    return name if name and name not in RESERVED else "ensemble"
