"""The comparison of spaces: made by name alone from a finished run, which it leaves as it is."""

import json
from pathlib import Path
from typing import Any

import pytest
from workflow.micro import HYPERSPACE, copy_benchmarks
from workflow.team import call, copied, planned_rules, run, set_param

from spaceevo.artifacts import read_header, read_table
from spaceevo.search.comparison import BEST, OUTCOMES_KIND

MICRO_BLOCKS = [block_type["block"] for block_type in HYPERSPACE["block_types"]]
SUMMARY = "results/cpu/comparison/summary.md"
RULES = {
    "write_uniform_space": 1,
    "compare_supernet_fp32": 2,
    "compare_supernet_int8": 2,
    "compare_space": 2,
    "write_comparison": 1,
}


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copied(finished, tmp_path_factory.mktemp("comparison") / "project")
    set_param(project, "comparison", {"seeds": [4], "block_types": [1], "random_subnets": 2})
    return project


def test_it_is_made_by_name_alone(project: Path) -> None:
    assert planned_rules(project) == {}
    assert planned_rules(project, SUMMARY) == RULES
    run(project, "snakemake", "--cores", "2", SUMMARY)
    folder = (project / SUMMARY).parent
    for space in ("evolved", "uniform1"):
        assert read_header(folder / space / "supernet_4.safetensors")["seed"] == 4
        table = read_table(folder / space / "outcomes_4.parquet", OUTCOMES_KIND)
        best = table[table["kind"] == BEST]
        assert best["test_accuracy"].between(0, 1).all() and (best["latency_ms"] <= best["budget_ms"]).all()
    assert "`micro-11-00`" in (project / SUMMARY).read_text()
    assert not list((project / "results" / "checkpoints").glob("*"))
    assert planned_rules(project, SUMMARY) == planned_rules(project) == {}


def test_benchmarks_read_it(project: Path) -> None:
    copy_benchmarks(project)
    assert "better on average than" in run(project, "python", "benchmarks/spaces.py")
    ranked = ["python", "benchmarks/rank_fidelity.py", "--subnets", "6"]
    assert "spaces: τ" not in run(project, *ranked)
    assert "2 spaces: τ" in run(project, *ranked, "--fewest-spaces", "2")


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        (
            "comparison",
            {"block_types": [2]},
            "comparison.block_types: micro has no block type 2; its digits are 0 to 1.",
        ),
        (
            "space",
            {"evolution": {"leave_out": ["resnet50"]}},
            "space.evolution.leave_out: there is no block resnet50; use some of conv_bn_act, ",
        ),
        (
            "space",
            {"evolution": {"leave_out": MICRO_BLOCKS}},
            f"space.evolution.leave_out: micro has no block types but {', '.join(MICRO_BLOCKS)}; leave some.",
        ),
    ],
)
def test_a_block_type_that_is_not_there(project: Path, section: str, value: dict[str, Any], said: str) -> None:
    done = call(project, "snakemake", "-n", "--config", f"{section}={json.dumps(value)}")
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
