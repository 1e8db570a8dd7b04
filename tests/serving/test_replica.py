"""An exported plan in somebody else's server: the protocol, joined requests, cores of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from models import mlp

from esen_lab import Lab
from esen_lab.errors import DeviceError
from esen_lab.export.trust import content_digest
from esen_lab.serving.replica import ServeReplica, claim_cores

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
