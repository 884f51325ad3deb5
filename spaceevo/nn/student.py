"""Students of block-wise distillation: one elastic stage between projections from and to the teacher's widths."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from spaceevo.nn.elastic import ElasticBlock, ElasticNorm, ElasticStage
from spaceevo.nn.plain import PlainBlock
from spaceevo.quant.quantizers import ActivationQuantizer, Precision, fp32
from spaceevo.space import BlockChoice, BlockType, Hyperspace, Stage, StageChoice

PROJECTION = BlockType("conv_bn_act", kernels=(1,))


def _projection(out_channels: int) -> BlockChoice:
    return BlockChoice(1, out_channels, 0.0)


class StageStudent(nn.Module):
    """One stage with one block type and all widths of the hyperspace, to be distilled from a teacher's stage.

    The stage reads a 1×1 projection of the teacher's input, on a grid of its own as in a network, and a 1×1 projection
    of its output is compared with the teacher's output. The projections themselves stay in FP32: no network has them.

    Args:
        teacher_in, teacher_out: the teacher's widths before and after the stage.
    """

    def __init__(
        self, hyperspace: Hyperspace, stage: Stage, block_type: BlockType, teacher_in: int, teacher_out: int
    ) -> None:
        super().__init__()
        self.in_widths = hyperspace.in_widths(stage.name)
        self.entry = ElasticBlock(PROJECTION, (teacher_in,), self.in_widths, 1)
        self.entry_quantizer = ActivationQuantizer("affine")
        self.stage = ElasticStage(block_type, self.in_widths, stage.widths, stage.depths[-1], stage.stride)
        self.exit = ElasticBlock(PROJECTION, stage.widths, (teacher_out,), 1)
        self.teacher_out = teacher_out

    def forward(self, x: Tensor, in_width: int, choice: StageChoice, precision: Precision = fp32) -> Tensor:
        """The teacher's input [N, C, H, W] to an estimate of its output [N, C', H', W']."""
        x = precision(self.entry_quantizer, self.entry(x, _projection(in_width)))
        return cast(Tensor, self.exit(self.stage(x, choice, precision), _projection(self.teacher_out)))

    @torch.no_grad()
    def start_at(self, mean: Tensor, deviation: Tensor) -> None:
        """Let the output start with this mean and deviation of each channel, both [teacher_out]."""
        (norm,) = self.exit.norms.values()
        cast(ElasticNorm, norm).bias.copy_(mean)
        cast(ElasticNorm, norm).weight.copy_(deviation)

    def extract(self, teacher_in: int, in_width: int, choice: StageChoice) -> PlainStudent:
        """The student of one choice as ordinary layers, with copies of its weights and quantizers."""
        entry = PlainBlock(self.entry.plan(teacher_in, _projection(in_width)))
        self.entry.copy_to(entry)
        exit = PlainBlock(self.exit.plan(choice[-1].width, _projection(self.teacher_out)))
        self.exit.copy_to(exit)
        return PlainStudent(entry, self.entry_quantizer, self.stage.extract(in_width, choice), exit)


class PlainStudent(nn.Module):
    """A `StageStudent` of one choice."""

    def __init__(self, entry: PlainBlock, quantizer: ActivationQuantizer, stage: nn.Module, exit: PlainBlock) -> None:
        super().__init__()
        self.entry, self.entry_quantizer, self.stage, self.exit = entry, quantizer, stage, exit

    def forward(self, x: Tensor, precision: Precision) -> Tensor:
        x = precision(self.entry_quantizer, self.entry(x, fp32))
        return cast(Tensor, self.exit(self.stage(x, precision), fp32))
