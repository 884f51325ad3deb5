"""Convolutions on channels-last pictures on a CPU, forward and back, against torch's: milliseconds on one thread.

Of 1x1, and depthwise ones of 5x5 and 7x7, in shapes of the embedded default and of a network for photographs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from common import Check, print_checks, print_table, time_interleaved, write_result
from torch import Tensor

from spaceevo.nn.convolution import conv2d
from spaceevo.scripting import run


@dataclass(frozen=True)
class Case:
    """Pictures, channels in and out, side of the picture, kernel, stride."""

    images: int
    channels: int
    out_channels: int
    side: int
    kernel_size: int
    stride: int = 1

    @property
    def groups(self) -> int:
        return 1 if self.kernel_size == 1 else self.channels


CASES = (
    Case(64, 16, 96, 16, 1),
    Case(64, 40, 224, 4, 1),
    Case(64, 64, 80, 1, 1),
    Case(8, 48, 384, 56, 1),
    Case(8, 2432, 304, 7, 1),
    Case(64, 96, 96, 16, 5),
    Case(64, 48, 48, 8, 5, 2),
    Case(64, 224, 224, 4, 5),
    Case(8, 384, 384, 56, 5),
    Case(8, 256, 256, 112, 5, 2),
    Case(8, 384, 384, 28, 7),
    Case(8, 2432, 2432, 7, 5),
)


def main(rounds: int = 9, round_s: float = 0.02) -> None:
    """Compare in turns; the largest difference is of the weights' gradient, relative to its largest value."""
    torch.set_num_threads(1)
    rows = [asdict(case) | compare(case, rounds, round_s) for case in CASES]
    print_table(
        "A convolution forward and back on one thread, ms (ratio: torch / spaceevo)",
        ("images", "channels", "side", "kernel", "stride", "spaceevo", "torch", "ratio", "difference"),
        [
            (
                str(row["images"]), f"{row['channels']} to {row['out_channels']}", str(row["side"]),
                str(row["kernel_size"]), str(row["stride"]), f"{row['own_ms']:.2f}", f"{row['torch_ms']:.2f}",
                f"{row['ratio']:.1f}", f"{row['difference']:.0e}",
            )
            for row in rows
        ],
    )  # fmt: skip
    least = {
        kind: min(row["ratio"] for row in rows if (row["kernel_size"] == 1) == (kind == "1x1"))
        for kind in ("1x1", "depthwise")
    }
    checks = [
        Check(f"{kind}: never slower than torch's by a tenth", f"{ratio:.2f}", ratio > 0.9)
        for kind, ratio in least.items()
    ]
    print_checks(checks)
    write_result("convolution", {"threads": 1, "rounds": rounds, "results": rows}, checks)


def compare(case: Case, rounds: int, round_s: float) -> dict[str, float]:
    """Milliseconds of both, their ratio, and the largest difference of the gradient of the weights."""
    generator = torch.Generator().manual_seed(0)

    def pictures(channels: int, side: int) -> Tensor:
        values = torch.randn(case.images, channels, side, side, generator=generator)
        return values.contiguous(memory_format=torch.channels_last)

    x = pictures(case.channels, case.side).requires_grad_()
    shape = (case.out_channels, case.channels // case.groups, case.kernel_size, case.kernel_size)
    weight = torch.randn(shape, generator=generator, requires_grad=True)
    grad = pictures(case.out_channels, -(-case.side // case.stride))

    def own() -> tuple[Tensor, ...]:
        return torch.autograd.grad(conv2d(x, weight, None, case.stride, case.groups), (x, weight), grad)

    def torchs() -> tuple[Tensor, ...]:
        y = F.conv2d(x, weight, None, case.stride, case.kernel_size // 2, groups=case.groups)
        return torch.autograd.grad(y, (x, weight), grad)

    functions: dict[str, Callable[[], object]] = {"own": own, "torch": torchs}
    times = time_interleaved(functions, rounds, round_s)
    difference = (own()[1] - torchs()[1]).abs().max() / torchs()[1].abs().max()
    return {
        "own_ms": times["own"],
        "torch_ms": times["torch"],
        "ratio": times["torch"] / times["own"],
        "difference": float(difference),
    }


if __name__ == "__main__":
    run(main)
