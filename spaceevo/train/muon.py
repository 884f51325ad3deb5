"""SGD whose steps of weight matrices are orthogonal (Muon, Jordan et al. 2024).

A step of gradients goes mostly along what the largest subnet, and the most of the random ones, ask of a weight. Made
orthogonal, it goes as far in all other directions, so that what few subnets use is learned as fast.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = 3.4445, -4.775, 2.0315  # of the quintic polynomial that brings singular values near one
_ITERATIONS = 5


class Muon(torch.optim.SGD):
    """SGD with Nesterov's momentum; the steps of its matrices have singular values about one before the rate.

    In float32, where torch's own `Muon` rounds to bfloat16, which few CPUs compute with, and takes no convolutions.
    Gradients of a matrix set the direction of its steps alone: small ones, too, make steps of full length.

    A depthwise convolution is as many matrices as it has channels, each of one row: its filters' steps are of one
    length each. By SGD some filters would hardly move, and die of weight decay, and which ones would be luck.

    Args:
        matrices: group of the weights of at least two dimensions, the first against all others.
        others: group of all other parameters.
        matrix_share: of the learning rate, for matrices.
    """

    def __init__(
        self,
        matrices: dict[str, Any],
        others: dict[str, Any],
        lr: float,
        momentum: float,
        matrix_share: float,
    ) -> None:
        plain = {"momentum": 0.0, "nesterov": False}
        own = {"matrix_momentum": momentum, "matrix_share": matrix_share}
        super().__init__([matrices | plain | own, others], lr=lr, momentum=momentum, nesterov=True)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step; the gradients of matrices are changed."""
        group = self.param_groups[0]
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            average = state["momentum_buffer"].lerp_(weight.grad, 1 - group["matrix_momentum"])
            ahead = weight.grad.lerp(average, group["matrix_momentum"]).flatten(1)
            step = group["matrix_share"] * _direction(ahead, depthwise=weight.shape[1] == 1)
            weight.grad = step.reshape(weight.shape)
        super().step()


def _direction(matrix: Tensor, depthwise: bool) -> Tensor:
    """Of a step along a matrix, or along each of the rows of a depthwise convolution."""
    if depthwise:
        return nn.functional.normalize(matrix)
    rows, columns = matrix.shape
    return orthogonal(matrix) * math.sqrt(max(1.0, rows / columns))


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with its singular values brought between about 0.7 and 1.2.

    Those below 1/700 of the Frobenius norm come to less, at most 485 times their share of it.

    Each iteration takes a polynomial of X Xᵀ times X. So they are done on X Xᵀ alone, and what they come to is applied
    to X at last: convolutions have far more columns than rows.

    Args:
        matrix: float32 [rows, columns].
    """
    a, b, c = _COEFFICIENTS
    x = matrix.t() if len(matrix) > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=1e-7)
    squares, product = x @ x.t(), torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(_ITERATIONS):
        factor = torch.addmm(squares, squares, squares, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product, squares = factor @ product, factor @ squares @ factor
    found: Tensor = product @ x
    return found.t() if len(matrix) > matrix.shape[1] else found
