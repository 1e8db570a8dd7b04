"""An exported plan in somebody else's server: the protocol, joined requests, cores of its own."""

from __future__ import annotations

import gzip
import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from models import mlp
from served_doubles import FakeServed

from esen_lab import Lab
from esen_lab.errors import DeviceError
from esen_lab.export.trust import content_digest
from esen_lab.serving.protocol import encode_response
from esen_lab.serving.replica import ReplicaAnswer, ReplicaRequest, ServeReplica, claim_cores
from esen_lab.serving.served import AskedBatch

X = torch.linspace(-1, 1, 32).reshape(4, 8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    folder = tmp_path_factory.mktemp("export") / "served"
    with Lab("cpu") as lab:
        for name in "ab":
            lab.register(name, mlp(seed=ord(name)), example=X)
        lab.profile(budget_s=0.05).result()
        lab.search()
        lab.export(folder, form="ray-serve")
        return folder, lab.run(X)


@pytest.fixture
def replica(exported: tuple[Path, torch.Tensor]) -> Iterator[ServeReplica]:
    folder = exported[0] / "bundle"
    digest = content_digest({path.name: path.read_bytes() for path in folder.glob("[!g]*")})
    made = ServeReplica.open(folder, "served", digest=digest)
    yield made
    made.close()


def asked(x: torch.Tensor) -> tuple[bytes, None]:
    tensor = {"name": "input", "datatype": "FP32", "shape": list(x.shape), "data": x.reshape(-1).tolist()}
    return json.dumps({"inputs": [tensor]}).encode(), None


def test_requests_that_are_joined_get_their_own_rows(
    replica: ServeReplica, exported: tuple[Path, torch.Tensor]
) -> None:
    assert replica.model.joins
    answers = replica.infer([asked(X), (b"no json", None), asked(X[:1])])
    assert [answer.status for answer in answers] == [200, 400, 200]
    (output,) = json.loads(answers[0].body)["outputs"]
    assert torch.allclose(torch.tensor(output["data"]).reshape(output["shape"]), exported[1], atol=1e-6)
    (output,) = json.loads(answers[2].body)["outputs"]
    assert output["shape"] == [1, 3]
    assert torch.allclose(torch.tensor(output["data"]).reshape(1, 3), exported[1][:1], atol=1e-6)


def test_it_says_what_it_serves(replica: ServeReplica) -> None:
    assert replica.about("/v2/health/ready").status == 200
    assert json.loads(replica.about("/v2/models/served").body)["inputs"][0]["name"] == "input"
    assert replica.about("/v2/models/other").status == 404


def test_replicas_of_one_machine_have_different_cores() -> None:
    cores = [(0,), (1,), (2,)]
    first, held = claim_cores(cores, 2)
    assert first == [(0,), (1,)]
    second, more = claim_cores(cores, 1)
    assert second == [(2,)]
    with pytest.raises(DeviceError, match="1 cores to itself"):
        claim_cores(cores, 1)
    for fd in (*held, *more):
        os.close(fd)
    third, held = claim_cores(cores, 3)
    assert third == cores
    for fd in held:
        os.close(fd)


class LeavesOut(FakeServed):
    """Leaves out rows above 50; raises where any is above 90."""

    def run(self, x: torch.Tensor, asked: AskedBatch) -> tuple[torch.Tensor, None]:
        y, report = super().run(x, asked)
        if bool((x > 90).any()):
            raise RuntimeError("too large")
        return y[x[:, 0] <= 50], report


def values(answer: ReplicaAnswer) -> list[float]:
    (output,) = json.loads(answer.body)["outputs"]
    return [float(value) for value in output["data"]]


def test_where_an_answer_has_other_rows_than_its_batch_each_request_is_run_alone_from_then_on() -> None:
    served = LeavesOut()
    replica = ServeReplica(served, "served")
    assert replica.model.joins
    served.runs.clear()
    first, second, third = replica.infer([asked(torch.full((1, 4), value)) for value in (1.0, 60.0, 3.0)])
    assert (values(first), values(second), values(third)) == ([2.0] * 4, [], [6.0] * 4)
    assert [len(x) for x in served.runs] == [3, 1, 1, 1], "together, then each for itself"
    assert not replica.model.joins
    served.runs.clear()
    replica.infer([asked(torch.ones(1, 4)), asked(torch.ones(2, 4))])
    assert [len(x) for x in served.runs] == [1, 2]


def test_what_one_request_does_to_a_member_is_not_the_others_fault(caplog: pytest.LogCaptureFixture) -> None:
    replica = ServeReplica(LeavesOut(), "served")
    good, bad = replica.infer([asked(torch.ones(1, 4)), asked(torch.full((1, 4), 99.0))])
    assert values(good) == [2.0] * 4
    assert bad.status == 500
    assert b"its log says how" in bad.body
    assert "too large" in caplog.text
    assert replica.model.joins, "an error says nothing of rows"


def test_every_address_of_the_protocol_is_answered_by_its_method() -> None:
    replica = ServeReplica(FakeServed(), "served")
    for path in ("/v2/models/served", "/v2/models/served/versions/1"):
        assert replica.takes("POST", f"{path}/infer")
        assert not replica.takes("GET", f"{path}/infer")
        assert replica.about(f"{path}/ready").status == replica.about(path, "HEAD").status == 200
        assert json.loads(replica.about(f"{path}/config").body)["input"][0]["data_type"] == "TYPE_FP32"
        for method, below, allowed in (
            ("GET", "/infer", "POST"),
            ("POST", "", "GET, HEAD"),
            ("PUT", "/ready", "GET, HEAD"),
        ):
            answer = replica.about(f"{path}{below}", method)
            assert (answer.status, answer.headers["allow"]) == (405, allowed)
    for path in ("/v2/models/other", "/v2/models/served/versions/2", "/v2/nowhere"):
        assert not replica.takes("POST", f"{path}/infer")
        assert replica.about(f"{path}/infer", "POST").status == 404
    for method, path in (("POST", "/v2/models/served/infer/"), ("GET", "/v2/models/served/"), ("GET", "/v2//")):
        assert replica.about(path, method).status == 404, "an address is as it stands there"


def test_packed_requests_are_unpacked_and_the_length_of_the_json_is_that_within() -> None:
    replica = ServeReplica(FakeServed(), "served")
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [tensor]}).encode()
    data = head + torch.ones(4).numpy().tobytes()
    for encoding, packed in (
        ("gzip", gzip.compress(data)),
        ("x-gzip", gzip.compress(data)),
        ("Deflate", zlib.compress(data)),
        ("identity", data),
    ):
        headers = {"inference-header-content-length": str(len(head)), "content-encoding": encoding}
        (answer,) = replica.infer([replica.asked(packed, headers)])
        assert values(answer) == [2.0] * 4
    good, other, broken = replica.infer(
        [asked(torch.ones(1, 4)), *(replica.asked(data, {"content-encoding": how}) for how in ("br", "gzip"))]
    )
    assert (good.status, other.status, broken.status) == (200, 415, 400)


@pytest.mark.parametrize("length", ["\u00b2", "-1", "x", ""])
def test_a_length_that_is_none_is_its_own_requests_fault_alone(length: str) -> None:
    replica = ServeReplica(FakeServed(), "served")
    body, _ = asked(torch.ones(1, 4))
    good, bad = replica.infer([(body, None), (body, length)])
    assert (good.status, bad.status) == (200, 400)


def test_what_cannot_be_read_or_written_is_its_own_requests_fault_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = ServeReplica(FakeServed(), "served")

    def fails_at_two_rows(request: Any, *given: Any) -> Any:
        if request.rows == 2:
            raise RuntimeError("secret")
        return encode_response(request, *given)

    monkeypatch.setattr("esen_lab.serving.replica.encode_response", fails_at_two_rows)
    good, bad = replica.infer([asked(torch.ones(1, 4)), asked(torch.ones(2, 4))])
    assert (good.status, bad.status) == (200, 500)
    assert b"secret" not in bad.body


def test_a_deadline_counts_from_the_coming_of_a_request_and_who_is_late_is_not_run() -> None:
    served = FakeServed()
    replica = ServeReplica(served, "served")
    served.runs.clear()
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1.0] * 4}
    body = json.dumps({"inputs": [tensor], "parameters": {"timeout": 30_000_000}}).encode()
    now_s = time.monotonic()
    late, fine = replica.infer([ReplicaRequest(body=body, came_s=now_s - 31), ReplicaRequest(body=body, came_s=now_s)])
    assert (late.status, fine.status) == (504, 200)
    assert [len(x) for x in served.runs] == [1]


def test_engines_see_few_sizes_of_a_batch_and_joined_requests_are_filled_up_to_these() -> None:
    served = FakeServed()
    served.plan = SimpleNamespace(lanes=(SimpleNamespace(all_eager=False),), jct_s=None)
    replica = ServeReplica(served, "served", max_rows=16)
    known = {len(x) for x in served.runs}
    assert {1, 16} <= known
    served.runs.clear()
    for rows in range(1, 16):
        first, second = replica.infer([asked(torch.full((rows, 4), 1.0)), asked(torch.full((1, 4), 3.0))])
        assert (values(first), values(second)) == ([2.0] * 4 * rows, [6.0] * 4)
    assert {len(x) for x in served.runs} <= known


def test_a_member_that_is_seen_to_draw_numbers_while_it_is_served_is_joined_no_more() -> None:
    served = FakeServed()
    replica = ServeReplica(served, "served")
    served.before = lambda _: setattr(served, "begins_anew", True)
    assert replica.infer([asked(torch.ones(1, 4))])[0].status == 200
    served.runs.clear()
    replica.infer([asked(torch.ones(1, 4)), asked(torch.ones(2, 4))])
    assert [len(x) for x in served.runs] == [1, 2]
