"""BatchNorm and what comes after it in one, against torch's BatchNorm and then the rest: milliseconds on one thread.

It is done for memory (benchmarks/supernet_step.py), and is to take no longer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from common import Check, print_checks, print_table, time_interleaved, write_result
from torch import Tensor

from spaceevo.nn.norm import norm_and_quantize, norm_and_rectify
from spaceevo.quant.quantizers import ActivationQuantizer
from spaceevo.scripting import run
from spaceevo.train.memory import keep_freed_memory

SHAPES = ((8, 32, 112, 112), (8, 192, 112, 112), (8, 384, 56, 56), (8, 640, 28, 28), (8, 1408, 14, 14))  # [N, C, H, W]
EPS = 1e-5
LEAST_RATIO = 0.95


@dataclass(frozen=True)
class Result:
    """One tensor, forward and back, milliseconds."""

    shape: tuple[int, ...]
    rectified_ms: float
    rectified_torch_ms: float
    quantized_ms: float
    quantized_apart_ms: float


def main(rounds: int = 7, round_s: float = 0.1) -> None:
    """Compare on several shapes, channels last, with relu6 and with its quantizer."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    results = [compare(shape, rounds, round_s) for shape in SHAPES]
    print_table(
        "BatchNorm and relu6 or its quantizer, forward and back on one thread, ms (ratio: apart / in one)",
        ("tensor", "relu6", "apart", "ratio", "quantizer", "apart", "ratio"),
        [
            (
                "x".join(map(str, r.shape)),
                f"{r.rectified_ms:.2f}", f"{r.rectified_torch_ms:.2f}", f"{r.rectified_torch_ms / r.rectified_ms:.2f}",
                f"{r.quantized_ms:.2f}", f"{r.quantized_apart_ms:.2f}", f"{r.quantized_apart_ms / r.quantized_ms:.2f}",
            )
            for r in results
        ],
    )  # fmt: skip
    ratios = {
        "relu6": sum(r.rectified_torch_ms for r in results) / sum(r.rectified_ms for r in results),
        "its quantizer": sum(r.quantized_apart_ms for r in results) / sum(r.quantized_ms for r in results),
    }
    checks = [
        Check(f"{name}, apart / in one: at least {LEAST_RATIO}", f"{ratio:.2f}", ratio >= LEAST_RATIO)
        for name, ratio in ratios.items()
    ]
    print_checks(checks)
    write_result("norm", {"threads": 1, "rounds": rounds, "results": [asdict(r) for r in results]}, checks)


def compare(shape: tuple[int, ...], rounds: int, round_s: float) -> Result:
    """Time all four on one tensor, in one interleaved run."""
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last) for _ in range(2))
    leaves = [x.requires_grad_(), torch.ones(shape[1], requires_grad=True), torch.zeros(shape[1], requires_grad=True)]
    quantizer = ActivationQuantizer("relu6")

    def both(function: Callable[..., Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(*leaves), leaves, grad)

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=EPS)

    times = time_interleaved(
        {
            "rectified": both(lambda *own: norm_and_rectify(own[0], own[1], own[2], EPS, "relu6")),
            "rectified_torch": both(lambda *own: F.relu6(norm(*own))),
            "quantized": both(lambda *own: norm_and_quantize(own[0], own[1], own[2], EPS, quantizer)),
            "quantized_apart": both(lambda *own: quantizer(norm(*own))),
        },
        rounds,
        round_s,
    )
    return Result(shape, times["rectified"], times["rectified_torch"], times["quantized"], times["quantized_apart"])


if __name__ == "__main__":
    run(main)
