"""Ways to spoil a file: its values where it is JSON, its bytes, its folder."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any


def nested(depth: int, *, objects: bool = False) -> Any:
    """A list within a list within ..., or objects."""
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if objects else [value]
    return value


EXTREMES: list[Callable[[random.Random], Any]] = [
    lambda rng: rng.choice([None, True, False, [], {}, "", [None], {"": None}, [[]], 0, -1, 1, 2, 0.5, -0.0]),
    lambda rng: rng.choice([10**6, 10**9, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**30, 10**400, -(10**400)]),
    lambda rng: rng.choice([1e-320, 1e-300, 1e-12, 1e12, 1e300, 1.7e308, math.inf, -math.inf, math.nan]),
    lambda rng: rng.choice(["a" * 100, "a" * 200_000, "\ud800", "\udfff\ud800", "\0", "\x1b[31m", "\u202e", "é" * 70]),
    lambda rng: rng.choice(
        ["../x", "/etc/passwd", "..", ".", "a/b", "nul\0", "<script>", "' or 1=1", "{0}", "%s", "`"]
    ),
    lambda rng: nested(rng.choice([3, 20, 40, 90, 300, 700]), objects=rng.random() < 0.3),
    lambda rng: [rng.choice([1, "a", None, 0.5, []])] * rng.choice([2, 600, 20_000]),
    lambda rng: {f"k{i}": rng.choice([1, "a", None]) for i in range(rng.choice([3, 600, 20_000]))},
    lambda rng: {str(i): 0.5 / i for i in range(1, rng.choice([50, 4096, 30_000]))},
    lambda rng: rng.getrandbits(rng.choice([8, 32, 64, 200])),
    lambda rng: rng.uniform(-1, 1) * 10 ** rng.randint(-300, 300),
]


def mutated(tree: Any, rng: random.Random) -> Any:
    """A copy of a tree of JSON with one to three things in it changed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        tree = _one_change(tree, rng)
    return tree


def _one_change(tree: Any, rng: random.Random) -> Any:
    places = _places(tree)
    if not places:
        return rng.choice(EXTREMES)(rng)
    parent, key = rng.choice(places)
    match rng.randrange(10):
        case 0 | 1 | 2:
            parent[key] = rng.choice(EXTREMES)(rng)
        case 3:
            del parent[key]
        case 4:
            parent[key] = _other_type(parent[key])
        case 5:
            parent[key] = _scaled(parent[key], rng)
        case 6:
            other, place = rng.choice(places)
            parent[key] = copy.deepcopy(other[place])
        case 7 if isinstance(parent, list):
            parent.extend(copy.deepcopy(parent[key]) for _ in range(rng.choice([1, 2, 600])))
        case 7 | 8 if isinstance(parent, dict):
            parent[rng.choice(["", "a", key.upper() if isinstance(key, str) else key, "\ud800", "__class__"])] = (
                parent.pop(key)
            )
        case _:
            parent[key] = rng.choice([[parent[key]], {"a": parent[key]}])
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting and len(found) < 5000:
        value = waiting.pop()
        if isinstance(value, (dict, list)):
            keys = list(value) if isinstance(value, dict) else range(len(value))
            found += [(value, key) for key in keys]
            waiting += [value[key] for key in keys]
    return found


def _other_type(value: Any) -> Any:
    match value:
        case bool():
            return int(value)
        case int():
            return str(value) if abs(value) < 10**9 else 1.5
        case float():
            return str(value)
        case str():
            return [value]
        case list():
            return {str(i): item for i, item in enumerate(value)}
        case dict():
            return [[key, item] for key, item in value.items()]
    return 0


def _scaled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value * 3 if isinstance(value, (str, list)) and len(value) < 10_000 else value
    try:
        return rng.choice([-value, value + 1, value - 1, value * 10**9, value * 1e-9, float(value)])
    except OverflowError:
        return 10**300


def spoilt_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes with bits flipped, cut, doubled, or with something put in."""
    if not data:
        return rng.randbytes(rng.choice([1, 100]))
    at = rng.randrange(len(data))
    match rng.randrange(9):
        case 0 | 1:
            spoilt = bytearray(data)
            for _ in range(rng.choice([1, 1, 4, 40])):
                spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
            return bytes(spoilt)
        case 2:
            return data[:at]
        case 3:
            return data[:at] + rng.randbytes(rng.choice([1, 3, 200])) + data[at:]
        case 4:
            return data[:at] + data[at : at + rng.choice([1, 10, 1000])] * rng.choice([2, 50]) + data[at:]
        case 5:
            put = rng.choice(
                [b"[" * 200_000, b'{"a":' * 50_000, b"\xff\xfe", b"\0", b"NaN", b"Infinity", b"1e999", b'"\\"' * 50_000]
            )
            return data[:at] + put + data[at:]
        case 6:
            return rng.choice(
                [b"", b"\xef\xbb\xbf" + data, data.decode("latin1").encode("utf-16"), b"null", b"[]", b"{}"]
            )
        case 7:
            return data[:at] + data[at + rng.choice([1, 2, 30]) :]
    return bytes(rng.randbytes(len(data) % 5000))


def json_mutant(data: bytes, rng: random.Random) -> bytes:
    """A mutant of a file of JSON: mostly of its values, sometimes of its bytes."""
    if rng.random() < 0.2:
        return spoilt_bytes(data, rng)
    spoilt = json.dumps(mutated(json.loads(data), rng), indent=rng.choice([None, 1]))
    return spoilt.encode() if rng.random() < 0.95 else spoilt_bytes(spoilt.encode(), rng)


def something_else(path: Path, rng: random.Random) -> None:
    """Put what is no ordinary file in the place of one."""
    path.unlink(missing_ok=True)
    match rng.randrange(5):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to(path.name)
        case 3:
            path.symlink_to("/dev/zero")
        case _:
            with socket.socket(socket.AF_UNIX) as made:
                here = os.getcwd()
                os.chdir(path.parent)  # the name of a socket may be 107 bytes long
                try:
                    made.bind(path.name)
                finally:
                    os.chdir(here)
