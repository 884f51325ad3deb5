"""Elastic layers and blocks: shared weights out of which every choice takes its slice.

All modules are pure functions of (input, choice, precision): no active choice is stored on them. A smaller kernel is
the centre crop of the larger, fewer channels are the first ones; BatchNorm and weight scales are sliced alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaceevo.nn.blocks import block_plan
from spaceevo.nn.convolution import conv2d
from spaceevo.nn.execute import Then, execute
from spaceevo.nn.norm import is_worth_it, norm_and_quantize, norm_and_rectify
from spaceevo.nn.plain import PlainBlock, PlainStage, plain_stage
from spaceevo.nn.plan import Conv, Linear, Plan
from spaceevo.nn.processes import batch_norm_over_processes, several_processes
from spaceevo.quant.grids import GridKind, grid_kinds
from spaceevo.quant.quantizers import ActivationQuantizer, Precision, WeightQuantizer, activation_quantizer, fp32, int8
from spaceevo.slices import sliced
from spaceevo.space import BlockChoice, BlockType, StageChoice

L = TypeVar("L", Conv, Linear)


class ElasticConv(nn.Module):
    """Convolution or fully connected weight of the largest shape; every call slices it to the operation's shape."""

    def __init__(self, largest: Conv | Linear) -> None:
        super().__init__()
        if isinstance(largest, Conv):
            k = largest.kernel_size
            shape: tuple[int, ...] = (largest.out_channels, largest.in_channels // largest.groups, k, k)
            has_bias = largest.bias
        else:
            shape, has_bias = (largest.out_channels, largest.in_channels), True
        self.weight = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if has_bias else None
        self.quantizer = WeightQuantizer(shape[0])

    def quantized_weights(self) -> Iterator[tuple[WeightQuantizer, Tensor]]:
        yield self.quantizer, self.weight

    def sliced(self, op: Conv | Linear) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of one operation, contiguous."""
        if isinstance(op, Conv):
            margin = (self.weight.shape[-1] - op.kernel_size) // 2
            crop = slice(margin, margin + op.kernel_size)
            weight = sliced(self.weight, (slice(op.out_channels), slice(op.in_channels // op.groups), crop, crop))
        else:
            weight = sliced(self.weight, (slice(op.out_channels), slice(op.in_channels)))
        return weight, None if self.bias is None else sliced(self.bias, (slice(op.out_channels),))

    def forward(self, x: Tensor, op: Conv | Linear, precision: Precision) -> Tensor:
        weight, bias = self.sliced(op)
        weight = precision(self.quantizer, weight)
        if isinstance(op, Linear):
            return F.linear(x, weight, bias)
        return conv2d(x, weight, bias, op.stride, op.groups)


class ElasticNorm(nn.Module):
    """BatchNorm of the largest width, eps 1e-5.

    In training mode it normalises by the batch, which several processes may share, and leaves its running statistics
    alone: those of an elastic network belong to no subnet. They are recomputed for each extracted subnet.
    """

    eps = 1e-5
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self._sliced(x)
        if self.training and several_processes():
            return batch_norm_over_processes(x, weight, bias, self.eps)
        if self.training:
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)
        mean, var = self.running_mean[: len(weight)], self.running_var[: len(weight)]
        return F.batch_norm(x, mean, var, weight, bias, eps=self.eps)

    def _sliced(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of the channels of `x`."""
        channels = (slice(x.shape[1]),)
        return sliced(self.weight, channels), sliced(self.bias, channels)

    def and_then(self, x: Tensor, precision: Precision, then: Then) -> Tensor:
        """The norm and what is done `then` with its result: in one where that takes less memory."""
        if not self.training or several_processes() or not is_worth_it(x):
            return then(self(x), precision)
        own = *self._sliced(x), self.eps
        if precision is fp32:
            return norm_and_rectify(x, *own, then.rectifier)
        if precision is int8 and isinstance(then.quantizer, ActivationQuantizer):
            return norm_and_quantize(x, *own, then.quantizer)
        return then(self(x), precision)


class ElasticBlock(nn.Module):
    """One block with all its choices.

    Args:
        in_widths: widths that can arrive.
        widths: output widths to choose from.
    """

    def __init__(self, block_type: BlockType, in_widths: Sequence[int], widths: Sequence[int], stride: int) -> None:
        super().__init__()
        self.block_type = block_type
        self.stride = stride
        layers, norms, kinds = _largest_layers(block_type, in_widths, widths, stride)
        self.convs = nn.ModuleDict({name: ElasticConv(op) for name, op in layers.items()})
        self.norms = nn.ModuleDict({name: ElasticNorm(channels) for name, channels in norms.items()})
        self.quantizers = nn.ModuleDict({name: activation_quantizer(kind) for name, kind in kinds.items()})

    def plan(self, in_channels: int, choice: BlockChoice) -> Plan:
        """What the block computes for a choice when `in_channels` arrive."""
        return block_plan(self.block_type.block, self.block_type.activation, in_channels, choice, self.stride)

    def convolve(self, op: Conv, x: Tensor, precision: Precision, then: Then) -> Tensor:
        y: Tensor = self.convs[op.weight](x, op, precision)
        return cast(ElasticNorm, self.norms[op.norm]).and_then(y, precision, then) if op.norm else then(y, precision)

    def linear(self, op: Linear, x: Tensor, precision: Precision) -> Tensor:
        return cast(Tensor, self.convs[op.weight](x, op, precision))

    def forward(self, x: Tensor, choice: BlockChoice, precision: Precision = fp32) -> Tensor:
        """`x` [N, C, H, W] through the block of this choice."""
        return execute(self.plan(x.shape[1], choice), self, x, precision)

    @torch.no_grad()
    def copy_to(self, block: PlainBlock) -> None:
        """Copy the slices that `block` needs into it."""
        for op in block.plan.ops:
            if not isinstance(op, Conv | Linear):
                continue
            elastic = cast(ElasticConv, self.convs[op.weight])
            plain = cast(nn.Conv2d, block.convs[op.weight])
            weight, bias = elastic.sliced(op)
            plain.weight.copy_(weight)
            if bias is not None and plain.bias is not None:
                plain.bias.copy_(bias)
            scales = cast(WeightQuantizer, block.weight_quantizers[op.weight])
            scales.log_scale.copy_(elastic.quantizer.log_scale[: op.out_channels])
            if isinstance(op, Conv) and op.norm:
                source, target = self.norms[op.norm], block.norms[op.norm]
                for name in ("weight", "bias", "running_mean", "running_var"):
                    getattr(target, name).copy_(getattr(source, name)[: op.out_channels])
        for tensor, quantizer in block.quantizers.items():
            if isinstance(quantizer, ActivationQuantizer):
                quantizer.load_state_dict(self.quantizers[tensor].state_dict())


class ElasticStage(nn.Module):
    """A stage with all its choices: as many blocks as its largest depth."""

    def __init__(
        self,
        block_type: BlockType,
        in_widths: Sequence[int],
        widths: Sequence[int],
        depth: int,
        stride: int,
    ) -> None:
        super().__init__()
        self.block_type = block_type
        self.stride = stride
        self.blocks = nn.ModuleList(
            ElasticBlock(block_type, in_widths if i == 0 else widths, widths, stride if i == 0 else 1)
            for i in range(depth)
        )

    def forward(self, x: Tensor, choice: StageChoice, precision: Precision = fp32) -> Tensor:
        """`x` [N, C, H, W] through the first `len(choice)` blocks."""
        for block, block_choice in zip(self.blocks, choice, strict=False):
            x = block(x, block_choice, precision)
        return x

    def extract(self, in_channels: int, choice: StageChoice) -> PlainStage:
        """The stage of this choice as ordinary layers, with copies of its weights, statistics and quantizers."""
        stage = plain_stage(self.block_type, in_channels, choice, self.stride)
        for elastic, plain in zip(self.blocks, stage, strict=False):
            cast(ElasticBlock, elastic).copy_to(cast(PlainBlock, plain))
        return stage.train(self.training)


def covering_plans(
    block_type: BlockType, in_widths: Sequence[int], widths: Sequence[int], stride: int
) -> Iterator[Plan]:
    """Plans of a block that together have every layer and tensor of any choice, and each layer in its largest shape.

    These are the plans of all choices. A layer's shape grows with each of them, but where the others are at their
    largest a layer may be absent: a shortcut where widths agree, or what expands where nothing is expanded.
    """
    for in_channels, width, kernel, expand in product(
        sorted(set(in_widths)), sorted(set(widths)), sorted(block_type.kernels), sorted(block_type.expands)
    ):
        choice = BlockChoice(kernel, width, expand)
        yield block_plan(block_type.block, block_type.activation, in_channels, choice, stride)


def _largest_layers(
    block_type: BlockType, in_widths: Sequence[int], widths: Sequence[int], stride: int
) -> tuple[dict[str, Conv | Linear], dict[str, int], dict[str, GridKind]]:
    """Largest shape of each layer, channels of each norm, and grid kind of each tensor, over all choices."""
    layers: dict[str, Conv | Linear] = {}
    norms: dict[str, int] = {}
    kinds: dict[str, GridKind] = {}
    for plan in covering_plans(block_type, in_widths, widths, stride):
        kinds |= grid_kinds(plan)
        for op in plan.ops:
            if isinstance(op, Conv | Linear):
                layers[op.weight] = _larger(layers.get(op.weight), op)
                if isinstance(op, Conv) and op.norm:
                    norms[op.norm] = max(norms.get(op.norm, 0), op.out_channels)
    return layers, norms, kinds


def _larger(first: Conv | Linear | None, second: Conv | Linear) -> Conv | Linear:
    if first is None:
        return second
    in_channels = max(first.in_channels, second.in_channels)
    out_channels = max(first.out_channels, second.out_channels)
    if isinstance(first, Conv) and isinstance(second, Conv):
        kernel_size = max(first.kernel_size, second.kernel_size)
        groups = 1 if first.groups == 1 else in_channels
        return replace(
            first, in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, groups=groups
        )
    return replace(first, in_channels=in_channels, out_channels=out_channels)
