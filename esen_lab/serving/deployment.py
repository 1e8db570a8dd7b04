"""Files to run an exported folder in a cluster: a Dockerfile, and an InferenceService of KServe.

    Dockerfile              an image with Python, this package and the exported folder
    inference-service.yaml  what KServe is told: the image, its probes, its cores and memory

They are templates, small and commented: names of images and of clusters are their owner's. The token is a secret of the
cluster, given to the container as an environment variable; it is in no file here.
"""

from __future__ import annotations

import importlib.metadata
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from esen_lab import __version__
from esen_lab.common.display import Shown
from esen_lab.errors import StoreError, UsageError
from esen_lab.export.bundle_layout import MANIFEST
from esen_lab.export.manifest import MANIFEST_DEPTH, MOST_JSON_BYTES, check_manifest
from esen_lab.files import Kind, decode_json, read_bytes, write_file
from esen_lab.planner.plan import Plan
from esen_lab.serving.server_settings import ServeSettings

_MARK = "# Written by esen_lab"
_FILE = Kind(
    what="a file for a cluster",
    is_one=lambda head: _MARK.encode() in head[:200],
    example="Dockerfile",
    never=frozenset(),
)
_ENGINES = {"openvino": "openvino", "onnxruntime": "onnx"}
"""Backends -> the group that brings them."""
_FORMS = {"openvino": "openvino", "onnx": "onnx", "xgboost": "trees", "lightgbm": "trees", "pickle": "trees"}
"""Formats of members that are no networks -> the group that brings their library."""
_LEAST_GIB, _TORCH_GIB, _COPIES = 4, 2, 3
"""Weights lie in a lane, in the server, and as the bytes of their file."""
_NOT_IN_LABELS = re.compile(r"[^a-z0-9]+")
_MOST_LABEL = 57  # with "-token" the 63 that a cluster allows

_DOCKERFILE = """\
{mark}: an image that serves the exported plan {folder}.
#     docker build -t {label} .
#     docker run --rm -p 8080:8080 --cpus {cores} -e ESEN_LAB_TOKEN=... {label}
FROM python:{python}-slim

# OpenMP of torch; nothing else of the system is needed.
RUN apt-get update && apt-get install --no-install-recommends -y libgomp1 && rm -rf /var/lib/apt/lists/*

# The index of torch for CPUs makes a smaller image: docker build --build-arg TORCH_INDEX=https://...
ARG TORCH_INDEX
RUN pip install --no-cache-dir ${{TORCH_INDEX:+--index-url $TORCH_INDEX}} torch=={torch}
# What the sub-models import goes here as well. For a wheel of your own: COPY esen_lab-*.whl /tmp/, and its path here.
RUN pip install --no-cache-dir "esen_lab[{groups}]=={version}"

# Not as root: the folder is only read.
RUN useradd --create-home --home-dir /srv/serving serving
COPY --chown=serving {folder}/ /model/{folder}/
USER serving
WORKDIR /srv/serving

EXPOSE 8080
# Ready once the lanes are warm; an end with SIGTERM answers what has come.
HEALTHCHECK --start-period=60s CMD \
python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/v2/health/ready')"
STOPSIGNAL SIGTERM
# --trust: the folder was put into this image by whoever built it.
CMD ["esen-lab", "serve", "/model/{folder}", "--trust", "--host", "0.0.0.0", "--port", "8080", "--name", "{name}"]
"""

_SERVICE = """\
{mark}: what KServe is told. kubectl apply -f inference-service.yaml
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: "{label}" # in quotes: "true" and "on" are names too
spec:
  predictor:
    # One container has one device: more replicas, not more workers.
    minReplicas: 1
    containers:
      - name: kserve-container
        image: {label}:latest # where the image was pushed to
        ports:
          - containerPort: 8080
            protocol: TCP
        env:
          - name: ESEN_LAB_TOKEN
            valueFrom:
              secretKeyRef:
                name: {label}-token # kubectl create secret generic {label}-token --from-literal=token=...
                key: token
                optional: true
        resources:
          # Whole cores, as many as the plan shares out, the same as request and limit: then the kubelet's static
          # policy gives them to this container alone, and shares of cores mean what they meant when it was planned.
          # Memory is an estimate by the size of the weights: outputs and what engines make of them come on top.
          requests:
            cpu: "{cores}"
            memory: {memory}Gi
          limits:
            cpu: "{cores}"
            memory: {memory}Gi
        livenessProbe:
          httpGet:
            path: /v2/health/live
            port: 8080
        readinessProbe:
          httpGet:
            path: /v2/health/ready
            port: 8080
        startupProbe:
          httpGet:
            path: /v2/health/ready
            port: 8080
          failureThreshold: 60
          periodSeconds: 2
    terminationGracePeriodSeconds: 30
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment(Shown):
    """What was written.

    Attributes:
        files: Both files.
    """

    files: tuple[Path, ...]

    def __str__(self) -> str:
        """One line for people."""
        return " and ".join(map(str, self.files))


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the members of an exported folder need besides torch.

    Attributes:
        groups: Groups of this package that bring their libraries.
        memory_bytes: Of their weights.
    """

    groups: frozenset[str] = frozenset()
    memory_bytes: int = 0

    @classmethod
    def of(cls, folder: Path) -> Needs:
        """What a folder's manifest says; runs nothing.

        Raises:
            StoreError: It cannot be read, or is damaged.
        """
        manifest = decode_json(read_bytes(folder / MANIFEST, most=MOST_JSON_BYTES), deepest=MANIFEST_DEPTH)
        check_manifest(manifest, MANIFEST)
        groups = set()
        for submodel in manifest["submodels"]:
            form = submodel["recipe"].get("form", "")
            if form in _FORMS and submodel.get("kind") != "function":
                groups.add(_FORMS[form])
        return cls(
            groups=frozenset(groups), memory_bytes=sum(submodel["memory_bytes"] for submodel in manifest["submodels"])
        )


def deployment_files(folder: str, plan: Plan, name: str, *, needs: Needs = Needs()) -> Mapping[str, str]:
    """The text of both files.

    Args:
        folder: The name of the exported folder, beside which they lie.
        plan: What it holds.
        name: Of the model.
        needs: Of its members.

    Raises:
        UsageError: The folder's or the model's name cannot stand in them, or the plan is none for a CPU.
    """
    ServeSettings(name=name)
    if not folder.replace("-", "").replace("_", "").replace(".", "").isalnum() or not folder.isascii():
        raise UsageError(
            "The name of a folder in an image has letters, digits, dots, dashes and underscores", given=folder
        )
    if plan.device.get("kind", "cpu") != "cpu":
        raise UsageError(
            "These templates are for plans that share the cores of a CPU",
            given=str(plan.device.get("kind")),
            hint="Take them as a start: a GPU needs another image, and nvidia.com/gpu among its resources.",
        )
    words = {
        "mark": _MARK,
        "folder": folder,
        "name": name,
        "label": _label(name),
        "cores": plan.units,
        "memory": max(_LEAST_GIB, _TORCH_GIB + math.ceil(_COPIES * needs.memory_bytes / 2**30)),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "torch": importlib.metadata.version("torch").partition("+")[0],
        "groups": ",".join(["serve", *sorted({*_groups(plan), *needs.groups})]),
        "version": __version__,
    }
    return {"Dockerfile": _DOCKERFILE.format(**words), "inference-service.yaml": _SERVICE.format(**words)}


def _groups(plan: Plan) -> set[str]:
    used = {backend.partition("@")[0] for lane in plan.lanes for backend in lane.backends}
    return {group for backend, group in _ENGINES.items() if backend in used}


def _label(name: str) -> str:
    """A name as images and objects of a cluster have it: small letters, digits and dashes, a letter first."""
    label = _NOT_IN_LABELS.sub("-", name.lower()).strip("-")
    label = label if label[:1].isalpha() else f"model-{label}"
    return label[:_MOST_LABEL].rstrip("-")


def write_deployment(folder: Path, plan: Plan, name: str) -> Deployment:
    """Write both beside an exported folder; files of others are never replaced.

    Raises:
        UsageError: See `deployment_files`; or a name is taken by something else.
        StoreError: They cannot be written.
    """
    if not folder.is_dir():
        raise StoreError("Files for a cluster lie beside an exported folder", given=f"no folder {str(folder)!r}")
    files = deployment_files(folder.name, plan, name, needs=Needs.of(folder))
    for name_of_file, text in files.items():
        write_file(folder.with_name(name_of_file), text.encode(), _FILE)
    return Deployment(files=tuple(folder.with_name(one) for one in files))
