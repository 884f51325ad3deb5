"""Bad input through the real entry points: one sentence, a non-zero exit, no output file, nothing lost."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from workflow.failing import (
    CLASSES,
    SPACE,
    SPLITS,
    assert_one_sentence,
    assert_workflow_says,
    command,
    contents,
    make_hook,
    run,
)
from workflow.micro import make_project, micro_params, snakemake

from spaceevo.data.splits import load_split
from spaceevo.latency.predictor import read_predictor
from spaceevo.space.hyperspace import SHIPPED

Params = dict[str, Any]


def evolution(project: Path, out: Path, **changed: Any) -> list[str]:
    """The command that evolves a space from the project's artifacts, which has one input of each format."""
    options = {
        "lut": "results/lut.parquet",
        "predictor": "results/predictor.json",
        "val": "results/val.safetensors",
        "hyperspace": "micro",
        "space": micro_params()["space"],
        "budgets": ["60%"],
        "seed": 0,
        "output": out / "space.json",
        "history": out / "history.parquet",
    }
    return command("evolve_space", **(options | changed))


def test_the_made_artifacts_are_sound(project: Path, tmp_path: Path, untouched: None) -> None:
    """Or the tests below would see errors of another origin."""
    done = run(project, evolution(project, tmp_path))
    assert done.returncode == 0, done.stderr
    assert sorted(contents(tmp_path)) == ["history.parquet", "space.json"]


# Parameters, through Snakemake


def new_project(folder: Path, params: Params) -> Path:
    """A project in a new folder."""
    (folder / "project").mkdir()
    return make_project(folder / "project", params)


def at(*keys: str, value: Any) -> Callable[[Params], None]:
    """Sets one key of the parameters."""

    def change(params: Params) -> None:
        for key in keys[:-1]:
            params = params[key]
        params[keys[-1]] = value

    return change


TINY = SHIPPED / "tiny.yaml"
DEVICE = {"space_budgets": ["60%"], "subnet_budgets": ["70%", "75%", "80%", "85%", "90%"]}
WRONG_PARAMS: dict[str, tuple[Callable[[Params], Any], tuple[str, ...]]] = {
    "unknown section": (at("surch", value=1), ("no key surch",)),
    "unknown key": (at("teacher", "recipe", "epoch", value=1), ("no key teacher.recipe.epoch",)),
    "missing key": (lambda params: params["supernet"].pop("int8"), ("supernet.int8", "missing")),
    "wrong type": (at("supernet", "fp32", "batch_size", value="many"), ("supernet.fp32.batch_size", "'many'")),
    "section that is a number": (at("lut", value=3), ("lut",)),
    "impossible share": (at("dataset", "val_fraction", value=1.5), ("dataset.val_fraction", "1.5")),
    "impossible number": (at("checkpoint_steps", value=0), ("checkpoint_steps", "0")),
    "contradiction": (at("dataset", "clutter", "max_scale", value=0.1), ("dataset.clutter", "min_scale")),
    "dataset without its folder": (at("dataset", "name", value="imagefolder"), ("imagefolder", "root")),
    "budget that is no budget": (at("devices", "cpu", "space_budgets", value=["fast"]), ("cpu.space_budgets", "fast")),
    "too few budgets": (at("devices", "cpu", "subnet_budgets", value=["50%"]), ("devices.cpu.subnet_budgets",)),
    "unknown device": (at("devices", "toaster", value=DEVICE), ("no device 'toaster'", "cpu", "pixel4")),
    "device with a wrong file": (at("devices", "mine", value=DEVICE), ("devices/mine.yaml", "thread")),
    "unknown hyperspace": (at("hyperspace", value="huge"), ("no hyperspace 'huge'", "tiny")),
    "unknown block": (at("hyperspace", value="odd"), ("no block 'mobilenetv9'", "mobilenetv3_res")),
}


@pytest.mark.parametrize("change, mentions", WRONG_PARAMS.values(), ids=WRONG_PARAMS)
def test_wrong_parameters_stop_the_workflow(
    change: Callable[[Params], Any], mentions: tuple[str, ...], tmp_path: Path
) -> None:
    params = json.loads(json.dumps(micro_params()))  # sections that are one object become several
    change(params)
    folder = new_project(tmp_path, params)
    (folder / "devices").mkdir()
    (folder / "devices" / "mine.yaml").write_text("runtime: onnxruntime\nthread: 2\n")
    (folder / "hyperspaces" / "odd.yaml").write_text(TINY.read_text().replace("mobilenetv1_dual", "mobilenetv9"))
    assert_workflow_says(snakemake(folder, "-n"), *mentions)
    assert not (folder / "results").exists()


def test_a_file_laid_over_the_parameters_is_named(tmp_path: Path) -> None:
    folder = new_project(tmp_path, micro_params())
    (folder / "mine.yaml").write_text("lut: {samples: none}\n")
    assert_workflow_says(
        snakemake(folder, "-n", "--configfile", "mine.yaml"), "params.yaml + ", "mine.yaml: lut.samples"
    )


def test_parameters_that_are_not_yaml_stop_the_workflow(tmp_path: Path) -> None:
    folder = new_project(tmp_path, micro_params())
    (folder / "params.yaml").write_text("seed: [0\n")
    assert_workflow_says(snakemake(folder, "-n"), "not valid JSON or YAML")


# Devices


def test_an_unknown_device_of_a_script(project: Path, tmp_path: Path, untouched: None) -> None:
    out = tmp_path / "out" / "predictor.json"
    done = run(project, command("table_latency_predictor", device="toaster", output=out))
    assert_one_sentence(done, "no device 'toaster'", "pixel4", "devices/toaster.yaml")
    assert not contents(tmp_path)


@pytest.mark.parametrize(
    "device, module, package",
    [("cpu", "onnxruntime", "onnxruntime"), ("cpu-tflite", "ai_edge_litert", "ai-edge-litert")],
)
def test_a_device_whose_runtime_is_not_installed(
    device: str, module: str, package: str, project: Path, tmp_path: Path, untouched: None
) -> None:
    hook = make_hook(tmp_path / "hook", f"import sys\nsys.modules[{module!r}] = None")
    words = command(
        "profile_latency",
        device=device,
        hyperspace="micro",
        val="results/val.safetensors",
        counts=micro_params()["profile"],
        seed=0,
        checkpoint=tmp_path / "out" / "checkpoint.parquet",
        output=tmp_path / "out" / "profile.parquet",
    )
    assert_one_sentence(run(project, words, hook), device, f"pip install {package}")
    assert not (tmp_path / "out").exists()


# Damaged artifacts

INPUTS = {  # of the evolution of spaces: option and file, by format
    "json": ("predictor", "predictor.json"),
    "parquet": ("lut", "lut.parquet"),
    "safetensors": ("val", "val.safetensors"),
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "corrupt": lambda data: np.random.default_rng(0).bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("format", INPUTS)
def test_a_damaged_input(format: str, damage: str, project: Path, tmp_path: Path, untouched: None) -> None:
    option, name = INPUTS[format]
    damaged = tmp_path / name
    damaged.write_bytes(DAMAGES[damage]((project / "results" / name).read_bytes()))
    done = run(project, evolution(project, tmp_path / "out", **{option: damaged}))
    assert_one_sentence(done, str(damaged), "corrupt or truncated", "delete it and run again", "dvc checkout")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", INPUTS)
def test_an_input_that_is_not_there(format: str, project: Path, tmp_path: Path, untouched: None) -> None:
    option, name = INPUTS[format]
    done = run(project, evolution(project, tmp_path / "out", **{option: tmp_path / name}))
    assert_one_sentence(done, str(tmp_path / name), "does not exist", "snakemake")
    assert not (tmp_path / "out").exists()


def test_an_input_of_another_kind(project: Path, tmp_path: Path, untouched: None) -> None:
    done = run(project, evolution(project, tmp_path / "out", val="results/supernet.safetensors"))
    assert_one_sentence(done, "results/supernet.safetensors", "is a supernet", "split")
    assert not (tmp_path / "out").exists()


# Folders of pictures


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 12)).save(path)


def two_classes(root: Path) -> None:
    for name, number in itertools.product(("cat", "dog"), range(6)):
        picture(root / name / f"{number}.png")


def one_class(root: Path) -> None:
    picture(root / "cat" / "0.png")


def no_pictures(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        (root / name / "notes.txt").write_text("none yet")


def an_unreadable_picture(root: Path) -> None:
    two_classes(root)
    (root / "dog" / "3.png").write_bytes((root / "dog" / "3.png").read_bytes()[:40])


WRONG_FOLDERS = {
    one_class: ("one class only, cat",),
    no_pictures: ("No images",),
    an_unreadable_picture: ("3.png", "skip_unreadable"),
}


def preparation(root: Path, out: Path, **options: Any) -> list[str]:
    dataset = {"name": "imagefolder", "root": str(root), "val_fraction": 0.2, "test_fraction": 0.2, **options}
    return command(
        "prepare_data", dataset=dataset, download=0, seed=0, **{split: out / f"{split}.parquet" for split in SPLITS}
    )


@pytest.mark.parametrize("make, mentions", WRONG_FOLDERS.items(), ids=[make.__name__ for make in WRONG_FOLDERS])
def test_a_folder_of_pictures_that_cannot_be_used(
    make: Callable[[Path], None], mentions: tuple[str, ...], project: Path, tmp_path: Path
) -> None:
    make(tmp_path / "pictures")
    before = contents(tmp_path)
    done = run(project, preparation(tmp_path / "pictures", tmp_path / "out"))
    assert_one_sentence(done, str(tmp_path / "pictures"), *mentions)
    assert contents(tmp_path) == before


def test_unreadable_pictures_can_be_skipped(project: Path, tmp_path: Path) -> None:
    an_unreadable_picture(tmp_path / "pictures")
    done = run(project, preparation(tmp_path / "pictures", tmp_path, skip_unreadable=True))
    assert done.returncode == 0, done.stderr
    splits = [load_split(tmp_path / f"{split}.parquet") for split in SPLITS]
    assert sum(map(len, splits)) == 11
    assert splits[0].info.unreadable == 1


def test_the_workflow_shows_the_sentence_of_a_script(tmp_path: Path) -> None:
    params = micro_params()
    params["dataset"] |= {"name": "imagefolder", "root": "pictures"}
    folder = new_project(tmp_path, params)
    one_class(folder / "pictures")
    done = snakemake(folder, "results/teacher.safetensors")
    assert_workflow_says(done, "error: ", "one class only, cat")
    assert not list((folder / "results").rglob("*.parquet"))


# Budgets that cannot be met

TOO_FAST_MS = 0.0001


def test_a_space_budget_below_the_smallest_latency(project: Path, tmp_path: Path, untouched: None) -> None:
    done = run(project, evolution(project, tmp_path / "out", budgets=[TOO_FAST_MS, 10.0]))
    sentences = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (sentence,) = sentences
    assert f"{TOO_FAST_MS:g} ms" in sentence
    stated = re.search(r"smallest latency reachable is about ([\d.]+) ms", sentence)
    assert stated is not None, sentence
    assert not (tmp_path / "out").exists()
    reachable = run(project, evolution(project, tmp_path / "out", budgets=[1.5 * float(stated[1]), 10.0]))
    assert reachable.returncode == 0, reachable.stderr


def test_a_subnet_budget_below_the_smallest_latency(project: Path, tmp_path: Path, untouched: None) -> None:
    words = command(
        "search_subnets",
        supernet="results/supernet.safetensors",
        predictor="results/predictor.json",
        train="results/train.safetensors",
        val="results/val.safetensors",
        search=micro_params()["search"],
        budgets=[TOO_FAST_MS, 7.0, 8.0, 9.0, 10.0],
        limits={},
        seed=0,
        threads=1,
        output=tmp_path / "out" / "seqnets.json",
        subnets=tmp_path / "out" / "subnets.parquet",
    )
    predictor = read_predictor(project / "results" / "predictor.json")
    smallest_ms = predictor.predict_subnet(SPACE, SPACE.smallest, CLASSES).latency_ms
    assert_one_sentence(run(project, words), f"{TOO_FAST_MS:g} ms", f"{smallest_ms:.4g} ms")
    assert not (tmp_path / "out").exists()
