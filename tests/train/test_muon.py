"""Orthogonal steps of matrices, SGD's of all else."""

import pytest
import torch
from torch import nn

from spaceevo.train.muon import Muon, orthogonal


def made(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_singular_values_come_near_one(shape):
    left, values, right = torch.linalg.svd(made(*shape), full_matrices=False)
    matrix = left * torch.linspace(0.05, 3, len(values)) @ right  # sixty times apart
    found = orthogonal(matrix)
    aligned = left.t() @ found @ right.t()  # diagonal: the same directions
    assert ((aligned.diagonal() > 0.6) & (aligned.diagonal() < 1.3)).all()
    torch.testing.assert_close(aligned, aligned.diagonal().diag(), atol=1e-4, rtol=0)


def test_zeros_stay_zeros():
    assert orthogonal(torch.zeros(4, 6)).eq(0).all()


def stepped(weight, gradients):
    weight = nn.Parameter(weight.clone())
    optimizer = Muon({"params": [weight]}, {"params": []}, lr=0.5, momentum=0.9, matrix_share=0.1)
    for value in gradients:
        weight.grad = value.clone(memory_format=torch.preserve_format)
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("shape", [(6, 2, 3, 3), (40, 2, 3, 3), (6, 10)])
def test_the_steps_of_a_matrix(shape):
    """Of the momentum and what comes next of it; larger for tall ones, as each of their columns has to move as far."""
    weight, first, second = made(*shape), made(*shape, seed=1), made(*shape, seed=2)
    found = stepped(weight, [first, second])
    average, expected = torch.zeros(shape), weight.clone()
    for gradient in (first, second):
        average = 0.9 * average + 0.1 * gradient
        ahead = (0.1 * gradient + 0.9 * average).flatten(1)
        step = 0.1 * max(1, ahead.shape[0] / ahead.shape[1]) ** 0.5 * orthogonal(ahead).reshape(shape)
        expected -= 0.5 * step
    torch.testing.assert_close(found, expected)


def test_each_filter_of_a_depthwise_convolution_goes_as_far():
    weight, gradient = made(6, 1, 3, 3), made(6, 1, 3, 3, seed=1) * 10.0 ** torch.arange(6).reshape(6, 1, 1, 1)
    gradient[2] = 0
    step = (weight - stepped(weight, [gradient])).flatten(1)
    directions = gradient.flatten(1) / gradient.flatten(1).norm(dim=1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(step, 0.5 * 0.1 * directions, atol=1e-6, rtol=1e-4)


def test_weights_decay_apart_from_their_gradients():
    weight, gradient = made(4, 3), made(4, 3, seed=1)
    decayed = nn.Parameter(weight.clone())
    optimizer = Muon({"params": [decayed], "weight_decay": 0.3}, {"params": []}, 0.5, momentum=0.9, matrix_share=0.1)
    decayed.grad = gradient.clone()
    optimizer.step()
    torch.testing.assert_close(decayed.detach(), stepped(weight, [gradient]) - 0.5 * 0.3 * weight)


def test_the_layout_of_a_gradient_does_not_matter():
    weight, gradient = made(6, 4, 3, 3), made(6, 4, 3, 3, seed=1)
    last = gradient.contiguous(memory_format=torch.channels_last)
    expected = stepped(weight, [gradient])
    torch.testing.assert_close(stepped(weight, [last]), expected)


def test_all_else_takes_steps_of_sgd():
    ours, theirs, unused = nn.Parameter(made(5)), nn.Parameter(made(5)), nn.Parameter(made(5))
    others = {"params": [ours, unused], "weight_decay": 0.1}
    matrix = nn.Parameter(made(2, 3))  # has no gradient, as `unused`
    optimizer = Muon({"params": [matrix]}, others, lr=0.5, momentum=0.9, matrix_share=0.1)
    plain = torch.optim.SGD([theirs], 0.5, 0.9, nesterov=True, weight_decay=0.1)
    for step in range(3):
        ours.grad, theirs.grad = made(5, seed=step), made(5, seed=step)
        optimizer.step()
        plain.step()
    assert torch.equal(ours, theirs)
    assert torch.equal(unused, made(5)) and torch.equal(matrix, made(2, 3))
