"""The 8-bit grids of published checkpoints, as far as they carry over to ours.

Published quantizers sit at consumers (LSQ+, Bhalgat et al. 2020): each convolution rounds its input to
|sa| · round(clip((x − beta) / |sa|, 0, 255)) + beta, and its weight to |sw| · round(clip(w / |sw|, −128, 127)) with one
scale for all channels. Ours sit at producers. So a tensor that convolutions alone read, with grids that agree, takes
over their range; what anything else reads too (sums, gates, poolings) had no published grid of its own. A quantizer
with scale 1 and offset 0 was never used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from spaceevo.nn.elastic import covering_plans
from spaceevo.nn.plan import INPUT, Add, Conv, Gate, Linear, Op, Plan
from spaceevo.nn.published import StageShape, published_layer, stage_shapes
from spaceevo.quant.grids import LEVELS
from spaceevo.space import IMAGE_CHANNELS, Space

AGREEMENT = 0.05  # of a range: how far the ends of several consumers' ranges may lie apart

Readers = dict[str, set[str | None]]


@dataclass(frozen=True)
class LearnedGrids:
    """What a checkpoint says of grids, by the names of our supernet's modules.

    Attributes:
        weights: scale of each convolution's weight, one for all channels; its module is `…convs.<layer>`.
        activations: lowest and highest value of each tensor's grid; its module is `…quantizers.<tensor>`.
    """

    weights: Mapping[str, float]
    activations: Mapping[str, tuple[float, float]]


def learned_grids(state: Mapping[str, Tensor], space: Space, num_classes: int) -> LearnedGrids:
    """The grids of a checked state dict that carry over to the supernet of `space`; none of an FP32 checkpoint."""
    layers = {ours: grid for ours, name in _layers(space, num_classes) if (grid := _used_grid(state, name)) is not None}
    ranges = {}
    for tensor, readers in tensor_readers(space, num_classes).items():
        found = [layers[reader][1:] if reader in layers else None for reader in readers if reader is not None]
        known = [ends for ends in found if ends is not None]
        if known and len(known) == len(readers) and _agree(known):
            ranges[tensor] = (sum(low for low, _ in known) / len(known), sum(high for _, high in known) / len(known))
    return LearnedGrids({ours: scale for ours, (scale, _, _) in layers.items()}, ranges)


def tensor_readers(space: Space, num_classes: int) -> Readers:
    """What reads each tensor in any subnet: modules `…convs.<layer>`; None stands for all that is no convolution."""
    readers: Readers = {}
    arriving: set[str] = set()  # tensors that a block may get
    leaving: set[str] = set()  # tensors that its stage may end with
    for stage, index, prefix, plans in _blocks(space, num_classes):
        if index == 0:
            arriving, leaving = leaving, set()
        outputs = {f"{prefix}quantizers.{plan.output}" for plan in plans}
        for op in (op for plan in plans for op in plan.ops):
            reader = f"{prefix}convs.{op.weight}" if isinstance(op, Conv | Linear) else None
            readers.setdefault(f"{prefix}quantizers.{op.output}", set())
            for tensor in _inputs(op):
                for name in arriving if tensor == INPUT else (f"{prefix}quantizers.{tensor}",):
                    readers[name].add(reader)
        arriving = outputs
        if index + 1 in stage.depths:
            leaving |= outputs
    return readers


def _inputs(op: Op) -> Iterator[str]:
    yield op.input
    if isinstance(op, Add):
        yield op.other
    if isinstance(op, Gate):
        yield op.gate


def _layers(space: Space, num_classes: int) -> Iterator[tuple[str, str]]:
    """Every convolution's module of ours and its published name."""
    for _, _, prefix, plans in _blocks(space, num_classes):
        weights = {op.weight for plan in plans for op in plan.ops if isinstance(op, Conv | Linear)}
        yield from ((f"{prefix}convs.{name}", prefix + published_layer(name, "convs")) for name in sorted(weights))


def _blocks(space: Space, num_classes: int) -> Iterator[tuple[StageShape, int, str, tuple[Plan, ...]]]:
    """Stage, index, name with a dot, and telling plans of every block."""
    arriving: tuple[int, ...] = (IMAGE_CHANNELS,)
    for stage in stage_shapes(space, num_classes):
        for index in range(stage.depths[-1]):
            stride = stage.stride if index == 0 else 1
            plans = tuple(covering_plans(stage.block_type, arriving, stage.widths, stride))
            yield stage, index, f"stages.{stage.name}.blocks.{index}.", plans
            arriving = stage.widths


def _used_grid(state: Mapping[str, Tensor], layer: str) -> tuple[float, float, float] | None:
    """Weight scale, and lowest and highest input value, of a published convolution; None where never used."""
    if f"{layer}.sw" not in state:
        return None
    sw, sa, beta = (float(state[f"{layer}.{leaf}"]) for leaf in ("sw", "sa", "beta"))
    if (sw, sa, beta) == (1.0, 1.0, 0.0) or sw == 0 or sa == 0:
        return None
    return abs(sw), beta, beta + LEVELS * abs(sa)


def _agree(ranges: list[tuple[float, float]]) -> bool:
    span = max(high - low for low, high in ranges)
    return all(max(ends) - min(ends) <= AGREEMENT * span for ends in zip(*ranges, strict=True))
