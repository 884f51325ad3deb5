"""Running the workflow's scripts as people and Snakemake do, with made artifacts, and judging what they say."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from workflow.micro import HYPERSPACE, make_project, micro_params

from spaceevo.artifacts import Record, write_json, write_table
from spaceevo.config import ClutterOptions
from spaceevo.data.prepare import prepare_dataset
from spaceevo.data.splits import load_split
from spaceevo.latency.devices import load_device, table_predictor
from spaceevo.latency.predictor import write_predictor
from spaceevo.nn.initialise import initialise
from spaceevo.nn.store import ImageSpec, write_supernet
from spaceevo.nn.supernet import Supernet
from spaceevo.search.lut import LUT_KIND
from spaceevo.space import Space, StageOptions, format_stage, parse_hyperspace

MICRO = parse_hyperspace("micro", HYPERSPACE)
SPACE = Space(MICRO, (0, 1), (0, 0))
CLASSES = 10
SPLITS = ("train", "val", "test")

Done = subprocess.CompletedProcess[str]


def make_artifacts(folder: Path) -> Path:
    """A project with small splits, a predictor, an accuracy LUT and an untrained supernet in results/."""
    make_project(folder, micro_params())
    results = folder / "results"
    options = ClutterOptions(image_size=24, train_images=200, val_images=60, test_images=60)
    splits = {split: results / f"{split}.safetensors" for split in SPLITS}
    prepare_dataset("clutter", splits, seed=0, clutter_options=options)
    write_predictor(results / "predictor.json", table_predictor(load_device("pixel4")), Record({}))
    write_table(results / "lut.parquet", LUT_KIND, made_lut(), Record({}))
    write_json(results / "space.json", "space", {"space": SPACE.code}, Record({}))
    spec = ImageSpec.of(load_split(splits["train"]))
    supernet = Supernet(SPACE, CLASSES, spec.grid)
    initialise(supernet, torch.Generator().manual_seed(0))
    write_supernet(results / "supernet.safetensors", supernet, spec, Record({}))
    return folder


def made_lut() -> pd.DataFrame:
    """Three choices of every stage, block type, window, arriving width and resolution, with made-up losses."""
    rows = [
        {"stage": stage.name, "block_type": index, "window": window, "in_width": in_width, "resolution": resolution}
        | {"choice": format_stage(choice), "out_width": choice[-1].width, "loss": 0.1 + 0.01 * number}
        for stage in MICRO.searched_stages
        for index, block_type in enumerate(MICRO.block_types)
        for window in range(stage.windows)
        for in_width, resolution in itertools.product(MICRO.in_widths(stage.name), MICRO.block_kd_resolutions)
        for number, choice in enumerate(
            itertools.islice(StageOptions(stage, block_type, stage.window_widths(window)).enumerate(), 3)
        )
    ]
    return pd.DataFrame(rows)


def command(name: str, **options: Any) -> list[str]:
    """The command line of one of the workflow's scripts; sections of the parameters become JSON."""
    words = [sys.executable, f"workflow/scripts/{name}.py", *map(str, options.pop("arguments", ()))]
    for key, value in options.items():
        words += [f"--{key.replace('_', '-')}", json.dumps(value) if isinstance(value, dict | list) else str(value)]
    return words


def environment(hook: Path | None = None) -> dict[str, str]:
    """One thread, and the module `sitecustomize` of the folder `hook` run before anything else."""
    added = {} if hook is None else {"PYTHONPATH": str(hook)}
    return {**os.environ, "OMP_NUM_THREADS": "1", **added}


def run(project: Path, words: list[str], hook: Path | None = None) -> Done:
    return subprocess.run(words, cwd=project, env=environment(hook), capture_output=True, text=True, timeout=300)


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file under a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_one_sentence(done: Done, *mentions: str) -> None:
    """The script said one sentence with all of `mentions` and failed."""
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert lines[0].endswith(".")
    for mention in mentions:
        assert mention in lines[0]


def assert_workflow_says(done: Done, *mentions: str) -> None:
    """Snakemake failed, and one of its lines is a sentence with all of `mentions`; it is no crash of Python's."""
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in said, said
    assert any(all(mention in line for mention in mentions) for line in said.splitlines()), said


def make_hook(folder: Path, code: str) -> Path:
    """A folder that makes the Python whose path it is on run `code` first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return folder
