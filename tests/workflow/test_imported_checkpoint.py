"""A published checkpoint in the place of a trained supernet: from the file to a card, with nothing trained."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made import GRID, pictures, random_subnets, randomise
from PIL import Image
from published import published_state, save
from workflow.failing import SPACE, assert_one_sentence, assert_workflow_says, command, contents, run
from workflow.micro import make_project, micro_params, snakemake

from spaceevo.artifacts import read_json
from spaceevo.nn.store import load_supernet, read_origin
from spaceevo.nn.supernet import Supernet
from spaceevo.report.ledger import read_costs

CLASSES = ("ant", "bee", "cat")
CHECKPOINT = "checkpoints/lsq.pth"
TRAINING = ("train_teacher", "distill_blocks", "measure_block_losses", "accuracy_lut", "evolve_space", "train_supernet")


def make_checkpoint(path: Path, classes: int) -> Path:
    """A checkpoint with grids, of a supernet with random weights."""
    supernet = Supernet(SPACE, classes, GRID)
    randomise(supernet, 0)
    subnets = [SPACE.largest, SPACE.smallest, *random_subnets(SPACE, 6, 0)]
    return save(published_state(supernet, pictures(16, 24), subnets), path)


def make_pictures(root: Path, classes: tuple[str, ...] = CLASSES, count: int = 40) -> None:
    """Class folders of pictures that differ by their tint."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 120, (28, 28, 3), dtype=np.uint8)
            pixels[..., number % 3] += 100
            Image.fromarray(pixels).save(root / name / f"{index:03}.png")


def imported_params() -> dict[str, Any]:
    params = micro_params()
    del params["devices"]["cpu"]
    params["dataset"] |= {"name": "imagefolder", "root": "data/insects", "val_fraction": 0.2, "test_fraction": 0.2}
    params["supernet"]["checkpoints"] = {"pixel4": {"file": CHECKPOINT, "space": "micro@random"}}
    params["supernet"]["calibration_batches"] = 2
    return params


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("imported"), imported_params())
    (folder / "names.yaml").write_text(f"spaces:\n  micro@random: {SPACE.code}\n")
    make_pictures(folder / "data" / "insects")
    make_checkpoint(folder / CHECKPOINT, len(CLASSES))
    return folder


def planned_rules(folder: Path, *targets: str) -> set[str]:
    """The rules that a run would take."""
    planned = snakemake(folder, "-n", *targets)
    assert planned.returncode == 0, planned.stderr
    return set(re.findall(r"^rule (\w+):", planned.stdout + planned.stderr, re.MULTILINE))


def test_nothing_is_trained(imported: Path) -> None:
    rules = planned_rules(imported)
    assert {"import_checkpoint", "search_subnets", "write_card", "report"} <= rules
    assert not [rule for rule in rules if rule.startswith(TRAINING)]


def test_it_reaches_a_card(imported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = snakemake(imported, "results/pixel4/seqnet_A1.json")
    monkeypatch.chdir(imported)  # where the hyperspace is
    assert done.returncode == 0, done.stderr[-5000:]
    results = imported / "results" / "pixel4"
    card = read_json(results / "seqnet_A1.json", "card")
    assert card["space"] == SPACE.code
    assert card["files"]["tflite"]["agreement_with_simulation"] >= 0.7
    space = read_json(results / "space.json", "space")
    assert (space["space"], space["checkpoint"]) == (SPACE.code, CHECKPOINT)
    supernet, spec = load_supernet(results / "supernet.safetensors")
    assert spec.classes == CLASSES and supernet.space == SPACE
    origin = read_origin(results / "supernet.safetensors")
    assert origin is not None and origin["checkpoint"] == "lsq.pth"
    assert {"converted", "calibrated"} <= set(origin["grids"]["activations"].values())
    assert space["grids"]["activations"]["converted"] >= 4
    costs = read_costs(imported / "results", [results / "space.json", results / "supernet.safetensors"])
    assert {cost.step for cost in costs} == {"checkpoint import"}
    assert not (imported / "results" / "teacher.safetensors").exists()
    assert not (results / "supernet_fp32.safetensors").exists()

    params = imported_params()
    params["supernet"]["checkpoints"] = {}  # and back: what was imported is made
    (imported / "params.yaml").write_text(yaml.safe_dump(params))
    planned = planned_rules(imported, "results/pixel4/seqnet_A1.json")
    assert {"evolve_space", "train_supernet_int8", "write_card"} <= planned and "import_checkpoint" not in planned


def test_a_device_without_a_checkpoint_still_trains(tmp_path: Path) -> None:
    params = imported_params()
    params["devices"]["cpu"] = micro_params()["devices"]["cpu"]
    params["dataset"] = micro_params()["dataset"]
    params["supernet"]["checkpoints"]["pixel4"]["space"] = SPACE.code
    folder = make_project(tmp_path / "project", params)
    save({}, folder / CHECKPOINT)
    planned = snakemake(folder, "-n")
    assert planned.returncode == 0, planned.stderr
    lines = (planned.stdout + planned.stderr).splitlines()
    made = {line.strip() for line in lines if line.strip().startswith(("output:", "log:"))}
    assert any("results/logs/train_supernet_int8_cpu.log" in line for line in made)
    assert any("results/logs/import_checkpoint_pixel4.log" in line for line in made)
    assert not any("train_supernet_int8_pixel4" in line or "evolve_space_pixel4" in line for line in made)


@pytest.mark.parametrize(
    ("entry", "mentions"),
    [
        ({"toaster": {"file": "x", "space": SPACE.code}}, ("supernet.checkpoints", "'toaster'", "pixel4")),
        ({"pixel4": {"file": "x", "space": "micro-99-00"}}, ("micro-99-00", "does not exist")),
        ({"pixel4": {"file": "x", "space": "spaceevo@pixel5"}}, ("spaceevo@pixel5", "spaceevo@pixel4")),
        ({"pixel4": {"file": "x", "space": "spaceevo@vnni"}}, ("hyperspace onnxw", "set it to onnxw")),
        ({"pixel4": {"file": "lost.pth", "space": SPACE.code}}, ("lost.pth",)),
    ],
)
def test_a_wrong_entry_stops_the_workflow(tmp_path: Path, entry: dict[str, Any], mentions: tuple[str, ...]) -> None:
    params = micro_params()
    params["supernet"]["checkpoints"] = entry
    folder = make_project(tmp_path / "project", params)
    assert_workflow_says(snakemake(folder, "-n"), *mentions)


def test_a_checkpoint_of_other_classes_is_refused(project: Path, tmp_path: Path, untouched: None) -> None:
    out = tmp_path / "out"
    words = command(
        "import_checkpoint",
        checkpoint=make_checkpoint(tmp_path / "lsq.pth", 3),
        space=SPACE.code,
        train="results/train.safetensors",
        calibration_batches=1,
        batch_size=16,
        seed=0,
        threads=1,
        space_output=out / "space.json",
        output=out / "supernet.safetensors",
    )
    assert_one_sentence(run(project, words), "lsq.pth", "3 classes", "10")
    assert not contents(out)
