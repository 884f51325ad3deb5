"""A change redoes exactly what it touches, under Snakemake and DVC alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from workflow.team import (
    append,
    call,
    copied,
    is_current,
    planned_rules,
    planned_stages,
    ran_stages,
    run,
    set_param,
)

# Rules and their jobs: for all devices together, and for each.
TEACHER = {"train_teacher": 1}
LUT = {"measure_block_losses": 3, "accuracy_lut": 1}
BLOCKS = {"distill_blocks": 2, "distill_fixed_stage": 1, **LUT}
REPORT = {"report": 1, "report_tables": 1}
LATENCY = {"profile_latency": 1, "fit_latency_predictor": 1}
DELIVERY = {"extract_seqnet": 5, "export_seqnet": 10, "write_card": 5}
SEARCH = {"search_subnets": 1, **DELIVERY}
INT8 = {"train_supernet_int8": 1, **SEARCH}
SUPERNET = {"train_supernet_fp32": 1, **INT8}
SPACE = {"evolve_space": 1, **SUPERNET}
BOTH = ("cpu", "pixel4")


@dataclass(frozen=True)
class Redone:
    """What a change redoes: jobs by rule, and the stages of DVC."""

    jobs: dict[str, int]
    stages: set[str]


def redone(shared: dict[str, int], **devices: dict[str, int]) -> Redone:
    """Jobs that all devices share, and those of each device."""
    jobs = dict(shared)
    for rules in devices.values():
        for rule, count in rules.items():
            jobs[rule] = jobs.get(rule, 0) + count
    return Redone(jobs, {*shared} | {f"{rule}-{device}" for device, rules in devices.items() for rule in rules})


def of_both(jobs: dict[str, int]) -> dict[str, dict[str, int]]:
    return dict.fromkeys(BOTH, jobs)


EVERYTHING = redone(
    {"prepare_data": 1, **TEACHER, **BLOCKS, **REPORT}, cpu={**LATENCY, **SPACE}, pixel4=SPACE
)  # but for the table that pixel4 is
NOTHING = redone({})

# What one changed parameter redoes.
CHANGES: dict[str, tuple[Any, Redone]] = {
    "seed": (1, EVERYTHING),
    "dataset.clutter.noise": (11, EVERYTHING),
    "teacher.label_smoothing": (0.07, redone({**TEACHER, **BLOCKS, **REPORT}, **of_both(SPACE))),
    "blocks.random_choices": (2, redone({**BLOCKS, **REPORT}, **of_both(SPACE))),
    "lut.val_images": (31, redone({**LUT, **REPORT}, **of_both(SPACE))),
    "profile.nets": (19, redone(REPORT, cpu={**LATENCY, **SPACE})),
    "space.evolution.evaluations": (9, redone(REPORT, **of_both(SPACE))),
    "devices.cpu.space_budgets": (["65%"], redone(REPORT, cpu=SPACE)),
    "supernet.fp32.learning_rate": (0.004, redone(REPORT, **of_both(SUPERNET))),
    "supernet.int8.learning_rate": (0.004, redone(REPORT, **of_both(INT8))),
    "search.val_images": (39, redone(REPORT, **of_both(SEARCH))),
    "search.shortlist.subnets": (1, redone(REPORT, **of_both(SEARCH))),
    "devices.pixel4.subnet_budgets": (["70%", "75%", "80%", "85%", "91%"], redone(REPORT, pixel4=SEARCH)),
    "export.recalibration_images": (63, redone(REPORT, **of_both(DELIVERY))),
    "report.dpi": (90, redone(REPORT)),
    "export.agreement": (0.6, redone(REPORT, **of_both({"export_seqnet": 10, "write_card": 5}))),
    "dataset.download": (True, NOTHING),
    "workers": (1, NOTHING),
    "threads": (3, NOTHING),
    "checkpoint_steps": (7, NOTHING),
}


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(finished, tmp_path_factory.mktemp("reruns") / "project")


@pytest.fixture
def restored(project: Path) -> Iterator[Path]:
    """The project, whose files under git are as they were when the test is over."""
    yield project
    run(project, "git", "checkout", "-q", ".")


def test_nothing_is_to_be_done(project: Path) -> None:
    assert is_current(project)


@pytest.mark.parametrize("key", CHANGES)
def test_a_parameter_redoes_what_it_touches(key: str, restored: Path) -> None:
    value, expected = CHANGES[key]
    set_param(restored, key, value)
    assert planned_rules(restored) == expected.jobs
    assert planned_stages(restored) == expected.stages


def test_comments_and_the_order_of_keys_redo_nothing(restored: Path) -> None:
    path = restored / "params.yaml"

    def reversed_keys(value: Any) -> Any:
        return {k: reversed_keys(v) for k, v in reversed(value.items())} if isinstance(value, dict) else value

    params = reversed_keys(yaml.safe_load(path.read_text()))
    path.write_text("# another comment\n" + yaml.safe_dump(params, sort_keys=False))
    assert is_current(restored)


# What a changed line of code redoes.
CODE = {
    "spaceevo/search/evolve.py": redone(REPORT, **of_both(SPACE)),
    "spaceevo/train/supernet.py": redone(REPORT, **of_both(SUPERNET)),
    "workflow/scripts/search_subnets.py": redone(REPORT, **of_both(SEARCH)),
    "spaceevo/report/figures.py": redone(REPORT),
    "spaceevo/cli/describe.py": NOTHING,
    "spaceevo/space/names.yaml": NOTHING,
}


@pytest.mark.parametrize("module", CODE)
def test_code_redoes_the_rules_that_use_it(module: str, restored: Path) -> None:
    append(restored / module, "\nADDED = 1\n" if module.endswith(".py") else "\n# added\n")
    planned = planned_rules(restored)
    assert planned.pop("workflow_facts", 0) == bool(CODE[module].jobs)
    assert planned == CODE[module].jobs
    write_facts(restored)
    assert planned_stages(restored) == CODE[module].stages
    run(restored, "git", "checkout", "-q", ".")
    write_facts(restored)


def write_facts(project: Path) -> None:
    """What `dvc repro` does first."""
    run(project, "snakemake", "--cores", "1", "--", "results/facts.json")


def test_what_a_line_does_counts_and_not_how_it_is_explained(restored: Path) -> None:
    append(restored / "spaceevo/train/loop.py", "\n# a comment\n")
    assert planned_rules(restored) == {}
    append(restored / "spaceevo/train/loop.py", "ADDED = 1\n")
    assert "train_teacher" in planned_rules(restored)


def test_a_hyperspace_counts_by_what_it_declares(restored: Path) -> None:
    path = restored / "hyperspaces" / "micro.yaml"
    append(path, "# a comment\n")
    assert planned_rules(restored) == {}
    declared = yaml.safe_load(path.read_text())
    declared["block_types"][0]["expands"] = [3]
    path.write_text(yaml.safe_dump(declared))
    assert {"train_teacher", "distill_blocks", "evolve_space"} <= set(planned_rules(restored))


@pytest.mark.slow
def test_dvc_runs_what_it_plans_and_takes_back_what_it_knows(project: Path, tmp_path: Path) -> None:
    project = copied(project, tmp_path / "project")
    before = (project / "results/report/front_cpu.svg").read_bytes()
    set_param(project, "report.colour", "#aa0000")
    assert ran_stages(run(project, "dvc", "repro")) == {"report"}, "the tables came out the same"
    assert is_current(project)
    assert (project / "results/report/front_cpu.svg").read_bytes() != before
    set_param(project, "devices.pixel4.subnet_budgets", ["70%", "75%", "80%", "85%", "91%"])
    said = run(project, "dvc", "repro")
    assert ran_stages(said) == {f"{rule}-pixel4" for rule in SEARCH} | {*REPORT}
    assert is_current(project)
    run(project, "git", "checkout", "-q", "params.yaml")
    set_param(project, "report.colour", "#aa0000")
    said = run(project, "dvc", "repro")
    assert ran_stages(said) == set(), "what was made before is taken from the cache"
    assert is_current(project)


def test_another_structure_is_to_be_written_to_dvc_yaml_first(restored: Path) -> None:
    path = restored / "params.yaml"
    params = yaml.safe_load(path.read_text())
    del params["devices"]["cpu"]
    path.write_text(yaml.safe_dump(params))
    done = call(restored, "dvc", "repro")
    assert done.returncode != 0
    assert "dvc.yaml does not fit params.yaml and workflow/: run spaceevo stages" in done.stdout + done.stderr
    run(restored, "spaceevo", "stages")
    assert "cpu" not in (restored / "dvc.yaml").read_text()


def test_the_committed_dvc_yaml_is_current() -> None:
    root = Path(__file__).parents[2]
    run(root, "spaceevo", "stages", "--check")
