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
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from esen_lab import __version__
from esen_lab.common.trees import flatten, unflatten
from esen_lab.devices import CpuDevice
from esen_lab.errors import DeviceError
from esen_lab.files.lock_files import machine_lock_paths, open_lock_file
from esen_lab.serving.body import IDENTITY, encoding_named, unpacked
from esen_lab.serving.exported import ExportedFolder
from esen_lab.serving.joining import BEGINS_ANEW, OTHER_ROWS, RowsDiffer, joined, own, parted, rows_of, try_joining
from esen_lab.serving.prepared import prepare, sizes_for
from esen_lab.serving.protocol import InferRequest, encode_response, header_length, parse_request
from esen_lab.serving.refusal import RequestRefused, log, log_failure, refusal_of, too_late
from esen_lab.serving.served import PLAIN, TRIAL, AskedBatch, Served
from esen_lab.serving.server_settings import ServeSettings
from esen_lab.serving.service_times import BatchTimes
from esen_lab.serving.signature import PLATFORM, VERSION, ModelInfo, check_answer, describe

_JSON, _BYTES = "application/json", "application/octet-stream"
_LENGTH = "inference-header-content-length"
_MOST_BYTES = ServeSettings().max_body_bytes


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRequest:
    """A request as it came.

    Attributes:
        body: Its bytes.
        header_length: What `Inference-Header-Content-Length` says; None where it is not there.
        encoding: What `Content-Encoding` says.
        came_s: When it came, on `time.monotonic`; None: just now.
    """

    body: bytes
    header_length: str | None = None
    encoding: str = IDENTITY.decode()
    came_s: float | None = None


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
        tried = try_joining(served, served.ensemble.example)
        self.model: ModelInfo = describe(
            name,
            served.ensemble.example,
            tried.answer,
            members=served.ensemble.names,
            why_alone=tried.why_alone,
        )
        self._prepare()

    def _prepare(self) -> None:
        """Have engines see few sizes of a batch, which joined requests are filled up to: see `prepared.py`."""
        plan, example = self._served.plan, self._served.ensemble.example
        sizes = sizes_for(plan, self.model, example, self._max_rows)
        if sizes:
            sizes = prepare(lambda x: self._served.run(x, TRIAL), example, sizes)
        if sizes:
            self._max_rows = sizes[-1]
        self._times = BatchTimes(plan.jct_s, rows_of(flatten(example)[0]) or 1, sizes)

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

    @property
    def _paths(self) -> tuple[str, ...]:
        model = f"/v2/models/{self.model.name}"
        return (model, f"{model}/versions/{VERSION}")

    def takes(self, method: str, path: str) -> bool:
        """Whether a request is one that `infer` answers; `about` answers all others."""
        return method == "POST" and path in [f"{model}/infer" for model in self._paths]

    def about(self, path: str, method: str = "GET") -> ReplicaAnswer:
        """What other requests are answered: health, the server, the model."""
        infers, told = self.takes("POST", path), self._told(path)
        if told is None and not infers:
            return refused(RequestRefused(404, "unknown", f"There is no {path}: ask {self._paths[0]}/infer"))
        if infers or method not in ("GET", "HEAD"):
            allowed = "POST" if infers else "GET, HEAD"
            answer = refused(RequestRefused(405, "unknown", f"{path} takes {allowed}, not {method}"))
            return replace(answer, headers={**answer.headers, "allow": allowed})
        return _json(told)

    def _told(self, path: str) -> object:
        """What a path says, as plain data; None where there is no such path."""
        if path in ("/v2/health/live", "/v2/health/ready", *(f"{model}/ready" for model in self._paths)):
            return {}
        if path == "/v2":
            return {"name": PLATFORM, "version": __version__, "extensions": ["binary_tensor_data"]}
        if path in self._paths:
            return self.model.to_dict()
        if path in [f"{model}/config" for model in self._paths]:
            return self.model.config(self._max_rows)
        return None

    @staticmethod
    def asked(body: bytes, headers: Mapping[str, str]) -> ReplicaRequest:
        """A request that comes now.

        Args:
            body: Its bytes.
            headers: By name, in small letters.
        """
        return ReplicaRequest(
            body=body,
            header_length=headers.get(_LENGTH),
            encoding=headers.get("content-encoding", IDENTITY.decode()),
            came_s=time.monotonic(),
        )

    def infer(self, asked: Sequence[ReplicaRequest | tuple[bytes, str | None]]) -> list[ReplicaAnswer]:
        """Answer requests; those of applications that were exported earlier are a body and a length of its header."""
        began_s = time.monotonic()
        answers: dict[int, ReplicaAnswer] = {}
        requests: dict[int, InferRequest] = {}
        for number, one in enumerate(asked):
            given = one if isinstance(one, ReplicaRequest) else ReplicaRequest(body=one[0], header_length=one[1])
            try:
                requests[number] = self._parsed(given, began_s)
            except Exception as problem:  # one's own fault, and nobody else's
                answers[number] = refused(refusal_of(problem))
        for group in self._groups(requests):
            answers.update(self._answered({number: requests[number] for number in group}, began_s))
        return [answers[number] for number in range(len(asked))]

    def _parsed(self, asked: ReplicaRequest, now_s: float) -> InferRequest:
        """The request; its deadline counts from now on."""
        length = header_length(asked.header_length)
        body = unpacked(asked.body, encoding_named(asked.encoding.encode("latin-1", "replace")), _MOST_BYTES)
        request = parse_request(body, length, self.model)
        if request.timeout_s is None or asked.came_s is None:
            return request
        left_s = request.timeout_s - (now_s - asked.came_s)
        if left_s <= 0:
            raise too_late()
        return replace(request, timeout_s=left_s)

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
            other_rows = isinstance(problem, RowsDiffer)
            if other_rows:
                log.warning("requests are joined no more: %s", problem)
                self.model = self.model.alone(OTHER_ROWS)
            if len(requests) == 1 and not other_rows:
                log_failure(problem)
                return dict.fromkeys(requests, refused(refusal_of(problem)))
            # What one request does to a member is not the others' fault.
            alone = (self._answered({number: one}, began_s) for number, one in requests.items())
            return {number: answer for answers in alone for number, answer in answers.items()}
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
        rows = [request.rows for request in requests]
        more = self._times.size_of(sum(rows)) - sum(rows) if self.model.joins else 0
        x = unflatten(self.model.structure, joined([request.tensors for request in requests], more))
        answer, _ = self._served.run(x, asked)
        if self.model.joins and self._served.begins_anew:  # its example has not shown it
            log.warning("requests are joined no more: %s", BEGINS_ANEW)
            self.model = self.model.alone(BEGINS_ANEW)
        leaves, _ = flatten(own(answer))
        check_answer(leaves, self.model)
        return parted(leaves, rows, more)

    def _answer(self, request: InferRequest, outputs: Sequence[object], took_s: float) -> ReplicaAnswer:
        if request.timeout_s is not None and request.at_least is None and took_s > request.timeout_s:
            return refused(too_late())
        try:
            body, header = encode_response(request, outputs, self.model)  # type: ignore[arg-type]  # tensors
        except Exception as problem:
            return refused(refusal_of(problem))
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
