"""Slices of parameters, and their gradients.

An elastic network uses most of its parameters in part. To autograd, a slice is an operation, whose gradient is one of
the whole parameter: zeros and a copy for every dimension that is cut, and then a sum, thousands of times in a step.
While `gathered_slices` lasts, slices are variables of their own instead, whose gradients are added where they belong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn

Index = tuple[slice, ...]


class Slice(NamedTuple):
    """A part of a parameter, and the variable that stands for it."""

    parameter: nn.Parameter
    where: Index
    variable: Tensor

    def add_gradient(self, gradient: Tensor) -> None:
        """Add that of the variable to the parameter's, which is zero elsewhere."""
        if self.parameter.grad is None:
            self.parameter.grad = torch.zeros_like(self.parameter)
        self.parameter.grad[self.where].add_(gradient)


_gathered: ContextVar[list[Slice] | None] = ContextVar("gathered", default=None)


@contextmanager
def gathered_slices() -> Iterator[list[Slice]]:
    """The slices that this thread makes while it lasts, of parameters that are learned."""
    slices: list[Slice] = []
    token = _gathered.set(slices)
    try:
        yield slices
    finally:
        _gathered.reset(token)


def sliced(parameter: nn.Parameter, where: Index) -> Tensor:
    """`parameter[where]`, contiguous."""
    view = parameter.detach()[where]
    if view.shape == parameter.shape:
        return parameter.contiguous()
    slices = _gathered.get()
    if slices is None or not (parameter.requires_grad and torch.is_grad_enabled()):
        return parameter[where].contiguous()
    variable = view.contiguous().requires_grad_()
    slices.append(Slice(parameter, where, variable))
    return variable
