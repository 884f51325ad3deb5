"""Initial grids: minimise the mean squared quantization error over a few batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from spaceevo.quant.grids import LEVELS
from spaceevo.quant.quantizers import ActivationQuantizer, Precision, WeightQuantizer

SAMPLES_PER_CALL = 4096
CLIP_RATIOS = tuple(1.0 - 0.04 * i for i in range(16))  # of the observed range, on either side


@runtime_checkable
class QuantizesWeights(Protocol):
    """A module with weights of its own that it quantizes: elastic or plain."""

    def quantized_weights(self) -> Iterable[tuple[WeightQuantizer, Tensor]]: ...


class Observer:
    """A precision that leaves tensors as they are and keeps a sample of what each activation quantizer would see."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.samples: dict[ActivationQuantizer, list[Tensor]] = {}
        self.extremes: dict[ActivationQuantizer, tuple[float, float]] = {}

    def __call__(self, quantizer: nn.Module, x: Tensor) -> Tensor:
        if isinstance(quantizer, ActivationQuantizer):
            flat = x.detach().flatten()
            low, high = self.extremes.get(quantizer, (0.0, 0.0))
            self.extremes[quantizer] = (min(low, float(flat.min())), max(high, float(flat.max())))
            index = torch.randint(flat.numel(), (min(SAMPLES_PER_CALL, flat.numel()),), generator=self.generator)
            self.samples.setdefault(quantizer, []).append(flat[index.to(flat.device)])
        return x

    def best_range(self, quantizer: ActivationQuantizer) -> tuple[float, float]:
        """The range of least error for what an observed quantizer saw."""
        return best_range(torch.cat(self.samples[quantizer]), *self.extremes[quantizer])

    def error(self, quantizer: ActivationQuantizer, low: float, high: float) -> float:
        """Mean squared error that the grid on [low, high] makes of what an observed quantizer saw."""
        return _error(torch.cat(self.samples[quantizer]), low, high)


@torch.no_grad()
def calibrate(module: nn.Module, runs: Iterable[Callable[[Precision], object]], generator: torch.Generator) -> None:
    """Set the grids of all quantizers of `module`: weights from their statistics, activations from `runs`.

    Args:
        module: the network or stage whose quantizers are set.
        runs: each runs the module once on one batch, with the precision it is given.
        generator: draws which activations are kept.
    """
    for submodule in module.modules():
        if isinstance(submodule, QuantizesWeights):
            for quantizer, weight in submodule.quantized_weights():
                quantizer.set_from(weight)
    observer = Observer(generator)
    for run in runs:
        run(observer)
    for activation in observer.samples:
        activation.set_range(*observer.best_range(activation))


def best_range(samples: Tensor, low: float, high: float) -> tuple[float, float]:
    """The clipping range within [low, high] whose 255-step grid has the least mean squared error on `samples`.

    Either end is moved in towards zero on its own, best end first kept: a coordinate search over `CLIP_RATIOS`.
    """
    best = (low, high)
    for end in (1, 0):
        candidates = [(best[0] * ratio, best[1]) if end == 0 else (best[0], best[1] * ratio) for ratio in CLIP_RATIOS]
        best = min(candidates, key=lambda candidate: _error(samples, *candidate))
    return best


def _error(samples: Tensor, low: float, high: float) -> float:
    scale = max((high - low) / LEVELS, 1e-12)
    zero_point = round(-low / scale)
    quantized = torch.fake_quantize_per_tensor_affine(samples, scale, min(max(zero_point, 0), LEVELS), 0, LEVELS)
    return float((quantized - samples).square().mean())
