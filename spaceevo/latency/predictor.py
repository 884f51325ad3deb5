"""The latency predictor: milliseconds of a network as the sum of its kernels, without running it.

    ms = overhead + Σ over kernels Σ_j θ_j φ_j(kernel),  θ ≥ 0

with the features φ of `spaceevo.latency.features`. The sum is exact in blocks: a subnet costs its overhead, its
blocks and its head, and each of these is computed once and remembered. Kernel-level prediction follows nn-Meter
(MobiSys 2021), with rising features in the place of its random forests: a wider block is never predicted faster.

Every prediction carries its confidence: a relative half-width. Those of kernels add up as independent errors do, in
quadrature; that of a whole network has one more part, for what no sum of blocks can know.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import hypot, log2, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spaceevo.artifacts import Record, read_json, write_json
from spaceevo.errors import ArtifactError
from spaceevo.latency.features import SIZES, Array, Terms, kernel_sizes, parse_feature
from spaceevo.latency.kernels import BOUNDARIES, Kernel, boundary_kernels, kernels
from spaceevo.nn.blocks import block_plan
from spaceevo.nn.network import head_plan
from spaceevo.nn.plan import Plan
from spaceevo.space import IMAGE_CHANNELS, BlockChoice, BlockType, Hyperspace, Space, StageChoice, Subnet

PREDICTOR_KIND = "latency_predictor"

MIXING = ("conv", "stem", "dense", "se")  # families whose outputs read all inputs

# Kinds that cost about the same, where a predictor was fitted to one of them alone: both gate a tensor by itself.
STAND_INS = {"hswish": "swish", "swish": "hswish"}


LARGEST_ERROR = 0.9  # of anything that has a prediction at all
UNKNOWN = 1.0  # error of a sum in which a kernel costs nothing because nothing is known of its kind
STAND_IN_ERROR = 0.5
WIDENING = 0.1  # error per doubling of a size beyond the fitted range


class Prediction(NamedTuple):
    """Predicted milliseconds.

    Attributes:
        latency_ms: milliseconds.
        extrapolated: whether a kernel lies outside what the predictor was fitted on.
        error: relative half-width of an interval about `latency_ms` that held 95 % of the cases it was tested on, and
            is wider beyond the fitted range; 1 where a kernel is of a kind that the predictor does not know.
    """

    latency_ms: float
    extrapolated: bool
    error: float = 0.0

    def plus(self, other: Prediction) -> Prediction:
        """The sum of two parts whose errors are independent."""
        return _total((self, other))


def _total(parts: Iterable[Prediction]) -> Prediction:
    """The sum of parts whose errors are independent."""
    milliseconds, square, extrapolated, unknown = 0.0, 0.0, False, False
    for latency_ms, beyond, error in parts:
        milliseconds += latency_ms
        square += (latency_ms * error) ** 2
        extrapolated |= beyond
        unknown |= error >= UNKNOWN
    error = UNKNOWN if unknown else sqrt(square) / milliseconds if milliseconds > 0 else 0.0
    return Prediction(milliseconds, extrapolated, error)


@dataclass(frozen=True)
class KernelModel:
    """What is known of one kind of kernel.

    Attributes:
        family: whose features it uses, as a rule its own.
        coefficients: milliseconds per unit of each feature, by name; only those above 0.
        in_channels, out_channels, height: smallest and largest seen in the fit.
        fitted_kernels: number of different kernels in the fit.
        error: relative half-width of a kernel within these sizes.
    """

    family: str
    coefficients: Mapping[str, float]
    in_channels: tuple[int, int]
    out_channels: tuple[int, int]
    height: tuple[int, int]
    fitted_kernels: int
    error: float = 0.0

    def latency_ms(self, many: Sequence[Kernel]) -> Array:
        """float64 [kernels]: the features of each kernel times their coefficients.

        A kernel of more work than the largest of the fit takes at least as much longer than that as it has more work.
        """
        terms, values = self._evaluated
        fitted = np.asarray(terms(many) @ values)
        if self.in_channels[1] == 0 or not len(many):  # borrowed from another kind: nothing is known of its sizes
            return fitted
        beyond = self._work(many) / self._work([self._largest(many[0])])
        if not (beyond > 1.0).any():
            return fitted
        return np.where(beyond > 1.0, np.maximum(fitted, beyond * self._largest_ms(many[0])), fitted)

    def _largest(self, like: Kernel) -> Kernel:
        """A kernel with the largest sizes of the fit."""
        sizes = (self.in_channels[1], self.out_channels[1], self.height[1])
        return Kernel(self.family, *sizes, like.kernel_size, like.stride)

    def _largest_ms(self, like: Kernel) -> float:
        terms, values = self._evaluated
        return float((terms([self._largest(like)]) @ values)[0])

    def _work(self, many: Sequence[Kernel]) -> Array:
        """What time grows with in the long run: multiply-accumulates, or the map where channels stay apart."""
        return kernel_sizes(many)[:, SIZES.index("macs" if self.family in MIXING else "in_bytes")]

    @cached_property
    def _evaluated(self) -> tuple[Terms, Array]:
        return Terms(map(parse_feature, self.coefficients)), np.array(list(self.coefficients.values()))

    def error_of(self, kernel: Kernel) -> float:
        """Relative half-width for one kernel: `error`, wider with every doubling beyond the sizes seen."""
        sizes = (kernel.in_channels, kernel.out_channels, kernel.height)
        ranges = (self.in_channels, self.out_channels, self.height)
        beyond = sum(
            max(log2(low / size), log2(size / high), 0.0) for size, (low, high) in zip(sizes, ranges, strict=True)
        )
        return min(self.error * (1.0 + beyond) + WIDENING * beyond, LARGEST_ERROR)

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
        network_error: relative half-width that a whole network has beside those of its kernels.
        machine: fingerprint of what it was measured on (`spaceevo.latency.machine`); empty for a table.
    """

    device: str
    overhead_ms: float
    kinds: Mapping[str, KernelModel]
    errors: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""
    network_error: float = 0.0
    machine: Mapping[str, Any] = field(default_factory=dict)

    def predict(self, plan: Plan, height: int) -> Prediction:
        """Latency of a plan run as a model of its own on a `height` × `height` map (a picture, or a block's input)."""
        model = (*kernels(plan, height), *boundary_kernels(plan, height))
        return self._network((Prediction(self.overhead_ms, False), self._sum(model)))

    def predict_subnet(self, space: Space, subnet: Subnet, num_classes: int) -> Prediction:
        """Latency of a whole network; equals `predict` of its plan."""
        parts = [Prediction(self.overhead_ms, False), self.boundary_ms(subnet.resolution, num_classes)]
        in_channels, height = IMAGE_CHANNELS, subnet.resolution
        for key in _block_keys(space, subnet):
            known = self._blocks.get(key)
            parts.append(self.block_ms(*key) if known is None else known)
            in_channels = key[2].width
            height = (key[4] - 1) // key[3] + 1
        parts.append(self.head_ms(space.hyperspace, in_channels, height, num_classes))
        return self._network(parts)

    def predict_subnets(self, space: Space, subnets: Collection[Subnet], num_classes: int) -> list[Prediction]:
        """Latency of many networks of one space: the kernels of all blocks that are new are evaluated at once."""
        keys = {key for subnet in subnets for key in _block_keys(space, subnet) if key not in self._blocks}
        blocks = {key: _block_kernels(*key) for key in keys}
        self._evaluate({kernel for parts in blocks.values() for kernel in parts})
        for key, parts in blocks.items():
            self._blocks[key] = _total([self._kernels[kernel] for kernel in parts])
        return [self.predict_subnet(space, subnet, num_classes) for subnet in subnets]

    def _network(self, parts: Iterable[Prediction]) -> Prediction:
        total = _total(parts)
        if total.error >= UNKNOWN:
            return total
        return total._replace(error=min(hypot(total.error, self.network_error), LARGEST_ERROR))

    def block_ms(
        self, block_type: BlockType, in_channels: int, choice: BlockChoice, stride: int, height: int
    ) -> Prediction:
        """What one block adds to a model; `stride` is the stage's in its first block, else 1; remembered."""
        key = (block_type, in_channels, choice, stride, height)
        known = self._blocks.get(key)
        if known is None:
            known = self._blocks[key] = self._sum(_block_kernels(*key))
        return known

    def stage_ms(
        self, block_type: BlockType, in_channels: int, choice: StageChoice, stride: int, height: int
    ) -> Prediction:
        """What the blocks of one stage add to a model: the sum of its blocks."""
        parts = []
        for block in choice:
            parts.append(self.block_ms(block_type, in_channels, block, stride, height))
            in_channels, height, stride = block.width, (height - 1) // stride + 1, 1
        return _total(parts)

    def head_ms(self, hyperspace: Hyperspace, in_channels: int, height: int, num_classes: int) -> Prediction:
        """What the stages after the body add to a model; remembered."""
        key = (hyperspace.name, in_channels, height, num_classes)
        known = self._heads.get(key)
        if known is None:
            known = self._heads[key] = self._sum(kernels(head_plan(hyperspace, in_channels, num_classes), height))
        return known

    def boundary_ms(self, resolution: int, num_classes: int) -> Prediction:
        """What a model pays for the picture it reads and the logits it returns."""
        key = (resolution, num_classes)
        known = self._boundaries.get(key)
        if known is None:
            picture = Kernel("input", IMAGE_CHANNELS, IMAGE_CHANNELS, resolution)
            logits = Kernel("output", num_classes, num_classes, 1)
            known = self._boundaries[key] = self._sum((picture, logits))
        return known

    def _sum(self, parts: Sequence[Kernel]) -> Prediction:
        self._evaluate(set(parts))
        return _total(self._kernels[kernel] for kernel in parts)

    def _evaluate(self, many: Iterable[Kernel]) -> None:
        """Remember the predictions of kernels, those of one kind computed at once."""
        new: dict[str, list[Kernel]] = {}
        for kernel in many:
            if kernel not in self._kernels:
                new.setdefault(kernel.kind, []).append(kernel)
        for kind, same in new.items():
            model, stand_in = self.kinds.get(kind), self.kinds.get(STAND_INS.get(kind, ""))
            if model is not None:
                for kernel, ms in zip(same, model.latency_ms(same).tolist(), strict=True):
                    self._kernels[kernel] = Prediction(ms, not model.covers(kernel), model.error_of(kernel))
            elif kind in BOUNDARIES:  # a table of blocks says nothing of a model's ends
                self._kernels.update(dict.fromkeys(same, Prediction(0.0, False)))
            elif stand_in is not None:
                for kernel, ms in zip(same, stand_in.latency_ms(same).tolist(), strict=True):
                    error = max(stand_in.error_of(kernel), STAND_IN_ERROR)
                    self._kernels[kernel] = Prediction(ms, True, error)
            else:
                self._kernels.update(dict.fromkeys(same, Prediction(0.0, True, UNKNOWN)))

    @cached_property
    def _kernels(self) -> dict[Kernel, Prediction]:
        return {}

    @cached_property
    def _blocks(self) -> dict[_BlockKey, Prediction]:
        return {}

    @cached_property
    def _heads(self) -> dict[tuple[str, int, int, int], Prediction]:
        return {}

    @cached_property
    def _boundaries(self) -> dict[tuple[int, int], Prediction]:
        return {}


_BlockKey = tuple[BlockType, int, BlockChoice, int, int]  # the arguments of `Predictor.block_ms`


def _block_keys(space: Space, subnet: Subnet) -> list[_BlockKey]:
    keys = []
    in_channels, height = IMAGE_CHANNELS, subnet.resolution
    for options, choice in zip(space.options, subnet.stages, strict=True):
        stride = options.stage.stride
        for block in choice:
            keys.append((options.block_type, in_channels, block, stride, height))
            in_channels, height, stride = block.width, (height - 1) // stride + 1, 1
    return keys


def _block_kernels(
    block_type: BlockType, in_channels: int, choice: BlockChoice, stride: int, height: int
) -> tuple[Kernel, ...]:
    return kernels(block_plan(block_type.block, block_type.activation, in_channels, choice, stride), height)


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
                error=entry.get("error", UNKNOWN),  # files of before predictors told their confidence
            )
            for kind, entry in content["kinds"].items()
        }
        for kind, model in kinds.items():
            for name in model.coefficients:
                try:
                    parse_feature(name)
                except ValueError as error:
                    raise ArtifactError(
                        f"{path} has the unknown feature {name!r} in {kind}: fit it again with this version."
                    ) from error
        return Predictor(
            content["device"],
            content["overhead_ms"],
            kinds,
            content["errors"],
            content["notes"],
            content.get("network_error", 0.0),
            content.get("machine", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is not a valid latency predictor ({error!r}): fit it again.") from error


def _pair(values: Sequence[int]) -> tuple[int, int]:
    low, high = values
    return low, high
