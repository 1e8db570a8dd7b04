"""Random numbers: every member draws its own in every run, and a session that is seeded repeats them.

Members of an ensemble draw independent numbers, the same whatever lane they are in: before a member runs, its process's
generators are seeded with a number made of the run's seed and the member's name. The run's seed is drawn from the
session's own generator, so `torch.manual_seed(0)` before a run repeats it. Lanes that are threads of the session's
process seed the session's own generators for as long as a member is called.
"""

from __future__ import annotations

import hashlib
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PROOF_SEED = 20_240_128
"""Answers that are compared are drawn with this one."""
DRAWING = threading.Lock()
"""Held by a thread that seeds generators and draws from them: all threads of a process share them."""


def draw_seed() -> int:
    """A seed for one run, drawn from the session's generator of torch."""
    import torch

    return int(torch.randint(1 << 62, (), device="cpu").item())  # whatever the default device is


def seed_for(seed: int, name: str) -> int:
    """The seed of one member in the run that has `seed`: 63 bits."""
    digest = hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_generators(number: int, *, gpus: bool = False) -> None:
    """Seed the generators of torch, of Python, and of NumPy where it is in use.

    Args:
        number: At least 0, below 2^63.
        gpus: Those of GPUs too, which cannot be put back without starting CUDA.
    """
    import torch

    if gpus:
        torch.manual_seed(number)
    else:
        torch.default_generator.manual_seed(number)
    random.seed(number)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(number % (1 << 32))


def states() -> tuple[Any, ...]:
    """Where the generators are, to be compared: equal when nothing was drawn in between."""
    import torch

    numpy = sys.modules.get("numpy")
    legacy = None if numpy is None else numpy.random.get_state()
    return (
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        None if legacy is None else (legacy[0], legacy[1].tobytes(), *legacy[2:]),
    )


def drawn_since(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    """Whether any was drawn between what `states` gave first and what it gave now; NumPy may be new since."""
    pairs = zip(before, now, strict=True)
    return any(was is not None and is_now is not None and was != is_now for was, is_now in pairs)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Whatever is drawn inside, the session's generators are afterwards where they were."""
    import torch

    numpy = sys.modules.get("numpy")
    legacy = None if numpy is None else numpy.random.get_state()
    own = random.getstate()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(own)
            if numpy is not None:
                numpy.random.set_state(legacy)
