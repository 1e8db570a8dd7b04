"""A lab that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from esen_lab import Lab


@pytest.fixture(scope="module")
def only_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(device="cpu", store=tmp_path_factory.mktemp("store") / "profiles.sqlite") as lab:
        yield lab


@pytest.fixture
def lab(only_lab: Lab) -> Lab:
    """One lab for all tests of a module, so that torch is imported for workers once; empty again for each."""
    for name in only_lab.ensemble.names:
        only_lab.unregister(name)
    only_lab._runtime.set(plan=None)
    only_lab.combine("stack")
    return only_lab
