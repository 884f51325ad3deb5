"""Losses against plain formulas: values, gradients, and the points where they are zero and one."""

import pytest
import torch
import torch.nn.functional as F

from spaceevo.train.losses import RATIO_CLIP, alpha_divergence, kl_divergence, noise_to_signal


def logits(seed: int, scale: float = 1.0, count: int = 16, classes: int = 10) -> torch.Tensor:
    return scale * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def divergences(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """D of α = 1 (Kullback and Leibler's) and of α = −1, each [N]: Σ p log(p / q) and (Σ q² / p − 1) / 2."""
    p, q = teacher.softmax(1), student.softmax(1)
    return (p * (p / q).log()).sum(1), ((q * q / p).sum(1) - 1) / 2


def unclipped(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Examples [N] whose probabilities are within the clip of each other."""
    ratio = teacher.softmax(1) / student.softmax(1)
    return (ratio < RATIO_CLIP).all(1) & (1 / ratio < RATIO_CLIP).all(1)


def test_it_is_zero_where_both_agree():
    student = logits(0).requires_grad_()
    value = alpha_divergence(student, student.detach() + 3)  # logits are free of a constant
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    assert student.grad.abs().max() < 1e-6


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0])
def test_it_is_positive_elsewhere(seed, scale):
    value = alpha_divergence(logits(seed, scale), logits(seed + 100, scale))
    assert value.isfinite() and float(value) > 0


@pytest.mark.parametrize("seed", range(5))
def test_without_clipping_it_is_the_larger_divergence_and_has_its_gradient(seed):
    student = logits(seed, 0.3, count=64).requires_grad_()
    teacher = logits(seed + 100, 0.3, count=64)
    assert unclipped(student, teacher).all()
    forward, backward = divergences(student, teacher)
    assert 0 < int((forward > backward).sum()) < 64  # both are chosen
    expected = torch.maximum(forward, backward).mean()
    value = alpha_divergence(student, teacher)
    assert torch.allclose(value, expected, rtol=1e-4)
    (found,) = torch.autograd.grad(value, student)
    (wanted,) = torch.autograd.grad(expected, student)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_where_the_first_is_chosen_it_has_the_gradient_of_the_cross_entropy():
    student, teacher = logits(0, 0.3, count=256), logits(100, 0.3, count=256)
    forward, backward = divergences(student, teacher)
    chosen = (forward > backward) & unclipped(student, teacher)
    assert chosen.sum() > 20
    student, teacher = student[chosen].requires_grad_(), teacher[chosen]
    (found,) = torch.autograd.grad(alpha_divergence(student, teacher), student)
    divergence = F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="batchmean", log_target=True)
    (expected,) = torch.autograd.grad(divergence, student)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(expected, (student.softmax(1) - teacher.softmax(1)) / len(student), atol=1e-6)


def test_clipping_bounds_the_gradient():
    """A student that is sure of what the teacher rules out has a finite gradient, and learns away from it."""
    student = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 40.0, 0.0]])
    value = alpha_divergence(student, teacher)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()
    assert student.grad.abs().max() <= RATIO_CLIP + 1


def test_the_value_of_a_batch_is_the_mean_of_its_examples():
    student, teacher = logits(0).requires_grad_(), logits(1)
    per_example = torch.stack([alpha_divergence(student[i : i + 1], teacher[i : i + 1]) for i in range(16)])
    assert torch.allclose(alpha_divergence(student, teacher), per_example.mean(), rtol=1e-5)


def test_kullback_and_leiblers_divergence_pulls_with_the_difference_of_probabilities():
    student, teacher = logits(0).requires_grad_(), logits(1)
    value = kl_divergence(student, teacher)
    (found,) = torch.autograd.grad(value, student)
    assert float(value.detach()) == pytest.approx(float(divergences(student, teacher)[0].mean().detach()), rel=1e-5)
    assert torch.allclose(found, (student.softmax(1) - teacher.softmax(1)) / len(student), atol=1e-6)


def maps(seed: int, *, mean: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + torch.randn(8, 5, 4, 4, generator=generator) * torch.rand(1, 5, 1, 1, generator=generator)


def test_the_channel_means_score_one():
    target = maps(0, mean=3.0)
    constant = target.mean((0, 2, 3), keepdim=True).expand_as(target)
    assert float(noise_to_signal(constant, target)) == pytest.approx(1, rel=1e-4)
    assert float(noise_to_signal(target, target)) == 0


def test_it_is_normalised_by_the_target_alone():
    """Growing both leaves the loss as it is; a student gains nothing by growing alone."""
    output, target = maps(0), maps(1)
    loss = float(noise_to_signal(output, target))
    assert float(noise_to_signal(10 * output, 10 * target)) == pytest.approx(loss, rel=1e-3)
    assert float(noise_to_signal(10 * output, target)) > loss


def test_a_constant_target_does_not_divide_by_zero():
    assert noise_to_signal(maps(0), torch.zeros(8, 5, 4, 4)).isfinite()


@pytest.mark.parametrize("gap", [2.0, 6.0, 10.0])
def test_a_student_that_misses_the_teachers_class_is_pulled_with_the_full_gradient(gap):
    """Clipping must not silence the examples that a student gets most wrong."""
    student = torch.tensor([[0.0, gap, 0.0]], requires_grad=True)
    teacher = torch.tensor([[8.0, 0.0, 0.0]])
    (found,) = torch.autograd.grad(alpha_divergence(student, teacher), student)
    assert torch.allclose(found, student.softmax(1) - teacher.softmax(1), atol=1e-6)
