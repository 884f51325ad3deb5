"""Validated parameters, and the names of files that several rules share."""

import gc
import sys
from pathlib import Path

from spaceevo.config import parse_params
from spaceevo.data.names import split_suffix
from spaceevo.errors import ParamsError, SpaceEvoError
from spaceevo.latency.devices import load_device
from spaceevo.nn.blocks import BLOCKS, check_blocks
from spaceevo.space import load_hyperspace, parse_space
from spaceevo.workflow.facts import machine_facts

# A DAG is many objects that live on: it is built a quarter faster where they are searched for garbage less often.
gc.freeze()
gc.set_threshold(50_000)

# Scripts run with the Python that runs Snakemake, whether or not its environment is activated, and end with Snakemake.
shell.prefix(
    f'export PATH="{Path(sys.executable).parent}:$PATH" SPACEEVO_PARENT=$PPID; exec '
)

try:
    PARAMS = parse_params(
        config, " + ".join(map(str, ["params.yaml", *workflow.overwrite_configfiles]))
    )
    HYPERSPACE = load_hyperspace(PARAMS.hyperspace)
    check_blocks(HYPERSPACE)
    HYPERSPACE.types_without(PARAMS.space.evolution.leave_out)
    if PARAMS.lut.published and not Path(PARAMS.lut.published).is_dir():
        raise ParamsError(
            f"lut.published: there is no folder {PARAMS.lut.published}; name that of a published LUT."
        )
    DEVICES = {name: load_device(name) for name in sorted(PARAMS.devices)}
    CHECKPOINT_SPACES = {
        name: parse_space(entry.space)
        for name, entry in PARAMS.supernet.checkpoints.items()
    }
except SpaceEvoError as error:
    raise WorkflowError(str(error)) from None

for name, space in CHECKPOINT_SPACES.items():
    if space.hyperspace != HYPERSPACE:
        raise WorkflowError(
            f"supernet.checkpoints.{name}.space: {space.code} is of the hyperspace {space.hyperspace.name}, "
            f"and hyperspace is {PARAMS.hyperspace}: set it to {space.hyperspace.name}."
        )


for index in PARAMS.comparison.block_types or ():
    if index >= len(HYPERSPACE.block_types):
        raise WorkflowError(
            f"comparison.block_types: {HYPERSPACE.name} has no block type {index}; its digits are 0 to "
            f"{len(HYPERSPACE.block_types) - 1}."
        )
for block in PARAMS.space.evolution.leave_out:
    if block not in BLOCKS:
        raise WorkflowError(
            f"space.evolution.leave_out: there is no block {block}; use some of {', '.join(BLOCKS)}."
        )


MACHINES = machine_facts()

STAGES = [stage.name for stage in HYPERSPACE.distilled_stages]
SEARCHED = [stage.name for stage in HYPERSPACE.searched_stages]
FIXED = [name for name in STAGES if name not in SEARCHED]
BLOCK_TYPES = range(len(HYPERSPACE.block_types))
NAMES = [f"A{k}" for k in range(5)]

MEASURED = [name for name, device in DEVICES.items() if device.measured]
TABLES = [name for name, device in DEVICES.items() if not device.measured]

EVOLVED = [name for name in DEVICES if name not in CHECKPOINT_SPACES]

# Spaces that are compared, by the folders of their runs: the evolved one, and uniform ones by block type.
COMPARED = [
    "evolved",
    *(
        f"uniform{index}"
        for index in PARAMS.comparison.block_types or range(len(HYPERSPACE.block_types))
    ),
]

SUFFIX = split_suffix(PARAMS.dataset.name)
DATA = {
    split: f"results/data/{PARAMS.dataset.name}/{split}{SUFFIX}"
    for split in ("train", "val", "test")
}

SEQNET_FILES = expand(
    "results/{device}/seqnet_{name}{suffix}",
    device=DEVICES,
    name=NAMES,
    suffix=(".tflite", ".onnx"),
)
FACTS = ["results/facts.json", "results/machine.json"]
CARDS = expand("results/{device}/seqnet_{name}.json", device=DEVICES, name=NAMES)


def distilled_blocks(stages):
    """The networks distilled from stages of the teacher: of every block type, or of a fixed stage's own."""
    return [
        f"results/blocks/{stage}_{index}.safetensors"
        for stage in stages
        for index in range(len(HYPERSPACE.types_of(HYPERSPACE.stage(stage))))
    ]


def any_of(names):
    """A wildcard constraint: one of these names, or nothing at all where there is none."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    device=any_of(DEVICES),
    stage=any_of(STAGES),
    name="A[0-4]",
    space=any_of(COMPARED),
    seed=r"\d+",
