"""The programs of a repository: what each model of the Python backend runs, and the script that starts the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esen_lab.export.script import MARK

_HEAD = '''\
{mark}
"""{what} It needs torch, esen_lab and what the sub-models import.

The folder `bundle` holds code as well: it runs while it is the one that was written with this file.
"""

import os
import sys
from pathlib import Path

import triton_python_backend_utils as triton

sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))  # which Triton's Python does not read

from esen_lab.export import open_bundle
from esen_lab.export.triton import {answers}
from esen_lab.run import {runs}

BUNDLE = Path(__file__).resolve().parents[3] / "bundle"
DIGEST = {digest}  # of what lies there
PORTS = {ports}
'''

_LANE = (
    _HEAD
    + '''\
LANE = {lane}


class TritonPythonModel:
    """The sub-models of one lane, one after another."""

    def initialize(self, args):
        found = open_bundle(BUNDLE, digest=DIGEST)
        self.lane = LaneInPlace(found.plan, found.ensemble, LANE, found.graphs)
        triton.Logger.log_info(str(self.lane))
        for note in self.lane.notes:
            triton.Logger.log_warn(note)
        self.answering = ModelAnswers(triton, PORTS, lambda trees: self.lane.run(trees[0]))

    def execute(self, requests):
        return [self.answering.answer(request) for request in requests]

    def finalize(self):
        self.lane.close()
'''
)

_COMBINE = (
    _HEAD
    + '''\


class TritonPythonModel:
    """The combine rule."""

    def initialize(self, args):
        found = open_bundle(BUNDLE, digest=DIGEST)
        combine = CombineInPlace(found.plan, found.ensemble)
        self.answering = ModelAnswers(triton, PORTS, lambda trees: [combine.run(trees)])

    def execute(self, requests):
        return [self.answering.answer(request) for request in requests]
'''
)

_STAGED = (
    _HEAD
    + '''\
LANES = {lanes}


class TritonPythonModel:
    """The stages of a cascade: asks the models of their lanes, and answers the rows that are sure."""

    def initialize(self, args):
        found = open_bundle(BUNDLE, digest=DIGEST)
        self.answering = StagedAnswers(triton, PORTS, LANES, StagesInPlace(found.plan, found.ensemble))

    async def execute(self, requests):
        return [await self.answering.answer(request) for request in requests]
'''
)

_START = """\
#!/usr/bin/env bash
{mark}
# Starts Triton with this repository, each lane on cores of its own:
#
#     ./start.sh [arguments of tritonserver ...]
#
# The models run in the first python3 of PATH: activate the environment that has torch and esen_lab before.
#     TRITONSERVER    the server, if it is not on PATH
#     {variable}    the cores of lane 1, as FIRST-LAST; so for every lane
# It listens on 127.0.0.1 only. To be reached from elsewhere, add --http-address=0.0.0.0 (and put something in front
# that asks who it is).
set -euo pipefail
here="$(CDPATH= cd -- "$(dirname -- "${{BASH_SOURCE[0]}}")" && pwd -P)"
case "$here" in
*[!A-Za-z0-9_./@%+=:,-]*)
    # Its Python backend puts the path into a line of a shell, as it is.
    echo "start.sh: Triton serves from a path of letters, digits and _ . / - only: move this folder from '$here'" >&2
    exit 2
    ;;
esac
exec "${{TRITONSERVER:-tritonserver}}" --model-repository="$here/models" \\
    --http-address=127.0.0.1 --grpc-address=127.0.0.1 --metrics-address=127.0.0.1 \\
{policies}    "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneCores:
    """The cores of one lane, for a host policy.

    Attributes:
        policy: The policy's name, such as "lane_1".
        first: The first logical CPU.
        last: The last one: Triton takes a range without gaps.
    """

    policy: str
    first: int
    last: int


def lane_program(lane: int, ports: str, digest: str) -> bytes:
    """`model.py` of a lane.

    Args:
        lane: Its number, from 0.
        ports: What it takes and gives: see `ports.written`.
        digest: What `content_digest` gives for the files of the bundle.
    """
    return _filled(_LANE, "One lane of an ensemble.", "LaneInPlace", ports, digest, lane=str(lane))


def combine_program(ports: str, digest: str) -> bytes:
    """`model.py` of the model that combines; arguments as for `lane_program`."""
    return _filled(_COMBINE, "Makes one answer of what the lanes answered.", "CombineInPlace", ports, digest)


def staged_program(ports: str, lanes: Sequence[tuple[str, str]], digest: str) -> bytes:
    """`model.py` of a plan in stages.

    Args:
        ports: What the ensemble takes and gives: see `ports.written`.
        lanes: For each lane the name of its model, and what that takes and gives.
        digest: As for `lane_program`.
    """
    more = {"answers": "StagedAnswers", "lanes": ascii([*map(tuple, lanes)])}
    return _filled(_STAGED, "An ensemble in stages.", "StagesInPlace", ports, digest, **more)


def _filled(template: str, what: str, runs: str, ports: str, digest: str, **more: str) -> bytes:
    known = {"answers": "ModelAnswers", **more}
    text = template.format(mark=MARK, what=what, runs=runs, ports=ascii(ports), digest=ascii(digest), **known)
    return text.encode("ascii")


def start_script(lanes: Sequence[LaneCores | None]) -> bytes:
    """`start.sh`.

    Args:
        lanes: The cores of each lane; None: those that are free.
    """
    policies = "".join(
        f'    --host-policy={cores.policy},cpu-cores="${{{_variable(cores)}:-{cores.first}-{cores.last}}}" \\\n'
        for cores in lanes
        if cores is not None
    )
    return _START.format(mark=MARK, policies=policies, variable="LANE_1_CORES").encode("ascii")


def _variable(cores: LaneCores) -> str:
    return f"{cores.policy.upper()}_CORES"
