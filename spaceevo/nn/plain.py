"""Plain networks: one subnet as ordinary torch layers, with fixed shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from spaceevo.data.transforms import resize
from spaceevo.nn.blocks import block_plan
from spaceevo.nn.convolution import conv2d
from spaceevo.nn.execute import Then, execute
from spaceevo.nn.network import head_choices
from spaceevo.nn.plan import Conv, Linear, Plan
from spaceevo.quant.grids import Grid, grid_kinds
from spaceevo.quant.quantizers import FixedQuantizer, Precision, WeightQuantizer, activation_quantizer, int8
from spaceevo.space import IMAGE_CHANNELS, BlockType, Space, StageChoice, Subnet


class PlainBlock(nn.Module):
    """One block of fixed shape: ordinary convolutions and BatchNorms, and a quantizer for each tensor and weight."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.convs = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        self.weight_quantizers = nn.ModuleDict()
        for op in plan.ops:
            if isinstance(op, Conv):
                self.convs[op.weight] = nn.Conv2d(
                    op.in_channels,
                    op.out_channels,
                    op.kernel_size,
                    op.stride,
                    op.kernel_size // 2,
                    groups=op.groups,
                    bias=op.bias,
                )
                if op.norm:
                    self.norms[op.norm] = nn.BatchNorm2d(op.out_channels)
            elif isinstance(op, Linear):
                self.convs[op.weight] = nn.Linear(op.in_channels, op.out_channels)
            else:
                continue
            self.weight_quantizers[op.weight] = WeightQuantizer(op.out_channels)
        self.quantizers = nn.ModuleDict(
            {tensor: activation_quantizer(kind) for tensor, kind in grid_kinds(plan).items()}
        )

    def quantized_weights(self) -> Iterator[tuple[WeightQuantizer, Tensor]]:
        for name, quantizer in self.weight_quantizers.items():
            yield cast(WeightQuantizer, quantizer), cast(Tensor, self.convs[name].weight)

    def convolve(self, op: Conv, x: Tensor, precision: Precision, then: Then) -> Tensor:
        conv = cast(nn.Conv2d, self.convs[op.weight])
        weight = precision(self.weight_quantizers[op.weight], conv.weight)
        y = conv2d(x, weight, conv.bias, op.stride, op.groups)
        return then(self.norms[op.norm](y) if op.norm else y, precision)

    def linear(self, op: Linear, x: Tensor, precision: Precision) -> Tensor:
        linear = cast(nn.Linear, self.convs[op.weight])
        return nn.functional.linear(x, precision(self.weight_quantizers[op.weight], linear.weight), linear.bias)

    def forward(self, x: Tensor, precision: Precision = int8) -> Tensor:
        return execute(self.plan, self, x, precision)


class PlainStage(nn.ModuleList):
    """The blocks of one stage in a row."""

    def forward(self, x: Tensor, precision: Precision = int8) -> Tensor:
        for block in self:
            x = block(x, precision)
        return x


def plain_stage(block_type: BlockType, in_channels: int, choice: StageChoice, stride: int) -> PlainStage:
    """A stage with new, uninitialised blocks."""
    blocks = []
    for index, block in enumerate(choice):
        plan = block_plan(block_type.block, block_type.activation, in_channels, block, stride if index == 0 else 1)
        blocks.append(PlainBlock(plan))
        in_channels = block.width
    return PlainStage(blocks)


class Network(nn.Module):
    """One subnet as an ordinary torch module.

    `network(x)` takes normalised pictures, float32 [N, 3, H, W], resizes them to the subnet's resolution, and gives
    logits [N, classes] in simulated INT8; `network(x, fp32)` computes without quantizers.
    """

    def __init__(self, space: Space, subnet: Subnet, num_classes: int, image_grid: Grid) -> None:
        super().__init__()
        self.space = space
        self.subnet = subnet
        self.num_classes = num_classes
        self.image_quantizer = FixedQuantizer(image_grid)
        self.stages = nn.ModuleDict()
        arriving = IMAGE_CHANNELS
        for name, block_type, choice, stride in stage_choices(space, subnet, num_classes):
            self.stages[name] = plain_stage(block_type, arriving, choice, stride)
            arriving = choice[-1].width

    def features(self, x: Tensor, precision: Precision = int8) -> Iterator[tuple[str, Tensor]]:
        """Name and output of each stage in turn, the logits last."""
        x = precision(self.image_quantizer, resize(x, self.subnet.resolution))
        for name, stage in self.stages.items():
            x = stage(x, precision)
            yield name, x

    def forward(self, x: Tensor, precision: Precision = int8) -> Tensor:
        *_, (_, logits) = self.features(x, precision)
        return logits


def stage_choices(space: Space, subnet: Subnet, num_classes: int) -> Iterator[tuple[str, BlockType, StageChoice, int]]:
    """Name, block type, choice and stride of every stage of a subnet, the head included."""
    for options, choice in zip(space.options, subnet.stages, strict=True):
        yield options.stage.name, options.block_type, choice, options.stage.stride
    yield from head_choices(space.hyperspace, num_classes)
