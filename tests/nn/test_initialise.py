"""Initial weights: orthogonal filters of He's mean square, so that the first few of a narrow subnet do not overlap."""

import pytest
import torch
from torch import nn

from spaceevo.nn.initialise import initialise


def initialised(module: nn.Module, seed: int = 0) -> nn.Module:
    initialise(module, torch.Generator().manual_seed(seed))
    return module


@pytest.mark.parametrize(("filters", "inputs", "kernel"), [(16, 3, 3), (32, 16, 5), (64, 32, 1)])
def test_convolutions_are_orthogonal_with_the_mean_square_of_he(filters: int, inputs: int, kernel: int) -> None:
    conv = initialised(nn.Conv2d(inputs, filters, kernel))
    weights = conv.weight.detach().flatten(1).double()
    mean_square = 2.0 / (filters * kernel**2)
    assert weights.square().mean().item() == pytest.approx(mean_square, rel=1e-5)
    rows = weights if filters <= weights.shape[1] else weights.T
    products = rows @ rows.T
    square = mean_square * rows.shape[1]
    assert (products - square * torch.eye(len(rows))).abs().max().item() < 1e-5 * square


def test_the_filters_of_a_narrow_subnet_do_not_overlap() -> None:
    conv = initialised(nn.Conv2d(3, 16, 3))
    assert torch.linalg.cond(conv.weight.detach()[:8].flatten(1)).item() == pytest.approx(1.0, abs=1e-4)


def test_depthwise_ones_and_fully_connected_ones_are_normal_and_biases_zero() -> None:
    depthwise = initialised(nn.Conv2d(512, 512, 3, groups=512))
    linear = initialised(nn.Linear(256, 64))
    assert depthwise.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not depthwise.bias.any()
    assert not linear.bias.any()


def test_the_seed_decides() -> None:
    one, same, other = (initialised(nn.Conv2d(3, 16, 3), seed).weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
