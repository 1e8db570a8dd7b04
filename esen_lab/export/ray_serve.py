"""A plan as an application for Ray Serve: a deployment that holds it, and the YAML that says how many of it run.

app.py          the deployment: batches of requests, the Open Inference Protocol over HTTP
serve.yaml      what `serve run` and `serve deploy` read: replicas, their cores, where it listens
bundle/         plan, sub-models and weights, as beside an exported script
README.md       how it is started and asked
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.trees import flatten
from esen_lab.ensemble import Ensemble
from esen_lab.export.bundle_files import Graph
from esen_lab.export.elsewhere import notes_on_own_modules, notes_on_switches
from esen_lab.export.script import MARK
from esen_lab.export.server_folders import ServerFolder, bundle_inside, check_for_cpu, name_from
from esen_lab.files import as_path, write_folder
from esen_lab.planner.plan import Plan

MOST_ROWS = 64
_WINDOW_S = 0.005
_WINDOW_OF_JCT = 0.2  # waiting longer than that for one more request costs more than it gives
_FOLDER = ServerFolder(server="Ray Serve", marked="app.py", mark=MARK, names=frozenset({"serve.yaml"}))

_APP = '''\
{mark}
"""An ensemble of networks for Ray Serve: `serve run serve.yaml`, in this folder.

It needs Ray Serve, torch, numpy, esen_lab with its group `serve`, and what the sub-models import. The folder `bundle`
holds code as well: it runs while it is the one that was written with this file.
"""

import asyncio
from pathlib import Path

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from esen_lab.serving.replica import ServeReplica

BUNDLE = Path(__file__).resolve().parent / "bundle"
DIGEST = {digest}  # of what lies there
NAME = {name}


@serve.deployment
class Ensemble:
    """One running plan: its lanes, on cores that no other replica of the machine has."""

    def __init__(self):
        self.replica = ServeReplica.open(BUNDLE, NAME, digest=DIGEST, max_rows={max_rows})

    @serve.batch(max_batch_size={max_requests}, batch_wait_timeout_s={window_s})
    async def batch(self, asked):
        return await asyncio.to_thread(self.replica.infer, asked)

    async def __call__(self, request: Request):
        if self.replica.takes(request.method, request.url.path):
            answer = await self.batch(self.replica.asked(await request.body(), request.headers))
        else:
            answer = self.replica.about(request.url.path, request.method)
        return Response(answer.body, answer.status, dict(answer.headers))

    def __del__(self):
        replica = getattr(self, "replica", None)
        if replica is not None:
            replica.close()


app = Ensemble.bind()
'''

_YAML = """\
{mark}
# serve run serve.yaml starts it here; serve deploy serve.yaml, on a cluster whose nodes have this folder.
http_options:
  host: 127.0.0.1  # 0.0.0.0 lets others ask: there is no token here
  port: 8000
applications:
  - name: "{name}"
    route_prefix: /
    import_path: app:app
    deployments:
      - name: Ensemble
        max_ongoing_requests: {ongoing}
        autoscaling_config:
          min_replicas: 1
          max_replicas: 4
          target_ongoing_requests: {target}
        ray_actor_options:
          num_cpus: {units}  # the plan's cores; a replica takes as many that no other one has
"""

_README = """\
# {name}: an ensemble for Ray Serve

Written by esen_lab; everything here is replaced when the plan is exported again.

    serve run serve.yaml          starts it on 127.0.0.1:8000, a replica for each {units} cores

    curl http://127.0.0.1:8000/v2/models/{name}

That says the names, datatypes and shapes of its inputs; -1 is any size. The protocol is the Open Inference Protocol of
KServe and Triton:

    pip install "tritonclient[http]"

    import numpy as np
    import tritonclient.http as http
    from tritonclient.utils import triton_to_np_dtype
    client = http.InferenceServerClient("127.0.0.1:8000")
    inputs = []
    for told in client.get_model_metadata("{name}")["inputs"]:
        shape = [1 if size < 0 else size for size in told["shape"]]
        x = np.zeros(shape, triton_to_np_dtype(told["datatype"]))
        inputs.append(http.InferInput(told["name"], shape, told["datatype"]).set_data_from_numpy(x))
    answer = client.infer("{name}", inputs)
    y = answer.as_numpy(answer.get_response()["outputs"][0]["name"])

Up to {max_requests} requests are run as one batch of at most {max_rows} rows, after {window_ms:g} ms at most, where a
trial at the start shows that rows do not depend on each other. Keep the folder to yourself as you would a program.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayServeApplication(Shown):
    """What an export for Ray Serve wrote.

    Attributes:
        folder: The folder.
        name: The model that clients ask.
        units: How many cores a replica takes.
        files: Every file.
        notes: What it needs elsewhere, and what it sets as the session had it.
    """

    folder: Path
    name: str
    units: int
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What there is, and how it is started."""
        said = f"{len(self.files)} files in {self.folder}; `serve run serve.yaml` there starts {self.name!r}"
        return "\n".join([said, *self.notes])


def export_ray_serve(
    plan: Plan,
    ensemble: Ensemble,
    folder: str | os.PathLike[str],
    *,
    graphs: Sequence[Graph] = (),
    switches: Mapping[str, Any] | None = None,
) -> RayServeApplication:
    """Write `plan` as an application for Ray Serve; one that is there already is replaced, whole.

    The model that clients ask is called as the folder is, as far as names in addresses go.

    Args:
        plan: What to run, on one device; its sub-models are those of `ensemble`, unchanged.
        ensemble: The sub-models and the combine rule.
        folder: Where to write.
        graphs: What engines have made of sub-models.
        switches: Switches of torch that the session has set, as `Settings.named` has them: replicas set them, too.

    Raises:
        UsageError: A sub-model cannot be saved, the plan is not for a CPU, or the folder holds something else.
        StoreError: It cannot be written; what was there is as it was.
    """
    path = as_path(folder)
    check_for_cpu(plan, "An application for Ray Serve is of a plan for a CPU")
    _FOLDER.check_free(path)
    name = name_from(path)[:64]
    bundle, digest = bundle_inside(path, plan, ensemble, graphs, switches)
    files = {**bundle, **_texts(plan, ensemble, name, digest)}
    notes = (*notes_on_switches(switches or {}), *notes_on_own_modules(bundle))
    written = write_folder(path, files)
    return RayServeApplication(folder=path, name=name, units=plan.units, files=written, notes=notes)


def _texts(plan: Plan, ensemble: Ensemble, name: str, digest: str) -> dict[str, bytes]:
    leaves, _ = flatten(ensemble.example, "the example")
    rows = leaves[0].shape[0] if leaves and leaves[0].dim() else 1
    max_rows = max(MOST_ROWS, rows)
    max_requests = max(1, max_rows // max(rows, 1))
    window_s = round(min(_WINDOW_S, _WINDOW_OF_JCT * plan.jct_s), 5) if plan.jct_s else _WINDOW_S
    known = {
        "mark": MARK,
        "name": name,
        "units": plan.units,
        "max_rows": max_rows,
        "max_requests": max_requests,
        "window_s": window_s,
    }
    return {
        "app.py": _APP.format(**{**known, "name": ascii(name), "digest": ascii(digest)}).encode(),
        "serve.yaml": _YAML.format(**known, ongoing=4 * max_requests, target=2 * max_requests).encode(),
        "README.md": _README.format(**known, window_ms=window_s * 1e3).encode(),
    }
