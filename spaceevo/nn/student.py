"""Students of block-wise distillation: one elastic stage between projections from and to the teacher's widths."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from spaceevo.nn.elastic import ElasticBlock, ElasticConv, ElasticNorm, ElasticStage
from spaceevo.nn.plain import PlainBlock
from spaceevo.quant.quantizers import ActivationQuantizer, Precision, fp32
from spaceevo.space import BlockChoice, BlockType, Hyperspace, Stage, StageChoice

PROJECTION = BlockType("conv_bn_act", kernels=(1,))
RIDGE = 1e-3  # added to the variances of features, as a share of their mean


def _projection(out_channels: int) -> BlockChoice:
    return BlockChoice(1, out_channels, 0.0)


class StageStudent(nn.Module):
    """One stage with one block type and all widths of the hyperspace, to be distilled from a teacher's stage.

    The stage reads a 1×1 projection of the teacher's input, on a grid of its own as in a network, and a 1×1 projection
    of its output is compared with the teacher's output. The projections themselves stay in FP32: no network has them.
    So a choice that is extracted leaves the second one behind: `least_squares` gives it the best there is.

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
    def start_exit(self, x: Tensor, target: Tensor, choice: StageChoice) -> None:
        """Let the last projection start with the least squared error that this choice can have on a batch, in FP32."""
        features = self.stage(self.entry(x, _projection(self.in_widths[-1])), choice)
        readout = least_squares([features], [target])
        (conv,), (norm,) = self.exit.convs.values(), self.exit.norms.values()
        cast(ElasticConv, conv).weight[:, : features.shape[1]].copy_(readout.weight)
        output = readout(features)
        cast(ElasticNorm, norm).bias.copy_(output.mean((0, 2, 3)))
        cast(ElasticNorm, norm).weight.copy_(output.std((0, 2, 3)))

    def extract(self, teacher_in: int, in_width: int, choice: StageChoice) -> PlainStudent:
        """The student of one choice, as far as its stage, as ordinary layers with copies of weights and quantizers."""
        entry = PlainBlock(self.entry.plan(teacher_in, _projection(in_width)))
        self.entry.copy_to(entry)
        return PlainStudent(entry, copy.deepcopy(self.entry_quantizer), self.stage.extract(in_width, choice))


class PlainStudent(nn.Module):
    """A `StageStudent` of one choice, without the last projection: the stage's output [N, width, H', W']."""

    def __init__(self, entry: PlainBlock, quantizer: ActivationQuantizer, stage: nn.Module) -> None:
        super().__init__()
        self.entry, self.entry_quantizer, self.stage = entry, quantizer, stage

    def forward(self, x: Tensor, precision: Precision) -> Tensor:
        x = precision(self.entry_quantizer, self.entry(x, fp32))
        return cast(Tensor, self.stage(x, precision))


@torch.no_grad()
def least_squares(features: Sequence[Tensor], targets: Sequence[Tensor]) -> nn.Conv2d:
    """The 1×1 convolution with a bias whose output on `features` has the least squared error, with a little ridge.

    Args:
        features, targets: float32 [N, C, H, W] and [N, C', H, W] of each batch.
    """
    x, y = (torch.cat([maps.transpose(0, 1).flatten(1) for maps in part], 1).double() for part in (features, targets))
    x_mean, y_mean = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    x, y = x - x_mean, y - y_mean
    covariance = x @ x.T
    covariance.diagonal().add_(RIDGE * covariance.diagonal().mean() + torch.finfo(torch.float32).tiny)
    weight = torch.linalg.solve(covariance, x @ y.T).T
    readout = nn.Conv2d(len(x), len(y), 1, device=features[0].device)
    readout.weight.copy_(weight[:, :, None, None])
    assert readout.bias is not None
    readout.bias.copy_((y_mean - weight @ x_mean)[:, 0])
    return readout
