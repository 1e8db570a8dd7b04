"""Load: requests that come at random, whoever answers them, and how long each takes from when it was due."""

from __future__ import annotations

from esen_lab.load.batches import Replies, arrivals_s, check_load, drive
from esen_lab.load.load_table import LoadRow, LoadTable, row_of
from esen_lab.load.url import drive_url, infer_request

__all__ = [
    "LoadRow",
    "LoadTable",
    "Replies",
    "arrivals_s",
    "check_load",
    "drive",
    "drive_url",
    "infer_request",
    "row_of",
]
