"""Importing a published checkpoint: a supernet with its weights and, where there are pictures, with its 8-bit grids.

Grids of the checkpoint are converted where they carry over (`spaceevo.nn.published_grids`) and calibrated elsewhere.
Weights keep the scale they were trained with, one for all channels: it gives the very integers that the checkpoint was
trained to compute with, which scales fitted to each channel afterwards would not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from spaceevo.data.imagefolder import MEAN, STD, list_image_folder
from spaceevo.data.splits import FolderSplit, Split, SplitInfo, load_split
from spaceevo.errors import CheckpointError
from spaceevo.nn.elastic import ElasticConv
from spaceevo.nn.published import check_fit, count_classes, load_published
from spaceevo.nn.published_file import read_checkpoint
from spaceevo.nn.published_grids import LearnedGrids, learned_grids
from spaceevo.nn.store import ImageSpec
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.calibrate import Observer
from spaceevo.quant.grids import WEIGHT_LEVELS
from spaceevo.quant.quantizers import ActivationQuantizer, WeightQuantizer
from spaceevo.space import Space
from spaceevo.train.supernet import calibration_runs

# A converted grid may err this many times as much (in the mean square) as one fitted here: as much as two bits less.
# One that errs more does not cover its tensor, because it was never trained or is of other pictures, and is replaced.
MAX_ERROR_RATIO = 16.0

CONVERTED = "converted"  # the checkpoint's grid
REPLACED = "replaced"  # the checkpoint has a grid, but it does not cover the tensor: calibrated
CALIBRATED = "calibrated"  # the checkpoint has no grid for it
UNSEEN = "unseen"  # no subnet has the tensor


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint that was found to fit its space."""

    path: Path
    space: Space
    num_classes: int
    state: Mapping[str, Tensor]

    def learned_grids(self) -> LearnedGrids:
        return learned_grids(self.state, self.space, self.num_classes)


@dataclass(frozen=True)
class GridOrigins:
    """Where each grid of an imported supernet comes from: converted, replaced, calibrated or unseen, by module name.

    Weights have one scale per channel, activations one grid per tensor.
    """

    weights: Mapping[str, str]
    activations: Mapping[str, str]

    def counts(self) -> dict[str, dict[str, int]]:
        """How many grids of each origin, of weights and of activations."""
        return {kind: dict(Counter(origins.values())) for kind, origins in vars(self).items()}


def open_checkpoint(path: Path | str, space: Space) -> Checkpoint:
    """Read a published checkpoint of a space.

    Raises:
        CheckpointError: the file cannot be read, would run code, or does not fit the space.
    """
    state = read_checkpoint(path)
    check_fit(state, space, path)
    return Checkpoint(Path(path), space, count_classes(state, path), state)


def import_fp32(checkpoint: Checkpoint, spec: ImageSpec) -> Supernet:
    """A supernet with the checkpoint's weights and statistics, in eval mode; its grids are not set."""
    supernet = Supernet(checkpoint.space, checkpoint.num_classes, spec.grid)
    load_published(supernet, checkpoint.state)
    return supernet.eval()


@torch.no_grad()
def import_int8(
    checkpoint: Checkpoint, spec: ImageSpec, split: Split, batch_size: int, calibration_batches: int, seed: int
) -> tuple[Supernet, GridOrigins]:
    """A supernet with the checkpoint's weights, statistics and grids, in eval mode, and where each grid comes from.

    Args:
        split: pictures such as it was trained on; grids that do not carry over are fitted to a few batches of them.
    """
    supernet, learned = import_fp32(checkpoint, spec), checkpoint.learned_grids()
    weights = {
        name: _set_weight(module, learned.weights.get(name))
        for name, module in supernet.named_modules()
        if isinstance(module, ElasticConv)
    }
    observer = Observer(torch.Generator().manual_seed(seed))
    resolution = checkpoint.space.hyperspace.resolutions[-1]
    for run in calibration_runs(supernet, split, resolution, batch_size, calibration_batches, seed):
        run(observer)
    activations = {
        name: _set_activation(module, observer, learned.activations.get(name))
        for name, module in supernet.named_modules()
        if isinstance(module, ActivationQuantizer)
    }
    return supernet.eval(), GridOrigins(weights, activations)


def _set_weight(layer: ElasticConv, scale: float | None) -> str:
    quantizer, weight = layer.quantizer, cast(Tensor, layer.weight)
    quantizer.set_from(weight)
    if scale is None:
        return CALIBRATED
    largest = float(weight.abs().max()) / WEIGHT_LEVELS
    if _weight_error(weight, scale) > MAX_ERROR_RATIO * _weight_error(weight, max(largest, 1e-12)):
        return REPLACED
    quantizer.log_scale.fill_(math.log(scale))
    return CONVERTED


def _weight_error(weight: Tensor, scale: float) -> float:
    """Mean squared error of a weight with one scale for all channels."""
    quantizer = WeightQuantizer(weight.shape[0])
    quantizer.log_scale.fill_(math.log(scale))
    return float((quantizer(weight) - weight).square().mean())


def _set_activation(quantizer: ActivationQuantizer, observer: Observer, ends: tuple[float, float] | None) -> str:
    if quantizer not in observer.samples:
        return UNSEEN
    fitted = observer.best_range(quantizer)
    quantizer.set_range(*fitted)
    if ends is None:
        return CALIBRATED
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    covered = 0.0 if quantizer.offset is None else low, high
    if observer.error(quantizer, *covered) > MAX_ERROR_RATIO * observer.error(quantizer, *fitted):
        return REPLACED
    quantizer.set_range(*covered)
    return CONVERTED


def open_pictures(path: Path, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Split:
    """Pictures to fit grids to: a split of the workflow, or a folder of class folders, its `train` where it has one.

    Args:
        mean, std: of each channel of pixels in [0, 1]; ImageNet's for a folder, the split's own else.
    """
    if path.is_dir():
        classes, listing = list_image_folder(path)
        info = SplitInfo(classes, tuple(mean or MEAN), tuple(std or STD), str(path))
        return FolderSplit(info, listing.paths, listing.labels)
    split = load_split(path)
    split.info = replace(split.info, mean=tuple(mean or split.mean), std=tuple(std or split.std))
    return split


def image_spec(
    checkpoint: Checkpoint,
    split: Split | None,
    names: Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageSpec:
    """What the network reads and says: class names of a file, of a split, or numbers; the split's normalisation.

    Raises:
        CheckpointError: there are not as many names as the checkpoint has classes, or no picture can be normalised so.
    """
    if not all(map(math.isfinite, (*(mean or MEAN), *(std or STD)))) or min(std or STD) <= 0:
        raise CheckpointError("--mean must be three numbers and --std three numbers above 0, of pixels in [0, 1].")
    count = checkpoint.num_classes
    if names is not None:
        classes, source = _class_names(names), str(names)
    elif split is not None:
        classes, source = split.classes, "the set of pictures"
    else:
        classes, source = tuple(str(i) for i in range(count)), ""
    if len(classes) != count:
        raise CheckpointError(
            f"{checkpoint.path} tells {count:,} classes apart and {source} has {len(classes):,}: "
            "give the pictures that it was trained for, or the names of its classes."
        )
    if split is not None:
        return ImageSpec(classes, split.mean, split.std)
    return ImageSpec(classes, tuple(mean or MEAN), tuple(std or STD))


def _class_names(path: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"The file of class names {path} cannot be read ({error}).") from None
