"""Fixtures of the tests of failures."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from workflow.failing import contents, make_artifacts


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with made artifacts in results/."""
    return make_artifacts(tmp_path_factory.mktemp("project"))


@pytest.fixture
def untouched(project: Path) -> Iterator[None]:
    """Fails the test if it changed, added or removed a file in the project's results."""
    before = contents(project / "results")
    yield
    assert contents(project / "results") == before
