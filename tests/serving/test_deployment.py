"""The files for a cluster: what is in them, and whose files they replace."""

from __future__ import annotations

import argparse
import json
import logging
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from esen_lab.cli import main
from esen_lab.errors import UsageError
from esen_lab.planner.plan import Lane, Plan
from esen_lab.serving.deployment import deployment_files, write_deployment
from esen_lab.serving.logs import NAME, log_as_json
from esen_lab.serving.serve_options import TOKEN, name_of, serve_options, settings_of

PLAN = Plan(
    lanes=(Lane(units=3, members=("a",), backends=("openvino",)), Lane(units=1, members=("b",))),
    units=4,
    device={"kind": "cpu"},
)


def bundle_in(folder: Path, **member: Any) -> Path:
    """An exported folder, as far as it is read here: a member, and the plan."""
    folder.mkdir()
    example = {"file": "example_00.safetensors", "structure": ["tensor"]}
    output = {"structure": ["tensor"], "tensors": [["float32", [2, 3], False]]}
    known = {"name": "a", "recipe": {"kind": "file", "form": "onnx"}, "example": example, "output": output}
    counts = {"parameters": 1, "memory_bytes": 4, "class_name": "X", "fingerprint": "f", "notes": []}
    submodel = {**known, **counts, "protect_input": False, "kind": "ONNX model", **member}
    manifest = {"bundle_version": 1, "submodels": [submodel], "combine": {"rule": "mean"}, "files": {}}
    (folder / "bundle.json").write_text(json.dumps(manifest))
    PLAN.save(folder / "plan.json")
    return folder


def words_of(dockerfile: str) -> dict[str, list[str]]:
    """The lines of a Dockerfile by their first word."""
    joined = re.sub(r"\\\n", "", dockerfile)
    found: dict[str, list[str]] = {}
    for line in joined.splitlines():
        if line.strip() and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            found.setdefault(word, []).append(rest)
    return found


def test_the_image_serves_the_folder_as_an_ordinary_user_and_ends_by_sigterm() -> None:
    words = words_of(deployment_files("plan_files", PLAN, "digits")["Dockerfile"])
    assert set(words) == {
        *("FROM", "ARG", "RUN", "COPY", "USER", "WORKDIR", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "CMD"),
    }
    assert words["USER"] == ["serving"]
    assert words["COPY"] == ["--chown=serving plan_files/ /model/plan_files/"]
    command = yaml.safe_load(words["CMD"][0])
    assert command[:3] == ["esen-lab", "serve", "/model/plan_files"]
    parser = argparse.ArgumentParser()
    serve_options(parser)
    settings = settings_of(parser.parse_args(command[2:]), "other", {})
    assert (settings.host, settings.port, settings.name) == ("0.0.0.0", 8080, "digits")
    assert any("esen_lab[serve,openvino]" in line for line in words["RUN"])


def test_the_service_asks_for_the_cores_of_the_plan_and_is_probed_where_the_server_answers() -> None:
    told = yaml.safe_load(deployment_files("plan_files", PLAN, "My_digits")["inference-service.yaml"])
    assert (told["apiVersion"], told["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert told["metadata"]["name"] == "my-digits"
    (container,) = told["spec"]["predictor"]["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["resources"]["limits"]["cpu"] == "4"
    assert container["livenessProbe"]["httpGet"] == {"path": "/v2/health/live", "port": 8080}
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert container["env"][0]["name"] == TOKEN
    assert "value" not in container["env"][0]


def test_no_name_becomes_a_command_of_an_image() -> None:
    for folder in ("a b", 'a"]', "a\nRUN x", "ä"):
        with pytest.raises(UsageError):
            deployment_files(folder, PLAN, "digits")
    with pytest.raises(UsageError):
        deployment_files("plan_files", PLAN, 'x"]\nRUN y')
    with pytest.raises(UsageError, match="cores of a CPU"):
        deployment_files("plan_files", Plan(lanes=PLAN.lanes, units=4, device={"kind": "cuda"}), "digits")


def test_files_of_others_stay_and_its_own_are_replaced(tmp_path: Path) -> None:
    folder = bundle_in(tmp_path / "plan_files")
    written = write_deployment(folder, PLAN, "digits")
    assert [path.name for path in written.files] == ["Dockerfile", "inference-service.yaml"]
    write_deployment(folder, PLAN, "other")
    assert '"other"' in (tmp_path / "Dockerfile").read_text()
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(UsageError):
        write_deployment(folder, PLAN, "digits")
    assert (tmp_path / "Dockerfile").read_text() == "FROM scratch\n"


def test_the_command_writes_them_beside_an_exported_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bundle_in(tmp_path / "plan_files")
    assert main(["deploy", str(folder)]) == 0
    assert "Dockerfile" in capsys.readouterr().out
    assert "esen-lab" in (tmp_path / "Dockerfile").read_text()


def test_the_command_takes_the_folder_that_it_is_started_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle_in(tmp_path / "plan_files"))
    for name in (".", "plan.json"):
        assert main(["deploy", name]) == 0
    assert "COPY --chown=serving plan_files/" in (tmp_path / "Dockerfile").read_text()


def test_an_image_has_the_libraries_of_its_members_and_room_for_their_weights(tmp_path: Path) -> None:
    folder = bundle_in(tmp_path / "plan_files", memory_bytes=10 << 30)
    write_deployment(folder, PLAN, "digits")
    assert "esen_lab[serve,onnx,openvino]" in (tmp_path / "Dockerfile").read_text()
    told = yaml.safe_load((tmp_path / "inference-service.yaml").read_text())
    (container,) = told["spec"]["predictor"]["containers"]
    assert container["resources"]["limits"]["memory"] == "32Gi"


@pytest.mark.parametrize("name", ["My.Digits", "9lives", "a-", "x" * 64, "A__B", "true", "Null", "on"])
def test_images_and_services_are_called_as_clusters_allow(name: str) -> None:
    files = deployment_files("plan_files", PLAN, name)
    told = yaml.safe_load(files["inference-service.yaml"])
    label = told["metadata"]["name"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", label)
    assert f"docker build -t {label} ." in files["Dockerfile"]
    (container,) = told["spec"]["predictor"]["containers"]
    assert container["image"] == f"{label}:latest"


def test_a_token_comes_from_a_file_or_the_environment_and_from_no_command_line(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    serve_options(parser)
    assert not any(action.dest == "token" for action in parser._actions)
    plain = parser.parse_args(["plan_files"])
    assert settings_of(plain, "m", {}).token == ""
    assert settings_of(plain, "m", {TOKEN: "from outside\n".strip()}).token == "from outside"
    file = tmp_path / "token"
    file.write_text("in a file\n")
    given = parser.parse_args(["plan_files", "--token-file", str(file), "--window", "0.01", "--any-size"])
    found = settings_of(given, "m", {TOKEN: "from outside"})
    assert (found.token, found.window_s, found.any_size) == ("in a file", 0.01, True)
    file.write_text("\n")
    with pytest.raises(UsageError, match="empty"):
        settings_of(given, "m", {})


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("plan_files", "plan"),
        ("my plan_files", "my-plan"),
        ("_files", "ensemble"),
        ("..x", "x"),
        ("stats_files", "ensemble"),
    ],
)
def test_a_model_is_called_like_its_folder(folder: str, name: str) -> None:
    assert name_of(Path("/somewhere") / folder) == name


def test_logs_are_lines_of_json_that_steer_no_terminal() -> None:
    stream = StringIO()
    logger = logging.getLogger(NAME)
    before: tuple[Any, ...] = (list(logger.handlers), logger.level, logger.propagate)
    try:
        log_as_json("info", stream)
        log_as_json("info", stream)
        logger.info("a\nb\x1b[2J", extra={"path": "\x1b]0;x\x07\x7f\n"})
        logger.debug("not this")
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
    (line,) = stream.getvalue().splitlines()
    told = yaml.safe_load(line)
    assert told["level"] == "info"
    assert "\x1b" not in line
    assert "\x7f" not in line
