"""The block types: each is one class that writes what the block computes for a given choice.

A class has a `build(b, choice)` method; `b` (a `BlockBuilder`) collects operations and knows the width that arrives,
the stride and the activation. `BLOCKS` gives it the name that hyperspace files use. Definitions:
SpaceEvo (ICCV 2023) and its release. Everything else (elastic weights, extraction, quantizers, export, latency
features) derives from the operations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from spaceevo.errors import ParamsError
from spaceevo.nn.plan import INPUT, Add, Conv, Gate, Linear, Op, Plan, Pool
from spaceevo.space import BlockChoice, Hyperspace


def divisible_by_8(value: float) -> int:
    """`value` rounded to a multiple of 8, half up and at least 8, one step up where that would lose over 10 %."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


@dataclass
class BlockBuilder:
    """Collects the operations of one block.

    Attributes:
        in_channels: the width that arrives.
        stride: stride of the block's spatial convolution.
        activation: the block's activation, where its type leaves it open.
    """

    in_channels: int
    stride: int
    activation: str | None
    ops: list[Op] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.channels[INPUT] = self.in_channels

    def _push(self, op: Op, channels: int) -> str:
        self.ops.append(op)
        self.channels[op.output] = channels
        return op.output

    def conv(
        self,
        name: str,
        input: str,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        activation: str | None = None,
    ) -> str:
        """Convolution, BatchNorm, activation; returns its output tensor."""
        cin = self.channels[input]
        op = Conv(name, input, name, name, cin, out_channels, kernel_size, stride, 1, False, activation)
        return self._push(op, out_channels)

    def conv_bias(self, name: str, input: str, out_channels: int, activation: str | None) -> str:
        """1×1 convolution with a bias in the place of BatchNorm."""
        cin = self.channels[input]
        return self._push(Conv(name, input, name, None, cin, out_channels, 1, 1, 1, True, activation), out_channels)

    def depthwise(self, name: str, input: str, kernel_size: int, stride: int, activation: str | None) -> str:
        """Depthwise convolution, BatchNorm, activation."""
        c = self.channels[input]
        return self._push(Conv(name, input, name, name, c, c, kernel_size, stride, c, False, activation), c)

    def depthwise_chain(self, name: str, input: str, kernel_size: int, stride: int, activation: str | None) -> str:
        """As many 3×3 depthwise convolutions as reach the field of `kernel_size`, with one BatchNorm at the end."""
        c = self.channels[input]
        length = (kernel_size - 1) // 2
        for i in range(length):
            last = i == length - 1
            op = Conv(
                output=name if last else f"{name}_{i}",
                input=input,
                weight=f"{name}_{i}",
                norm=name if last else None,
                in_channels=c,
                out_channels=c,
                kernel_size=3,
                stride=stride if i == 0 else 1,
                groups=c,
                bias=False,
                activation=activation if last else None,
            )
            input = self._push(op, c)
        return input

    def squeeze_excite(self, input: str, mid_channels: int) -> str:
        """Gate every channel by two 1×1 convolutions of the pooled map."""
        c = self.channels[input]
        pooled = self.pool("se_pool", input)
        reduced = self.conv_bias("se_reduce", pooled, mid_channels, "relu")
        gate = self.conv_bias("se_expand", reduced, c, "hsigmoid")
        return self._push(Gate("se", input, gate), c)

    def pool(self, name: str, input: str) -> str:
        return self._push(Pool(name, input), self.channels[input])

    def shortcut(self, out_channels: int, *, projected: bool = True) -> str | None:
        """The block's input where it has the output's shape, else a 1×1 convolution of it (None if not `projected`)."""
        if self.stride == 1 and self.in_channels == out_channels:
            return INPUT
        return self.conv("shortcut", INPUT, out_channels, 1, self.stride) if projected else None

    def add(self, output: str, shortcut: str | None, activation: str | None = None) -> str:
        """Add the shortcut to the block's output, where there is one."""
        if shortcut is None:
            return output
        return self._push(Add("sum", output, shortcut, activation), self.channels[output])


class Block(Protocol):
    """What a block type has to offer."""

    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None: ...


class ConvBnAct:
    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None:
        b.conv("conv", INPUT, choice.width, choice.kernel_size, b.stride, b.activation)


class PoolConvBnAct:
    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None:
        b.conv("conv", b.pool("pool", INPUT), choice.width, 1, 1, b.activation)


class LinearHead:
    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None:
        b._push(Linear("linear", INPUT, "linear", b.in_channels, choice.width), choice.width)


def _inverted_residual(
    b: BlockBuilder, choice: BlockChoice, *, squeeze_excite: bool = False, chain: bool = False, projected: bool = True
) -> None:
    hidden = divisible_by_8(choice.expand_ratio * b.in_channels)
    shortcut = b.shortcut(choice.width, projected=projected)
    h = INPUT
    if hidden != b.in_channels:
        h = b.conv("point_conv1", h, hidden, activation=b.activation)
    depthwise = b.depthwise_chain if chain else b.depthwise
    h = depthwise("depth_conv", h, choice.kernel_size, b.stride, b.activation)
    if squeeze_excite:
        h = b.squeeze_excite(h, divisible_by_8(hidden // 4))
    h = b.conv("point_conv2", h, choice.width)
    b.add(h, shortcut)


class MobilenetV2:
    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None:
        _inverted_residual(b, choice, projected=False)


class MobilenetV2Res:
    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None:
        _inverted_residual(b, choice)


class MobilenetV2K3Res:
    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None:
        _inverted_residual(b, choice, chain=True)


class MobilenetV3:
    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None:
        _inverted_residual(b, choice, squeeze_excite=True, projected=False)


class MobilenetV3Res:
    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None:
        _inverted_residual(b, choice, squeeze_excite=True)


class MobilenetV3K3Res:
    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None:
        _inverted_residual(b, choice, squeeze_excite=True, chain=True)


class MobilenetV1Dual:
    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None:
        shortcut = b.shortcut(choice.width)
        h = b.depthwise("depth_conv1", INPUT, choice.kernel_size, b.stride, "relu")
        h = b.conv("point_conv1", h, choice.width, activation="relu")
        h = b.depthwise("depth_conv2", h, choice.kernel_size, 1, "relu")
        h = b.conv("point_conv2", h, choice.width, activation="relu")
        b.add(h, shortcut)


def _bottleneck(b: BlockBuilder, choice: BlockChoice, *, squeeze_excite: bool) -> None:
    hidden = divisible_by_8(choice.expand_ratio * choice.width)
    shortcut = b.shortcut(choice.width)
    h = b.conv("conv1", INPUT, hidden, activation=b.activation)
    h = b.conv("conv2", h, hidden, choice.kernel_size, b.stride, b.activation)
    if squeeze_excite:
        h = b.squeeze_excite(h, divisible_by_8(b.in_channels // 4))
    h = b.conv("conv3", h, choice.width)
    b.add(h, shortcut, b.activation)


class Resnet:
    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None:
        _bottleneck(b, choice, squeeze_excite=False)


class ResnetSE:
    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None:
        _bottleneck(b, choice, squeeze_excite=True)


def _fused(b: BlockBuilder, choice: BlockChoice, *, squeeze_excite: bool) -> None:
    hidden = divisible_by_8(choice.expand_ratio * b.in_channels)
    shortcut = b.shortcut(choice.width)
    h = b.conv("fused_conv", INPUT, hidden, choice.kernel_size, b.stride, b.activation)
    if squeeze_excite:
        h = b.squeeze_excite(h, divisible_by_8(b.in_channels // 4))
    h = b.conv("point_conv", h, choice.width)
    b.add(h, shortcut)


class FusedMBConvRes:
    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None:
        _fused(b, choice, squeeze_excite=False)


class FusedMBConvSERes:
    @staticmethod
    def build(b: BlockBuilder, choice: BlockChoice) -> None:
        _fused(b, choice, squeeze_excite=True)


BLOCKS: dict[str, type[Block]] = {
    "conv_bn_act": ConvBnAct,
    "pool_conv_bn_act": PoolConvBnAct,
    "linear": LinearHead,
    "mobilenetv1_dual": MobilenetV1Dual,
    "mobilenetv2": MobilenetV2,
    "mobilenetv2_res": MobilenetV2Res,
    "mobilenetv2_k3_res": MobilenetV2K3Res,
    "mobilenetv3": MobilenetV3,
    "mobilenetv3_res": MobilenetV3Res,
    "mobilenetv3_k3_res": MobilenetV3K3Res,
    "resnet": Resnet,
    "resnet_se": ResnetSE,
    "fused_mbconv_res": FusedMBConvRes,
    "fused_mbconv_se_res": FusedMBConvSERes,
}


@lru_cache(maxsize=65536)
def block_plan(block: str, activation: str | None, in_channels: int, choice: BlockChoice, stride: int) -> Plan:
    """What one block computes.

    Raises:
        ParamsError: the hyperspace names a block that does not exist.
    """
    _check_block(block)
    builder = BlockBuilder(in_channels, stride, activation)
    BLOCKS[block].build(builder, choice)
    return Plan(in_channels, tuple(builder.ops))


def check_blocks(hyperspace: Hyperspace) -> None:
    """Raise a `ParamsError` that names the first block of a hyperspace that does not exist."""
    fixed = [stage.block_type for stage in hyperspace.stages if stage.block_type is not None]
    for block_type in (*fixed, *hyperspace.block_types):
        _check_block(block_type.block)


def _check_block(block: str) -> None:
    if block not in BLOCKS:
        raise ParamsError(f"There is no block {block!r}: use one of {', '.join(BLOCKS)}.")
