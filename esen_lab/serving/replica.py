"""An exported folder in somebody else's server (Ray Serve): requests of the Open Inference Protocol in, answers out.

That server collects requests; here they are joined to one batch, where a trial has shown that they may be, and parted.
Several replicas may be on one machine, and their server pins none of them: each takes cores that no other one has.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from esen_lab.common.answers import OTHER_ORDER, TOLERANCE
from esen_lab.common.trees import flatten, unflatten
from esen_lab.devices import CpuDevice
from esen_lab.errors import DeviceError
from esen_lab.files.lock_files import machine_lock_paths, open_lock_file
from esen_lab.serving.exported import ExportedFolder
from esen_lab.serving.joining import joined, own, parted, try_joining
from esen_lab.serving.model import ModelInfo, describe
from esen_lab.serving.protocol import InferRequest, encode_response, parse_request
from esen_lab.serving.refusal import RequestRefused, malformed, refusal_of, too_late
from esen_lab.serving.served import PLAIN, AskedBatch, Served

_JSON, _BYTES = "application/json", "application/octet-stream"
_LENGTH = "inference-header-content-length"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaAnswer:
    """What a client is answered.

    Attributes:
        status: The HTTP status.
        body: The content.
        headers: What goes with it.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": _JSON})


class ServeReplica:
    """One running plan. Its methods are called by one thread at a time.

    Args:
        served: What runs batches; closed with this.
        name: The model's name in addresses.
        max_rows: The largest batch that requests are joined to.
    """

    def __init__(self, served: Served, name: str, max_rows: int = 64) -> None:
        self._served = served
        self._max_rows = max_rows
        self._claimed: list[int] = []
        served.mend()
        eager = all(lane.all_eager for lane in served.plan.lanes)
        tried = try_joining(
            lambda x: served.run(x, PLAIN)[0],
            served.ensemble.example,
            begins_anew=served.begins_anew,
            tolerances=OTHER_ORDER if eager else TOLERANCE,
        )
        self.model: ModelInfo = describe(
            name,
            served.ensemble.example,
            tried.answer,
            members=served.ensemble.names,
            why_alone=tried.why_alone,
        )

    @classmethod
    def open(cls, folder: Path, name: str, *, digest: str, max_rows: int = 64) -> ServeReplica:
        """Start the lanes of an exported folder, on cores that no other replica of this machine has.

        Args:
            folder: What was exported.
            name: The model's name in addresses.
            digest: What `content_digest` gives for the files that the caller vouches for.
            max_rows: The largest batch that requests are joined to.

        Raises:
            DeviceError: Other replicas have the cores.
            EsenError: The folder cannot be read, or its lanes cannot be started.
        """
        served = ExportedFolder.open(folder, digest=digest)
        claimed: list[int] = []
        if isinstance(served.device, CpuDevice):
            cores, claimed = claim_cores(served.device.cores, served.plan.units)
            served.device = CpuDevice(cores)
        try:
            replica = cls(served, name, max_rows)
        except BaseException:
            served.close()
            _release(claimed)
            raise
        replica._claimed = claimed
        return replica

    def about(self, path: str) -> ReplicaAnswer:
        """What a GET of a path is answered: health, the server, the model."""
        model = f"/v2/models/{self.model.name}"
        if path.rstrip("/") in ("/v2/health/live", "/v2/health/ready", f"{model}/ready"):
            return ReplicaAnswer(status=200, body=b"{}")
        if path.rstrip("/") == "/v2":
            return _json({"name": "esen_lab", "version": "2", "extensions": ["binary_tensor_data"]})
        if path.rstrip("/") in (model, f"{model}/versions/1"):
            return _json(self.model.to_dict())
        return refused(RequestRefused(404, "unknown", f"There is no {path}: ask {model}/infer"))

    def infer(self, asked: Sequence[tuple[bytes, str | None]]) -> list[ReplicaAnswer]:
        """Answer requests: each is its body, and what `Inference-Header-Content-Length` says or None."""
        began_s = time.monotonic()
        answers: dict[int, ReplicaAnswer] = {}
        requests: dict[int, InferRequest] = {}
        for number, (body, told) in enumerate(asked):
            try:
                requests[number] = self._parsed(body, told)
            except RequestRefused as problem:
                answers[number] = refused(problem)
        for group in self._groups(requests):
            answers.update(self._answered({number: requests[number] for number in group}, began_s))
        return [answers[number] for number in range(len(asked))]

    def _parsed(self, body: bytes, told: str | None) -> InferRequest:
        if told is not None and not (told.isdigit() and len(told) < 16):
            raise malformed("Inference-Header-Content-Length is a whole number of bytes")
        return parse_request(bytearray(body), None if told is None else int(told), self.model)

    def _groups(self, requests: Mapping[int, InferRequest]) -> list[list[int]]:
        """Who is run together: as many rows as may be, one by one where rows may not be joined."""
        groups: list[list[int]] = []
        rows = self._max_rows
        for number, request in requests.items():
            alone = not self.model.joins or request.at_least is not None
            if alone or rows + request.rows > self._max_rows:
                groups.append([])
                rows = 0
            groups[-1].append(number)
            rows = self._max_rows if alone else rows + request.rows
        return groups

    def _answered(self, requests: Mapping[int, InferRequest], began_s: float) -> dict[int, ReplicaAnswer]:
        try:
            outputs = self._run(list(requests.values()), began_s)
        except Exception as problem:  # a member may raise whatever it likes
            return dict.fromkeys(requests, refused(refusal_of(problem)))
        return {
            number: self._answer(request, own, time.monotonic() - began_s)
            for (number, request), own in zip(requests.items(), outputs, strict=True)
        }

    def _run(self, requests: Sequence[InferRequest], began_s: float) -> Sequence[Sequence[object]]:
        asked = PLAIN
        first = requests[0]
        if first.at_least is not None and first.timeout_s is not None:
            left_s = max(first.timeout_s - (time.monotonic() - began_s), 0.001)
            asked = AskedBatch(deadline_s=left_s, at_least=first.at_least)
        x = unflatten(self.model.structure, joined([request.tensors for request in requests]))
        answer, _ = self._served.run(x, asked)
        return parted(flatten(own(answer))[0], [request.rows for request in requests])

    def _answer(self, request: InferRequest, outputs: Sequence[object], took_s: float) -> ReplicaAnswer:
        if request.timeout_s is not None and request.at_least is None and took_s > request.timeout_s:
            return refused(too_late())
        try:
            body, header = encode_response(request, outputs, self.model)  # type: ignore[arg-type]  # tensors
        except RequestRefused as problem:
            return refused(problem)
        if header is None:
            return ReplicaAnswer(status=200, body=body)
        return ReplicaAnswer(status=200, body=body, headers={"content-type": _BYTES, _LENGTH: str(header)})

    def close(self) -> None:
        """End the lanes, and let go of the cores."""
        try:
            self._served.close()
        finally:
            _release(self._claimed)
            self._claimed = []


def claim_cores(cores: Sequence[tuple[int, ...]], count: int) -> tuple[list[tuple[int, ...]], list[int]]:
    """Cores of this machine that no other process has claimed; they are free again when this one ends, however it ends.

    Args:
        cores: Those that there are, each as its logical CPUs.
        count: How many are wanted.

    Returns:
        The cores, and the descriptors that hold them.

    Raises:
        DeviceError: There are not so many.
    """
    held: list[int] = []
    claimed: list[tuple[int, ...]] = []
    for core in cores:
        if len(claimed) == count:
            break
        fd = _claim(core[0])
        if fd is not None:
            held.append(fd)
            claimed.append(core)
    if len(claimed) < count:
        _release(held)
        raise DeviceError(
            f"A replica has {count} cores to itself",
            given=f"{len(claimed)} that no other replica of this machine has, of {len(cores)}",
            hint="Fewer replicas for each machine: num_cpus of the deployment is the plan's cores.",
        )
    return claimed, held


def _claim(cpu: int) -> int | None:
    """A descriptor that holds a CPU; None where another process does, or no lock can be had."""
    for path in machine_lock_paths(f"core-{cpu}"):
        with contextlib.suppress(OSError):
            fd = open_lock_file(path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return None
            return fd
    return None


def _release(held: Sequence[int]) -> None:
    for fd in held:
        os.close(fd)


def _json(content: object) -> ReplicaAnswer:
    return ReplicaAnswer(status=200, body=msgspec.json.encode(content))


def refused(problem: RequestRefused) -> ReplicaAnswer:
    """What a request without an answer of the model is answered."""
    body = msgspec.json.encode({"error": problem.message})
    return ReplicaAnswer(status=problem.status, body=body, headers={"content-type": _JSON, **problem.headers})
