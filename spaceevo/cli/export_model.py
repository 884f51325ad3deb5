"""`spaceevo export-model`: any supported network as an INT8 file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from spaceevo.cli.output import AsJson, Debug, guarded, print_found
from spaceevo.errors import ParamsError

Channels = tuple[float, float, float]


def export_model(
    name: Annotated[
        str,
        typer.Argument(help="A network of torchvision, such as mobilenet_v2, or module:callable that returns yours."),
    ],
    output: Annotated[Path, typer.Option(help="File to write: .onnx or .tflite.")],
    images: Annotated[
        Path | None,
        typer.Option(
            help="Pictures to fit 8-bit grids to: a folder of class folders (or of train/ with such), or a split of "
            "the workflow."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="PyTorch file with its state_dict; random weights, to be timed, without it.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Classes of a torchvision network; 1000 where not given.")
    ] = None,
    resolution: Annotated[int, typer.Option(min=1, help="Height and width of the input, pixels.")] = 224,
    count: Annotated[int, typer.Option(min=1, help="Pictures that grids are fitted to and the file is tried on.")] = 64,
    mean: Annotated[
        Channels | None, typer.Option(help="Of each channel of pixels in [0, 1]; ImageNet's where not given.")
    ] = None,
    std: Annotated[Channels | None, typer.Option(help="Likewise.")] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of pictures that must get the same class; 0 with random weights."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of pictures, and of random weights.")] = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Export a network of torchvision, or your own, as an INT8 file: quantization after training."""
    settings = {"classes": classes, "weights": weights, "seed": seed}
    work = partial(_export, name, output, images, settings, resolution, count, (mean, std), min_agreement, as_json)
    guarded(work, debug)


def _export(
    name: str,
    output: Path,
    images: Path | None,
    settings: dict[str, Any],
    resolution: int,
    count: int,
    normalisation: tuple[Channels | None, Channels | None],
    min_agreement: float | None,
    as_json: bool,
) -> None:
    if images is None:
        raise ParamsError("8-bit grids are fitted to pictures: name a folder of class folders with --images.")
    if output.suffix not in (".onnx", ".tflite"):
        raise ParamsError(f"--output {output} is neither a .onnx nor a .tflite file: give it one of these suffixes.")

    from spaceevo import api
    from spaceevo.data.loader import materialise
    from spaceevo.export.verify import MIN_AGREEMENT
    from spaceevo.nn.models import build_model
    from spaceevo.train.published import open_pictures

    split = open_pictures(images, *normalisation)
    pictures, _ = materialise(split, resolution, min(count, len(split)), settings["seed"])
    model = build_model(name, **settings)
    outputs = settings["classes"] or _outputs(model, pictures[:1])
    names: tuple[str, ...] | int = split.classes if len(split.classes) == outputs else outputs
    spec = api.image_spec(names, split.mean, split.std)
    if min_agreement is None:  # random networks have no margins between classes that rounding would leave
        random = settings["weights"] is None and ":" not in name
        min_agreement = 0.0 if random else MIN_AGREEMENT
    output.parent.mkdir(parents=True, exist_ok=True)
    parity = api.export_model(model, output, pictures, spec, min_agreement, settings["seed"], name)
    found = {
        "output": str(output),
        "name": name,
        "resolution": resolution,
        "classes": outputs,
        "size_bytes": output.stat().st_size,
        "calibration_images": len(pictures),
        "agreement": parity.top1_agreement,
        "mean_abs_lsb": parity.mean_abs_lsb,
        "random_weights": settings["weights"] is None and ":" not in name,
    }
    print_found(found, _show, as_json)


def _outputs(model: Any, picture: Any) -> int:
    """Logits that a network gives out for one picture."""
    import torch

    with torch.no_grad():
        return int(model(picture).shape[1])


def _show(found: dict[str, Any]) -> None:
    print(
        f"{found['output']}: {found['name']} in INT8, {found['resolution']} pixels, {found['classes']:,} classes, "
        f"{found['size_bytes'] / 1024:,.0f} KiB"
    )
    print(
        f"its runtime and the simulation name the same class for {found['agreement']:.1%} of "
        f"{found['calibration_images']} pictures; logits differ by {found['mean_abs_lsb']:.2g} steps on average"
    )
    if found["random_weights"]:
        print("random weights: of use for timing alone; give trained ones with --weights")
