"""Projects that several tests share: one with made artifacts, one that ran the whole workflow."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from workflow.failing import contents, make_artifacts
from workflow.team import finish, make_team_project


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


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A team's project in which everything is made, committed to DVC and pushed; all processes of a run share it.

    Tests must leave it as it is: they copy it, or read.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all the processes that run tests beside one another
    folder, done = shared / "finished" / "project", shared / "finished.done"
    with FileLock(shared / "finished.lock"):
        if not done.exists():
            finish(make_team_project(folder))
            done.touch()
    return folder
