"""An ensemble as Ray actors, at Ray's defaults: an actor for each network, asked at once, answers combined here."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from esen_lab.common.trees import Tree, call_with, select
from esen_lab.ensemble import Ensemble
from esen_lab.run.entries import Way

ACTORS = "ray actors"
"""The name that they are compared by."""
CALLED = "Ray {}, an actor for each network, asked at once, at Ray's defaults"


class _Member:
    """What an actor is: one network."""

    def __init__(self, network: nn.Module, keys: tuple[str, ...] | None) -> None:
        self._network = network
        self._keys = keys

    def answer(self, x: Tree) -> Tree:
        with torch.inference_mode():
            return call_with(self._network, select(x, self._keys))


@contextmanager
def ray_actors(ensemble: Ensemble, networks: Mapping[str, nn.Module]) -> Iterator[dict[str, Way]]:
    """The function that asks all actors, under the name that it is compared by; empty where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        yield {}
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # Short, for paths of sockets have 107 characters; and it goes again, which Ray's own folder does not.
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    ray.init(
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": paths},
        _temp_dir=folder,
    )
    try:
        kind: Any = ray.remote(_Member)
        actors = [kind.remote(networks[one.name], one.input_keys) for one in ensemble.submodels]

        def ask(x: Tree) -> Tree:
            there = ray.put(x)  # once for all of them, as Ray's documentation says
            answers = ray.get([actor.answer.remote(there) for actor in actors])
            return ensemble.combine(dict(zip(ensemble.names, answers, strict=True)))

        yield {ACTORS: ask}
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
