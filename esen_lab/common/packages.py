"""Packages that may be there or not: whether they are, and which versions, without importing them."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from pathlib import Path


def can_import(package: str) -> bool:
    """Whether a package can be imported here, as far as can be told without doing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # somebody's finder forbids it, or a stand-in has no spec
        return False


def torch_versions() -> str:
    """The text of the file in which torch says what it is, read without the seconds that importing torch takes.

    "" where there is no torch, or none with that file.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    try:
        return Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return ""


@functools.cache  # no error is kept: what is missing may be installed meanwhile
def installed_version(package: str) -> str:
    """The version of an installed package, read once: it takes a millisecond, and what is loaded stays loaded.

    Raises:
        PackageNotFoundError: It is not installed.
    """
    return importlib.metadata.version(package)


@functools.cache  # here neither
def package_version(package: str) -> str:
    """The version of a package that can be imported, whatever it was installed as ("onnxruntime-gpu").

    Returns:
        "unknown" where nothing that is installed says that it brings it.

    Raises:
        PackageNotFoundError: It cannot be imported.
    """
    try:
        return installed_version(package)
    except importlib.metadata.PackageNotFoundError:
        if not can_import(package):
            raise
    bringing = importlib.metadata.packages_distributions().get(package)
    return importlib.metadata.version(bringing[0]) if bringing else "unknown"
