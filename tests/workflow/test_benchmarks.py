"""The benchmarks that read a finished run: each prints its checks and writes its JSON, of the micro configuration."""

import json
from pathlib import Path

import pytest
from workflow.micro import copy_benchmarks
from workflow.team import copied, run

SCRIPTS = {
    "seqnets": (),
    "quantized_for_all": ("--device", "cpu", "--subnets", "3", "--alone", "1"),
}


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copied(finished, tmp_path_factory.mktemp("benchmarks") / "project")
    copy_benchmarks(project)
    return project


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_runs_to_its_end(project: Path, name: str) -> None:
    printed = run(project, "python", f"benchmarks/{name}.py", *SCRIPTS[name])
    document = json.loads((project / "benchmarks" / "results" / f"{name}.json").read_text())
    assert document["checks"]
    assert all(check["what"] in printed for check in document["checks"])
