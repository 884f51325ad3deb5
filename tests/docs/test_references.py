"""Paths, commands and names in the documentation exist."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from docs.pages import PAGES, ROOT, blocks, prose

from spaceevo import api
from spaceevo.cli import app

MADE = ("docs/images/front.png",)  # from a run
FILES = re.compile(r"(README\.md|LICENSE|Makefile|dvc\.yaml|params\.yaml|params\.schema\.json)$")
FOLDERS = re.compile(r"(spaceevo|workflow|docs|tests|tools|params|benchmarks)/[\w./-]*$")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def rules() -> str:
    return "".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))


def results_of_the_workflow() -> list[re.Pattern[str]]:
    """What the rules name under results/, with wildcards for what they leave open."""
    names = re.findall(r'"(results/[^" ]+)"', rules())
    return [re.compile(re.sub(r"\\\{+.+?\\\}+", "[^/]+", re.escape(name))) for name in names]


@each_page
def test_paths_of_the_project_exist(page: Path) -> None:
    named = [text for text in re.findall(r"`([^`\n]+)`", prose(page)) if FILES.match(text) or FOLDERS.match(text)]
    missing = [text for text in named if not (ROOT / text).exists()]
    assert not missing


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", prose(page))
    local = [link for link in links if "://" not in link]
    missing = [link for link in local if not (page.parent / link).exists() and link not in MADE]
    assert not missing


@each_page
def test_results_are_made_by_the_workflow(page: Path) -> None:
    patterns = [*results_of_the_workflow(), re.compile(r"results/(logs|blocks|report|data|checkpoints)?/?")]
    for name in re.findall(r"\bresults/[\w./<>-]*", page.read_text()):
        target = re.sub(r"<\w+>", "x", name).rstrip(".")
        assert any(pattern.fullmatch(target) for pattern in patterns), name


def test_the_table_of_artifacts_names_rules() -> None:
    declared = set(re.findall(r"^ *(?:rule|use rule \w+ as) (\w+)(?::| with:)", rules(), re.MULTILINE))
    lines = (ROOT / "docs" / "architecture.md").read_text().splitlines()
    last_cells = [line.split("|")[-2] for line in lines if line.startswith("| `results/")]
    assert {name for cell in last_cells for name in re.findall(r"\w+", cell)} == declared


@each_page
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = {command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    lines = [line for block in blocks(str(page.relative_to(ROOT)), "sh") for line in block.splitlines()]
    lines += re.findall(r"`((?:make|spaceevo|python|snakemake|dvc) [^`\n]+)`", prose(page))
    for line in (part for joined in lines for part in joined.split("&&")):
        tool, *arguments = shlex.split(line, comments=True)
        match tool:
            case "make":
                assert arguments[0] in targets, line
            case "spaceevo":
                assert arguments[0] in commands, line
            case "python":
                assert (ROOT / arguments[0]).is_file() or arguments[0] == "classify.py", line
            case _:
                assert tool in ("snakemake", "dvc", "git", "."), line


def test_the_readme_uses_names_of_the_api() -> None:
    (code,) = blocks("README.md", "python")
    used = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "api"
    }
    assert used and used <= set(api.__all__)
