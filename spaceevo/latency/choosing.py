"""Choosing what to measure next: where the latency predictor is least sure of networks.

The predictor is a linear model of kernel features, so how sure it is of a network depends on what was measured alone,
not on the outcome. With rows x of features over latency (relative errors count, those of blocks less), and all that was
measured in X, the variance of a prediction is proportional to x A⁻¹ xᵀ with A = XᵀX + ridge. Measuring a candidate c
takes

    Σ over networks (x A⁻¹ cᵀ)² / (1 + c A⁻¹ cᵀ)

off the summed variance of random networks (I-optimal design). Candidates are taken one by one, the best first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spaceevo.latency.features import Array
from spaceevo.latency.kernels import boundary_kernels, kernels
from spaceevo.latency.regression import LASSO, MIN_MODELS, RIDGE, build_design, fit_nonnegative, importances
from spaceevo.latency.samples import Profiled

PRIOR = 1e-3  # ridge, for columns of size 1: how little is known before anything was measured

Indices = npt.NDArray[np.int64]


class Chooser:
    """The features of all models that may be measured."""

    def __init__(self, models: Sequence[Profiled]) -> None:
        plans = [(model.plan(), model.height) for model in models]
        design = build_design([(*kernels(*plan), *boundary_kernels(*plan)) for plan in plans])
        self._matrix = np.concatenate([design.matrix, np.ones((len(models), 1))], axis=1)
        self._importance = importances([model.role for model in models])

    def predict(self, measured: Indices, latency_ms: Array) -> Array:
        """float64 [models]: milliseconds of every model, by a fit to those measured, never below the fastest of them.

        Args:
            measured: which models were measured, [n].
            latency_ms: float64 [n]: what they take.
        """
        min_models = max(1, min(MIN_MODELS, len(measured) // 20))
        coefficients = fit_nonnegative(
            self._matrix[measured],
            latency_ms,
            importance=self._importance[measured],
            ridge=RIDGE,
            lasso=LASSO,
            min_models=min_models,
            robust_rounds=2,
        )
        return np.asarray(np.maximum(self._matrix @ coefficients, latency_ms.min()))

    def choose(
        self, measured: Indices, predicted_ms: Array, candidates: Indices, networks: Indices, count: int
    ) -> list[int]:
        """The `count` candidates that, measured, make the predictions of `networks` surest; the best first.

        Args:
            measured: which models were measured.
            predicted_ms: float64 [models]: latencies of all models, as far as known.
            candidates, networks: which models may be chosen, and which are to be predicted.
        """
        rows = self._matrix * (self._importance / predicted_ms)[:, None]
        sizes = np.sqrt((rows**2).mean(axis=0))
        rows = rows / np.where(sizes > 0, sizes, 1.0)
        known = rows[measured]
        inverse = np.linalg.inv(known.T @ known + PRIOR * np.eye(rows.shape[1]))
        towards = inverse @ rows[candidates].T  # [columns, candidates]
        shared = rows[networks] @ towards  # [networks, candidates]
        own = rows[candidates] @ towards  # [candidates, candidates]
        chosen: list[int] = []
        free = np.ones(len(candidates), dtype=bool)
        for _ in range(min(count, len(candidates))):
            gains = (shared**2).sum(axis=0) / (1.0 + np.diag(own))
            best = int(np.argmax(np.where(free, gains, -1.0)))
            chosen.append(int(candidates[best]))
            free[best] = False
            scale = 1.0 + own[best, best]
            shared = shared - np.outer(shared[:, best], own[best]) / scale
            own = own - np.outer(own[:, best], own[best]) / scale
        return chosen
