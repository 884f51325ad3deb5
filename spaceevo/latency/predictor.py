"""The latency predictor: milliseconds of a network as the sum of its kernels, without running it.

    ms = overhead + Σ over kernels Σ_j θ_j φ_j(kernel),  θ ≥ 0

with the features φ of `spaceevo.latency.features`. The sum is exact in blocks: a subnet costs its overhead, its
blocks and its head, and each of these is computed once and remembered. Kernel-level prediction follows nn-Meter
(MobiSys 2021), with rising features in the place of its random forests: a wider block is never predicted faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spaceevo.artifacts import Record, read_json, write_json
from spaceevo.errors import ArtifactError
from spaceevo.latency.features import BOUNDARIES, Array, Kernel, Terms, boundary_kernels, family_features, kernels
from spaceevo.nn.blocks import block_plan
from spaceevo.nn.network import IMAGE_CHANNELS, head_plan
from spaceevo.nn.plan import Plan
from spaceevo.space import BlockChoice, BlockType, Hyperspace, Space, StageChoice, Subnet

PREDICTOR_KIND = "latency_predictor"

# Kinds that cost about the same, where a predictor was fitted to one of them alone: both gate a tensor by itself.
STAND_INS = {"hswish": "swish", "swish": "hswish"}


class Prediction(NamedTuple):
    """Predicted milliseconds, and whether a kernel lies outside what the predictor was fitted on."""

    latency_ms: float
    extrapolated: bool

    def plus(self, other: Prediction) -> Prediction:
        return Prediction(self.latency_ms + other.latency_ms, self.extrapolated or other.extrapolated)


@dataclass(frozen=True)
class KernelModel:
    """What is known of one kind of kernel.

    Attributes:
        family: whose features it uses, as a rule its own.
        coefficients: milliseconds per unit of each feature, by name; only those above 0.
        in_channels, out_channels, height: smallest and largest seen in the fit.
        fitted_kernels: number of different kernels in the fit.
    """

    family: str
    coefficients: Mapping[str, float]
    in_channels: tuple[int, int]
    out_channels: tuple[int, int]
    height: tuple[int, int]
    fitted_kernels: int

    def latency_ms(self, kernel: Kernel) -> float:
        """The kernel's features times their coefficients."""
        terms, values = self._evaluated
        return float((terms([kernel]) @ values)[0])

    @cached_property
    def _evaluated(self) -> tuple[Terms, Array]:
        features = family_features(self.family)
        return Terms(features[name] for name in self.coefficients), np.array(list(self.coefficients.values()))

    def covers(self, kernel: Kernel) -> bool:
        """Whether a kernel lies within the sizes seen."""
        return (
            self.in_channels[0] <= kernel.in_channels <= self.in_channels[1]
            and self.out_channels[0] <= kernel.out_channels <= self.out_channels[1]
            and self.height[0] <= kernel.height <= self.height[1]
        )


@dataclass(frozen=True)
class Predictor:
    """A fitted latency predictor of one device.

    Attributes:
        device: name of the device.
        overhead_ms: what every model costs before its first kernel.
        kinds: one model per kind of kernel.
        errors: figures of the fit on what was held out: fractions within 5, 10 and 15 %, mean absolute relative error.
        notes: how it was fitted, for people.
    """

    device: str
    overhead_ms: float
    kinds: Mapping[str, KernelModel]
    errors: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""

    def predict(self, plan: Plan, height: int) -> Prediction:
        """Latency of a plan run as a model of its own on a `height` × `height` map (a picture, or a block's input)."""
        model = (*kernels(plan, height), *boundary_kernels(plan, height))
        return Prediction(self.overhead_ms, False).plus(self._sum(model))

    def predict_subnet(self, space: Space, subnet: Subnet, num_classes: int) -> Prediction:
        """Latency of a whole network; equals `predict` of its plan."""
        milliseconds = self.overhead_ms
        extrapolated = False
        in_channels, height = IMAGE_CHANNELS, subnet.resolution
        for options, choice in zip(space.options, subnet.stages, strict=True):
            stride = options.stage.stride
            for block in choice:
                part = self.block_ms(options.block_type, in_channels, block, stride, height)
                milliseconds += part.latency_ms
                extrapolated |= part.extrapolated
                in_channels = block.width
                height = (height - 1) // stride + 1
                stride = 1
        head = self.head_ms(space.hyperspace, in_channels, height, num_classes)
        ends = self.boundary_ms(subnet.resolution, num_classes)
        return Prediction(
            milliseconds + head.latency_ms + ends.latency_ms, extrapolated | head.extrapolated | ends.extrapolated
        )

    def block_ms(
        self, block_type: BlockType, in_channels: int, choice: BlockChoice, stride: int, height: int
    ) -> Prediction:
        """What one block adds to a model; `stride` is the stage's in its first block, else 1; remembered."""
        key = (block_type, in_channels, choice, stride, height)
        known = self._blocks.get(key)
        if known is None:
            plan = block_plan(block_type.block, block_type.activation, in_channels, choice, stride)
            known = self._blocks[key] = self._sum(kernels(plan, height))
        return known

    def stage_ms(
        self, block_type: BlockType, in_channels: int, choice: StageChoice, stride: int, height: int
    ) -> Prediction:
        """What the blocks of one stage add to a model: the sum of its blocks."""
        total = Prediction(0.0, False)
        for block in choice:
            total = total.plus(self.block_ms(block_type, in_channels, block, stride, height))
            in_channels, height, stride = block.width, (height - 1) // stride + 1, 1
        return total

    def head_ms(self, hyperspace: Hyperspace, in_channels: int, height: int, num_classes: int) -> Prediction:
        """What the stages after the body add to a model; remembered."""
        key = (hyperspace.name, in_channels, height, num_classes)
        known = self._heads.get(key)
        if known is None:
            known = self._heads[key] = self._sum(kernels(head_plan(hyperspace, in_channels, num_classes), height))
        return known

    def boundary_ms(self, resolution: int, num_classes: int) -> Prediction:
        """What a model pays for the picture it reads and the logits it returns."""
        picture = Kernel("input", IMAGE_CHANNELS, IMAGE_CHANNELS, resolution)
        logits = Kernel("output", num_classes, num_classes, 1)
        return self._kernel(picture).plus(self._kernel(logits))

    def _sum(self, parts: Sequence[Kernel]) -> Prediction:
        total = Prediction(0.0, False)
        for kernel in parts:
            total = total.plus(self._kernel(kernel))
        return total

    def _kernel(self, kernel: Kernel) -> Prediction:
        known = self._kernels.get(kernel)
        if known is None:
            model = self.kinds.get(kernel.kind)
            stand_in = self.kinds.get(STAND_INS.get(kernel.kind, ""))
            if model is None and kernel.kind in BOUNDARIES:  # a table of blocks says nothing of a model's ends
                known = Prediction(0.0, False)
            elif model is None and stand_in is not None:
                known = Prediction(stand_in.latency_ms(kernel), True)
            elif model is None:
                known = Prediction(0.0, True)
            else:
                known = Prediction(model.latency_ms(kernel), not model.covers(kernel))
            self._kernels[kernel] = known
        return known

    @cached_property
    def _kernels(self) -> dict[Kernel, Prediction]:
        return {}

    @cached_property
    def _blocks(self) -> dict[tuple[BlockType, int, BlockChoice, int, int], Prediction]:
        return {}

    @cached_property
    def _heads(self) -> dict[tuple[str, int, int, int], Prediction]:
        return {}


def write_predictor(path: Path | str, predictor: Predictor, record: Record) -> None:
    """Write a predictor as a JSON artifact."""
    content = asdict(predictor)
    write_json(path, PREDICTOR_KIND, content, record)


def read_predictor(path: Path | str) -> Predictor:
    """Read a predictor written by `write_predictor`.

    Raises:
        ArtifactError: the file is missing, is no predictor, or names a feature this version does not have.
    """
    content = read_json(path, PREDICTOR_KIND)
    try:
        kinds = {
            kind: KernelModel(
                family=entry["family"],
                coefficients=entry["coefficients"],
                in_channels=_pair(entry["in_channels"]),
                out_channels=_pair(entry["out_channels"]),
                height=_pair(entry["height"]),
                fitted_kernels=entry["fitted_kernels"],
            )
            for kind, entry in content["kinds"].items()
        }
        for kind, model in kinds.items():
            if unknown := set(model.coefficients) - set(family_features(model.family)):
                raise ArtifactError(
                    f"{path} has the unknown feature {min(unknown)!r} in {kind}: fit it again with this version."
                )
        return Predictor(content["device"], content["overhead_ms"], kinds, content["errors"], content["notes"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is not a valid latency predictor ({error!r}): fit it again.") from error


def _pair(values: Sequence[int]) -> tuple[int, int]:
    low, high = values
    return low, high
