"""What is studied: layers and blocks, each as a chain of one and of several, in INT8 and in FP32.

What is repeated in a chain is a *unit*, such as a convolution with its activation. A long chain takes so many units
more than a chain of one, in company, and without what a model pays for its input and output. What is no layer of its
own, such as a pooling, is the difference of two units.

Widths are studied with long chains alone. What their ends cost grows with the width and hardly differs otherwise, so
that chains of one are measured at a few widths, the anchors, and interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np

from spaceevo.config import StudyParams
from spaceevo.nn.blocks import block_plan
from spaceevo.nn.plan import INPUT, Add, Conv, Gate, Linear, Op, Plan, Pool, join, plan_cost
from spaceevo.space import BlockChoice, Hyperspace

REPEATS = 4  # units of a long chain
ANCHORS = 3
DENSE_FACTOR = 8  # a network's fully connected layers are about so much wider than its maps
SE_FACTOR = 4  # by which squeeze-and-excitation is narrower inside
EXPAND = 3.0  # of the inverted residual that kernel sizes and squeeze-and-excitation are studied with
KERNEL_SIZES = (3, 5, 7)
ACTIVATIONS = ("relu", "relu6", "hswish", "swish")
CARRIER = "conv 1×1"  # what is no layer of its own is studied beside it
WIDTH_LAYERS = ("convolution 1×1", "convolution 3×3", "inverted residual 3×3")
NARROW = 32  # ends of the inverted residual whose inner width is studied

Precision = Literal["int8", "fp32"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Key = tuple[str, int, int, str]
Build = Callable[[int], Plan]


@dataclass(frozen=True)
class Unit:
    """What is repeated in a chain.

    Attributes:
        height: of the map that it reads, in pixels.
        build: the chain of so many units.
    """

    name: str
    channels: int
    height: int
    build: Build


@dataclass(frozen=True)
class Quantity:
    """A row of the study: what a unit takes, or how much more than another.

    Attributes:
        group: operators, activations, kernels, squeeze-and-excitation or blocks.
        less: the unit whose latency is taken off; None for none.
    """

    group: str
    name: str
    unit: str
    less: str | None = None


@dataclass(frozen=True)
class Chain:
    """A model to be timed."""

    unit: Unit
    repeats: int
    precision: Precision

    @property
    def plan(self) -> Plan:
        return self.unit.build(self.repeats)

    @property
    def key(self) -> Key:
        """Unit, channels, repeats and precision."""
        return self.unit.name, self.unit.channels, self.repeats, self.precision

    @property
    def macs(self) -> int:
        return plan_cost(self.plan, self.unit.height).macs


def quantities(hyperspace: Hyperspace) -> list[Quantity]:
    """The rows of the study, those of widths apart."""
    rows = [
        Quantity("operators", "convolution 3×3", "conv 3×3"),
        Quantity("operators", "convolution 1×1", CARRIER),
        Quantity("operators", "depthwise 3×3", "depthwise 3×3"),
        Quantity("operators", "fully connected", "fully connected"),
        Quantity("operators", "residual addition", f"{CARRIER} + addition", CARRIER),
        Quantity("operators", "global pooling", f"{CARRIER} + pooling + gate", f"{CARRIER} + gate"),
        Quantity("operators", "channel gate", f"{CARRIER} + gate", CARRIER),
        Quantity("operators", "squeeze-and-excitation", f"{CARRIER} + SE", CARRIER),
        Quantity("activations", "none", CARRIER),
    ]
    rows += [Quantity("activations", name, f"{CARRIER} + {name}") for name in ACTIVATIONS]
    for layer, unit in (("convolution", "conv"), ("depthwise", "depthwise"), ("inverted residual",) * 2):
        rows += [Quantity("kernels", f"{layer} {size}×{size}", f"{unit} {size}×{size}") for size in KERNEL_SIZES]
    rows += [
        Quantity("squeeze-and-excitation", "inverted residual without", "inverted residual 3×3"),
        Quantity("squeeze-and-excitation", "inverted residual with", "inverted residual 3×3 + SE"),
    ]
    return rows + [Quantity("blocks", name, name) for name in block_names(hyperspace)]


def units(hyperspace: Hyperspace, channels: int, height: int) -> list[Unit]:
    """The units of all quantities; blocks are those of the hyperspace, of stride 1 and as wide as their input."""
    plans = {CARRIER: _conv(channels, 1, None)}
    plans |= {f"{CARRIER} + {name}": _conv(channels, 1, name) for name in ACTIVATIONS}
    for size in KERNEL_SIZES:
        plans[f"conv {size}×{size}"] = _conv(channels, size, "relu")
        plans[f"depthwise {size}×{size}"] = _depthwise(channels, size)
        plans[f"inverted residual {size}×{size}"] = _inverted_residual(channels, size, "mobilenetv2_res")
    plans["inverted residual 3×3 + SE"] = _inverted_residual(channels, 3, "mobilenetv3_res")
    carrier, pool = _op(channels, "conv", INPUT), Pool("pool", "conv")
    plans[f"{CARRIER} + addition"] = Plan(channels, (carrier, Add("sum", "conv", INPUT, None)))
    plans[f"{CARRIER} + pooling + gate"] = Plan(channels, (carrier, pool, Gate("gated", "conv", "pool")))
    plans[f"{CARRIER} + SE"] = Plan(channels, (carrier, *_squeeze_excite(channels)))
    found = [Unit(name, channels, height, _repeated(plan)) for name, plan in plans.items()]
    found.append(Unit(f"{CARRIER} + gate", channels, height, partial(_gated, channels)))
    wide = DENSE_FACTOR * channels
    dense = Plan(wide, (Linear("linear", INPUT, "linear", wide, wide),))
    found.append(Unit("fully connected", wide, 1, _repeated(dense)))
    blocks = _blocks(hyperspace, channels).items()
    return found + [Unit(name, channels, height, _repeated(plan)) for name, plan in blocks]


def chains(hyperspace: Hyperspace, params: StudyParams) -> list[Chain]:
    """All that is timed, coarse before fine: should time be short, the finest widths are left out."""
    found = [
        Chain(unit, repeats, precision)
        for unit in units(hyperspace, params.channels, params.height)
        for repeats in (REPEATS, 1)
        for precision in PRECISIONS
    ]
    widths = [width for step in sorted(params.steps, reverse=True) for width in params.widths(step)]
    anchors = _anchors(sorted(set(widths)))
    for width in dict.fromkeys((*anchors, *widths)):
        for unit in width_units(width, params.height):
            for repeats in (REPEATS, 1) if width in anchors else (REPEATS,):
                found += [Chain(unit, repeats, precision) for precision in PRECISIONS]
    return found


def width_units(width: int, height: int) -> list[Unit]:
    """The layers whose widths are studied.

    Convolutions are as wide at their input as at their output; of the inverted residual it is the inner width. A
    depthwise convolution is not studied alone: within a network its channels may be exported as some more.
    """
    expanded = Plan(
        NARROW,
        (
            Conv("expand", INPUT, "expand", "expand", NARROW, width, 1, 1, 1, False, "relu"),
            _op(width, "conv", "expand", size=3, groups=width, activation="relu"),
            Conv("project", "conv", "project", "project", width, NARROW, 1, 1, 1, False, None),
            Add("sum", "project", INPUT, None),
        ),
    )
    plans = (_conv(width, 1, "relu"), _conv(width, 3, "relu"), expanded)
    return [
        Unit(width_unit(layer), width, height, _repeated(plan)) for layer, plan in zip(WIDTH_LAYERS, plans, strict=True)
    ]


def width_unit(layer: str) -> str:
    """Name of the unit of one of `WIDTH_LAYERS`."""
    return f"width of {layer}"


def _anchors(widths: Sequence[int]) -> tuple[int, ...]:
    """Some of ascending widths, the narrowest and the widest among them, spread evenly."""
    even = np.linspace(widths[0], widths[-1], ANCHORS)
    return tuple(dict.fromkeys(min(widths, key=lambda width: abs(width - place)) for place in even))


def block_names(hyperspace: Hyperspace) -> list[str]:
    """A name for every block type: its block, and where others have that too, its activation or its digit."""
    kinds = hyperspace.block_types
    blocks = [kind.block for kind in kinds]
    pairs = [(kind.block, kind.activation) for kind in kinds]
    return [
        kind.block
        if blocks.count(kind.block) == 1
        else f"{kind.block}, {kind.activation if pairs.count((kind.block, kind.activation)) == 1 else index}"
        for index, kind in enumerate(kinds)
    ]


def _blocks(hyperspace: Hyperspace, channels: int) -> dict[str, Plan]:
    """A block of every type, with its smallest kernel and a middle expand ratio."""
    plans = []
    for kind in hyperspace.block_types:
        choice = BlockChoice(kind.kernels[0], channels, kind.expands[len(kind.expands) // 2])
        plans.append(block_plan(kind.block, kind.activation, channels, choice, 1))
    return dict(zip(block_names(hyperspace), plans, strict=True))


def _repeated(plan: Plan) -> Build:
    return lambda repeats: join(plan.in_channels, [(f"{i}.", plan) for i in range(repeats)])


def _conv(channels: int, size: int, activation: str | None) -> Plan:
    return Plan(channels, (_op(channels, "conv", INPUT, size=size, activation=activation),))


def _depthwise(channels: int, size: int) -> Plan:
    return Plan(channels, (_op(channels, "conv", INPUT, size=size, groups=channels, activation="relu"),))


def _inverted_residual(channels: int, size: int, block: str) -> Plan:
    return block_plan(block, "relu", channels, BlockChoice(size, channels, EXPAND), 1)


def _gated(channels: int, repeats: int) -> Plan:
    """Convolutions whose outputs are multiplied by the mean of the first input."""
    ops: list[Op] = [Pool("gate", INPUT)]
    tensor = INPUT
    for i in range(repeats):
        ops += [_op(channels, f"{i}.conv", tensor), Gate(f"{i}.gated", f"{i}.conv", "gate")]
        tensor = f"{i}.gated"
    return Plan(channels, tuple(ops))


def _squeeze_excite(channels: int) -> tuple[Op, ...]:
    middle = max(1, channels // SE_FACTOR)
    return (
        Pool("pool", "conv"),
        Conv("reduce", "pool", "reduce", None, channels, middle, 1, 1, 1, True, "relu"),
        Conv("expand", "reduce", "expand", None, middle, channels, 1, 1, 1, True, "hsigmoid"),
        Gate("gated", "conv", "expand"),
    )


def _op(
    channels: int, output: str, input: str, *, size: int = 1, groups: int = 1, activation: str | None = None
) -> Conv:
    return Conv(output, input, output, output, channels, channels, size, 1, groups, False, activation)
