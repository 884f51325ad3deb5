"""A project as a team has it: under git and DVC, with a copy of the package, finished on the micro configuration."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from workflow.micro import ROOT, make_project, micro_params

BOOKKEEPING = {"facts", "sync"}
BIN = Path(sys.executable).parent
GIT_IDENTITY = {f"GIT_{who}_{what}": "made" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def environment(project: Path) -> dict[str, str]:
    """The project's own copy of the package, and the tools of the Python that runs the tests."""
    added = {"PYTHONPATH": str(project), "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **GIT_IDENTITY, **added, "PYTHONDONTWRITEBYTECODE": "1"}


def run(project: Path, *words: str) -> str:
    """What a command says in the project; it must succeed."""
    done = call(project, *words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def call(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=project, env=environment(project), capture_output=True, text=True, timeout=900, check=False
    )


def make_team_project(folder: Path) -> Path:
    """A committed project in which nothing is made yet."""
    make_project(folder, micro_params())
    shutil.copytree(ROOT / "spaceevo", folder / "spaceevo", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    run(folder, "spaceevo", "stages")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "-qm", "Begin")
    return folder


def finish(project: Path) -> None:
    """Make everything, record it with DVC and git, and push it to a folder beside the project."""
    run(project, "snakemake", "--cores", "2")
    run(project, "dvc", "remote", "add", "--default", "store", str(project.parent / "store"))
    run(project, "dvc", "commit", "--force")
    run(project, "dvc", "push")
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "-qm", "Finish")


def copied(project: Path, folder: Path) -> Path:
    """The project as it is, elsewhere."""
    return Path(shutil.copytree(project, folder, symlinks=True))


def cloned(project: Path, folder: Path) -> Path:
    """A teammate's clone, without artifacts."""
    run(project, "git", "clone", "-q", str(project), str(folder))
    return folder


def planned_rules(project: Path, *targets: str, words: Sequence[str] = ()) -> dict[str, int]:
    """How many jobs of each rule Snakemake would run, for everything or for these targets; `words` before it."""
    said = run(project, *words, "snakemake", "--dry-run", *targets)
    if "Nothing to be done" in said:
        return {}
    table = said.split("Job stats:")[1].split("total")[0].splitlines()
    rows = [line.split() for line in table if len(line.split()) == 2 and line.split()[1].isdigit()]
    return {rule: int(count) for rule, count in rows if rule != "all"}


def planned_stages(project: Path) -> set[str]:
    """What DVC would run: the stages that have changed and all that follow from them, but for its bookkeeping."""
    said = run(project, "dvc", "repro", "--dry")
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    waiting = [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found and name not in BOOKKEEPING:
            found.add(name)
            outputs = set(stages[name]["outs"])
            waiting += [other for other, stage in stages.items() if outputs & set(stage.get("deps", ()))]
    return found


def ran_stages(said: str) -> set[str]:
    """The stages that `dvc repro` says it ran, but for its bookkeeping."""
    names = {line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")}
    return names - BOOKKEEPING


def set_param(project: Path, key: str, value: Any) -> None:
    """Change one key of params.yaml."""
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text())
    *sections, last = key.split(".")
    section = params
    for name in sections:
        section = section[name]
    assert section[last] != value
    section[last] = value
    path.write_text(yaml.safe_dump(params))


def append(path: Path, text: str) -> None:
    """Add text to the end of a file."""
    path.write_text(path.read_text() + text)


def is_current(project: Path, *words: str) -> bool:
    """Whether neither Snakemake nor DVC has anything to do; `words` are put before the commands."""
    return planned_rules(project, words=words) == {} and "Running" not in run(project, *words, "dvc", "repro", "--dry")
