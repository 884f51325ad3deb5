"""spaceevo's fake quantization against torch's learnable one: milliseconds on one thread, and differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from common import Check, print_checks, print_table, time_interleaved, write_result
from torch import Tensor

from spaceevo.quant.fake_quantize import fake_quantize
from spaceevo.quant.grids import LEVELS
from spaceevo.scripting import run

# Activations of the supernet of the embedded default, [N, C, H, W], and one of a network for ImageNet.
SHAPES = ((64, 16, 16, 16), (64, 96, 16, 16), (64, 48, 8, 8), (64, 224, 4, 4), (64, 192, 1, 1), (16, 64, 56, 56))
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
SCALE, ZERO_POINT = 0.021, 117.3
TOLERANCE = 1e-6  # of values, whose step is SCALE: none may be rounded another way


@dataclass(frozen=True)
class Result:
    """One tensor; milliseconds, and the largest differences of values and of gradients relative to their largest."""

    shape: tuple[int, ...]
    format: str
    forward_ms: float
    forward_torch_ms: float
    both_ms: float
    both_torch_ms: float
    value_difference: float
    gradient_difference: float
    scale_gradient_difference: float

    @property
    def forward_ratio(self) -> float:
        return self.forward_torch_ms / self.forward_ms

    @property
    def both_ratio(self) -> float:
        return self.both_torch_ms / self.both_ms


def main(rounds: int = 15, round_s: float = 0.02) -> None:
    """Compare on several shapes, in both memory formats."""
    torch.set_num_threads(1)
    results = [compare(shape, name, rounds, round_s) for shape in SHAPES for name in FORMATS]
    print_table(
        "Fake quantization on one thread, ms (ratio: torch / spaceevo)",
        ("tensor", "format", "forward", "torch", "ratio", "forward+backward", "torch", "ratio", "max difference"),
        [
            (
                "x".join(map(str, r.shape)), r.format,
                f"{r.forward_ms:.3f}", f"{r.forward_torch_ms:.3f}", f"{r.forward_ratio:.1f}",
                f"{r.both_ms:.3f}", f"{r.both_torch_ms:.3f}", f"{r.both_ratio:.1f}",
                f"{r.value_difference:.1e}",
            )
            for r in results
        ],
    )  # fmt: skip
    together = sum(r.both_torch_ms for r in results) / sum(r.both_ms for r in results)
    largest = max(r.value_difference for r in results)
    checks = [
        Check("forward and backward of all these together faster than torch", f"{together:.2f} times", together > 1),
        Check(f"values within {TOLERANCE:g} of torch's", f"{largest:.1e}", largest <= TOLERANCE),
    ]
    print_checks(checks)
    rows = [asdict(r) | {"forward_ratio": r.forward_ratio, "both_ratio": r.both_ratio} for r in results]
    write_result("fake_quantize", {"threads": 1, "rounds": rounds, "results": rows}, checks)


def compare(shape: tuple[int, ...], memory_format: str, rounds: int, round_s: float) -> Result:
    """Time both on one tensor, in one interleaved run."""
    generator = torch.Generator().manual_seed(0)
    x, grad = (
        torch.randn(shape, generator=generator).contiguous(memory_format=FORMATS[memory_format]) for _ in range(2)
    )
    # The range clips some three percent of a normal distribution, as learned ranges do.
    x, factor = x * 1.3, 1 / math.sqrt(x[0].numel() * LEVELS)
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()

    def ours(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        return fake_quantize(x, scale, zero_point, 0, LEVELS, factor)

    def torchs(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero_point, 0, LEVELS, factor)

    own, theirs = _parameters(()), _parameters((1,))
    times = time_interleaved(
        {
            "forward": _forward(ours, x, own),
            "forward_torch": _forward(torchs, x, theirs),
            "both": _both(ours, leaf, own, grad),
            "both_torch": _both(torchs, leaf, theirs, grad),
        },
        rounds,
        round_s,
    )
    y, y_torch = ours(leaf, *own), torchs(leaf, *theirs)
    inputs = torch.autograd.grad(y, (leaf, *own), grad), torch.autograd.grad(y_torch, (leaf, *theirs), grad)
    differences = [_relative(a, b) for a, b in zip(*inputs, strict=True)]
    return Result(
        shape,
        memory_format,
        times["forward"],
        times["forward_torch"],
        times["both"],
        times["both_torch"],
        float((y - y_torch).detach().abs().max()),
        differences[0],
        differences[1],
    )


def _parameters(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return torch.full(shape, SCALE, requires_grad=True), torch.full(shape, ZERO_POINT, requires_grad=True)


def _forward(
    function: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, parameters: tuple[Tensor, Tensor]
) -> Callable[[], object]:
    scale, zero_point = (parameter.detach() for parameter in parameters)
    return lambda: function(x, scale, zero_point)


def _both(
    function: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    parameters: tuple[Tensor, Tensor],
    grad: Tensor,
) -> Callable[[], object]:
    return lambda: torch.autograd.grad(function(x, *parameters), (x, *parameters), grad)


def _relative(a: Tensor, b: Tensor) -> float:
    """The largest difference over the largest magnitude."""
    return float((a.reshape(b.shape) - b).abs().max() / b.abs().max())


if __name__ == "__main__":
    run(main)
