"""Losses of the three trainings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHAS = (-1.0, 1.0)  # of the adaptive α-divergence
RATIO_CLIP = 5.0  # of its importance weights
VARIANCE_EPSILON = 1e-6


def noise_to_signal(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the variance of the target about its channel means; scalar.

    1.0 is what the constant channel means would score. Normalised by the target alone: a student cannot lower the
    loss by inflating its own variance.

    Args:
        output, target: float32 [N, C, H, W].
    """
    signal = target.var((0, 2, 3), unbiased=False).mean()
    return (output - target).square().mean() / (signal + VARIANCE_EPSILON)


def alpha_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Adaptive α-divergence of the student's from the teacher's class probabilities (AlphaNet, Wang et al. 2021).

    D_α = Σ q ((p/q)^α − 1) / (α (α − 1)), p the teacher and q the student; per example the larger of α = −1 and α = 1
    counts, so that the student is punished both for missing and for inventing probability. Importance weights
    (p/q)^α are clipped at 5 and treated as constants in the gradient, as in the source.

    Args:
        student: logits [N, classes].
        teacher: logits [N, classes], without gradient.

    Returns:
        Scalar mean over the batch; its value is the divergence, its gradient the clipped one.
    """
    log_q = F.log_softmax(student, 1)
    log_p = F.log_softmax(teacher, 1)
    q, log_ratio = log_q.exp(), log_p - log_q.detach()
    values, surrogates = [], []
    for alpha in ALPHAS:
        weight = (alpha * log_ratio).exp().clamp(max=RATIO_CLIP)
        surrogates.append(-(weight / alpha * q).sum(1))
        if alpha == 1.0:
            values.append((log_p.exp() * log_ratio).sum(1))
        else:
            values.append((q.detach() * (weight - 1)).sum(1) / (alpha * (alpha - 1)))
    value, surrogate = torch.stack(values), torch.stack(surrogates)
    chosen = value.argmax(0, keepdim=True)
    value, surrogate = value.gather(0, chosen), surrogate.gather(0, chosen)
    return (value + surrogate - surrogate.detach()).mean()
