"""Slices are those of indexing, and so are their gradients, gathered or not."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from spaceevo.slices import gathered_slices, sliced

CORNER = (slice(3), slice(2), slice(1, 4), slice(1, 4))


@pytest.fixture
def weight():
    return nn.Parameter(torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)))


def loss(*slices):
    return sum((values**2).sum() * (2 + number) for number, values in enumerate(slices))


@pytest.mark.parametrize("gradient_there", [False, True])
def test_gradients_are_added_where_they_belong(weight, gradient_there):
    whole, other = (slice(4), slice(3), slice(5), slice(5)), (slice(2), slice(3), slice(5), slice(5))
    before = torch.ones_like(weight) if gradient_there else None
    (expected,) = torch.autograd.grad(loss(weight[CORNER], weight[other], weight[whole]), weight)
    weight.grad = before
    with gathered_slices() as slices:
        found = [sliced(weight, where) for where in (CORNER, other, whole)]
    assert [part.is_contiguous() for part in found] == [True] * 3
    assert [one.where for one in slices] == [CORNER, other]  # the whole is the parameter itself
    of_whole, *gradients = torch.autograd.grad(loss(*found), [weight, *(one.variable for one in slices)])
    for one, gradient in zip(slices, gradients, strict=True):
        one.add_gradient(gradient)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad + of_whole, expected + (1 if gradient_there else 0))


def test_elsewhere_a_slice_is_an_operation(weight):
    part = sliced(weight, CORNER)
    assert torch.equal(part, weight[CORNER]) and part.grad_fn is not None


def test_what_is_not_learned_is_not_gathered(weight):
    with gathered_slices() as slices:
        with torch.no_grad():
            assert torch.equal(sliced(weight, CORNER), weight[CORNER])
        sliced(weight.requires_grad_(False), CORNER)
    assert slices == []


def test_every_thread_gathers_its_own(weight):
    with gathered_slices() as slices, ThreadPoolExecutor(1) as other:
        assert other.submit(sliced, weight, CORNER).result().grad_fn is not None
    assert slices == []
