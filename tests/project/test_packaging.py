"""What is installed: the JupyterLab extension rides in the wheel, built, and leaves with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "esen_lab" / "labextension"
HOME = "share/jupyter/labextensions/esen-lab/"
MOST_BYTES = 150_000
PROVIDED = ("@jupyterlab/", "@lumino/", "react", "yjs", "@jupyter/ydoc")  # JupyterLab gives these to every extension


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, capture_output=True
    )
    return folder


def names_in_wheel(built: Path) -> list[str]:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        return wheel.namelist()


def test_the_bundle_was_made_from_the_sources_that_are_here() -> None:
    checked = subprocess.run(
        [sys.executable, "tools/extension.py", "check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_the_bundle_is_small_and_made_for_use() -> None:
    files = [path for path in BUNDLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    assert not [path for path in files if path.suffix == ".map" or path.name == "build_log.json"]
    for script in BUNDLE.rglob("*.js"):
        text = script.read_text(encoding="utf-8")
        assert "\n//# sourceMappingURL" not in text
        assert "eval-source-map" not in text


def test_the_bundle_holds_nothing_that_jupyterlab_provides_and_names_licences() -> None:
    licences = json.loads((BUNDLE / "static" / "third-party-licenses.json").read_text(encoding="utf-8"))["packages"]
    assert all(package["licenseId"] for package in licences)
    assert not [package["name"] for package in licences if package["name"].startswith(PROVIDED)]


def test_the_bundle_asks_for_no_newer_jupyterlab_than_it_needs() -> None:
    entry = next((BUNDLE / "static").glob("remoteEntry.*.js")).read_text(encoding="utf-8")
    assert set(re.findall(r"\^4\.[0-9.]+", entry)) == {"^4.2.0"}


def test_the_two_versions_are_one() -> None:
    from esen_lab import __version__

    assert json.loads((BUNDLE / "package.json").read_text(encoding="utf-8"))["version"] == __version__


def test_the_wheel_carries_the_bundle_once_where_jupyterlab_looks(built: Path) -> None:
    names = names_in_wheel(built)
    inside = [name.partition("/data/")[2] for name in names if ".data/data/" in name]
    expected = {HOME + path.relative_to(BUNDLE).as_posix() for path in BUNDLE.rglob("*") if path.is_file()}
    assert set(inside) == expected | {HOME + "install.json"}
    assert not [name for name in names if name.startswith("esen_lab/labextension")]


def test_the_source_distribution_carries_sources_and_bundle_and_nothing_of_node(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert "extensions/esen-lab/src/index.ts" in names
    assert "extensions/esen-lab/yarn.lock" in names
    assert "esen_lab/labextension/package.json" in names
    assert not [name for name in names if "node_modules" in name or name.startswith("extensions/esen-lab/lib/")]


@pytest.mark.slow  # makes a virtual environment, and starts JupyterLab's command in it
def test_installing_shows_it_enabled_and_uninstalling_leaves_nothing(built: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    # JupyterLab itself comes from the environment of the tests.
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", venv], check=True)
    python = venv / "bin" / "python"
    outside = f"import site; site.addsitedir({next(p for p in sys.path if p.endswith('site-packages'))!r})"
    (next(venv.glob("lib/python*/site-packages")) / "outside.pth").write_text(outside + "\n")
    wheel = next(built.glob("*.whl"))
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", wheel]
    subprocess.run(install, check=True)
    found = subprocess.run(
        [python, "-m", "jupyterlab.labextensions", "list"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    line = next(line for line in (found.stdout + found.stderr).splitlines() if "esen-lab" in line)
    assert "enabled" in line
    assert "OK" in line
    home = venv / HOME
    assert (home / "package.json").is_file()
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "esen_lab"], check=True)
    assert not home.exists()
