"""`spaceevo import-checkpoint`: a published supernet as an artifact of this project."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from spaceevo.cli.output import AsJson, Debug, guarded, print_found, print_table

FOLDER = Path("results/imported")
Channels = tuple[float, float, float]


def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="PyTorch file with the state_dict of a published supernet.")],
    space: Annotated[str, typer.Option(help="Its space: a code, or a name such as spaceevo@pixel4.")],
    output: Annotated[
        Path | None,
        typer.Option(help=f"Artifact to write: {FOLDER}/supernet.safetensors, or supernet_fp32 without --images."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Pictures to fit 8-bit grids to: a folder of class folders (or of train/ with such), or a split of "
            "the workflow. Without them, an FP32 supernet is written."
        ),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Class names, one a line; else those of --images, else 0, 1, ….")
    ] = None,
    mean: Annotated[
        Channels | None, typer.Option(help="Of each channel of pixels in [0, 1]; ImageNet's where not given.")
    ] = None,
    std: Annotated[Channels | None, typer.Option(help="Likewise.")] = None,
    batches: Annotated[int, typer.Option(min=1, help="Batches of --images that grids are fitted to.")] = 4,
    batch_size: Annotated[int, typer.Option(min=2, help="Pictures per batch.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of pictures and subnets.")] = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Import a checkpoint of the SpaceEvo release: a supernet that can be searched, extracted from and exported."""
    work = partial(_import, file, space, output, images, classes, mean, std, batches, batch_size, seed, as_json)
    guarded(work, debug)


def _import(
    file: Path,
    space: str,
    output: Path | None,
    images: Path | None,
    classes: Path | None,
    mean: Channels | None,
    std: Channels | None,
    batches: int,
    batch_size: int,
    seed: int,
    as_json: bool,
) -> None:
    from spaceevo.artifacts import Record
    from spaceevo.nn.store import write_supernet
    from spaceevo.space import parse_space
    from spaceevo.train.published import image_spec, import_fp32, import_int8, open_checkpoint, open_pictures

    params = {"checkpoint": str(file), "space": space, "images": None if images is None else str(images)}
    record = Record({**params, "calibration_batches": batches, "batch_size": batch_size}, seed)
    checkpoint = open_checkpoint(file, parse_space(space))
    split = None if images is None else open_pictures(images, mean, std)
    spec = image_spec(checkpoint, split, classes, mean, std)
    origins = None
    if split is None:
        supernet = import_fp32(checkpoint, spec)
    else:
        supernet, origins = import_int8(checkpoint, spec, split, batch_size, batches, seed)
    output = output or FOLDER / f"supernet{'_fp32' if origins is None else ''}.safetensors"
    grids = None if origins is None else {"weights": dict(origins.weights), "activations": dict(origins.activations)}
    write_supernet(output, supernet, spec, record, {"checkpoint": file.name, "grids": grids})
    found = {
        "output": str(output),
        "space": checkpoint.space.code,
        "classes": checkpoint.num_classes,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "quantized": origins is not None,
        "counts": None if origins is None else origins.counts(),
        "grids": grids,
    }
    print_found(found, _show, as_json)


def _show(found: dict[str, Any]) -> None:
    channels = [", ".join(f"{value:g}" for value in found[key]) for key in ("mean", "std")]
    print(f"{found['output']}: supernet of {found['space']}, {found['classes']:,} classes")
    print(f"pictures are normalised by mean {channels[0]} and std {channels[1]}\n")
    if not found["quantized"]:
        print("FP32: its 8-bit grids are not set. Import it with --images, or go on with the INT8 phase of training.")
        return
    origins = ("converted", "replaced", "calibrated", "unseen")
    rows = [(kind, *(counts.get(origin, 0) for origin in origins)) for kind, counts in found["counts"].items()]
    print_table(("8-bit grids", *origins), rows)
