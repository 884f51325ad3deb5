"""Losses of the three trainings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from spaceevo.nn.processes import mean_over_processes

RATIO_CLIP = 5.0  # of the importance weights of the α-divergence
VARIANCE_EPSILON = 1e-6


def noise_to_signal(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the variance of the target about its channel means; scalar.

    1.0 is what the constant channel means would score. Normalised by the target alone: a student cannot lower the
    loss by inflating its own variance.

    Args:
        output, target: float32 [N, C, H, W].
    """
    output, target = output.float(), target.float()  # of mixed precision
    means = mean_over_processes(target.mean((0, 2, 3), keepdim=True))
    signal = mean_over_processes((target - means).square().mean())
    return (output - target).square().mean() / (signal + VARIANCE_EPSILON)


def alpha_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Adaptive α-divergence of the student's from the teacher's class probabilities (AlphaNet, Wang et al. 2021).

    D_α = Σ q ((p/q)^α − 1) / (α (α − 1)), p the teacher and q the student; per example the larger of α = −1 and α = 1
    counts, so that the student is punished both for missing and for inventing probability. Importance weights
    (p/q)^α are treated as constants in the gradient and, at α = −1, clipped at 5, as in the source: in the value, by
    which the larger one is found, and in the gradient.

    Args:
        student: logits [N, classes].
        teacher: logits [N, classes], without gradient.

    Returns:
        Scalar mean over the batch.
    """
    log_q = F.log_softmax(student, 1)
    log_p = F.log_softmax(teacher, 1)
    q, log_ratio = log_q.exp(), log_p - log_q.detach()
    # At α = 1 it is the KL divergence, at α = −1 half of Σ q²/p − 1; a surrogate has the gradient of its value.
    p = log_p.exp()
    weight = (-log_ratio).exp().clamp(max=RATIO_CLIP)
    values = [(q.detach() * (weight - 1)).sum(1) / 2, (p * log_ratio).sum(1)]
    surrogates = [(weight * q).sum(1), -(p * log_q).sum(1)]
    value, surrogate = torch.stack(values), torch.stack(surrogates)
    chosen = value.argmax(0, keepdim=True)
    value, surrogate = value.gather(0, chosen), surrogate.gather(0, chosen)
    return (value + surrogate - surrogate.detach()).mean()


def kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback and Leibler's divergence Σ p log(p/q), p the teacher's and q the student's classes; mean over the batch.

    Args:
        student: logits [N, classes].
        teacher: logits [N, classes], without gradient.
    """
    return F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="batchmean", log_target=True)


DIVERGENCES = {"adaptive": alpha_divergence, "kl": kl_divergence}
