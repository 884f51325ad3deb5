"""How far a prediction may be off: relative half-widths that hold 95 % of the cases, fitted to residuals.

The error of a sum of kernels is taken for a sum of independent ones, so that squares add up:

    (error of a model)² = Σ over kernels (error of its kind · ms of the kernel)² / (ms of the model)²

The errors of the kinds are a non-negative least-squares fit of this to the squared residuals of models, drawn towards
one error for all kinds, as far as the residuals do not tell them apart; then all are scaled to cover 95 % and a margin.
Residuals of a device that is disturbed now and then have a long tail, so squares are bounded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from spaceevo.latency.features import Array, Terms, parse_feature
from spaceevo.latency.regression import Design

COVERED = 0.95
MARGIN = 0.01  # of coverage, as what a fit has not seen lies a little farther off
BOUND = 2.0  # of a residual, in 95 % quantiles of all
PRIOR = 0.05  # weight of one error for all kinds, in shares of the models


def kernel_errors(
    design: Design,
    coefficients: Array,
    latency_ms: Array,
    *,
    overhead_ms: float = 0.0,
    judged: npt.NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """Relative half-width of a kernel of each kind.

    Args:
        coefficients: those of `design`'s columns.
        latency_ms: float64 [models]: what was measured.
        overhead_ms: what every model costs beside its kernels.
        judged: bool [models]: whose residuals count; all by default.
    """
    judged = np.full(len(latency_ms), True) if judged is None else judged
    predicted = np.maximum(design.matrix @ coefficients + overhead_ms, 1e-12)
    shares = _squared_shares(design, coefficients) / predicted[:, None] ** 2
    shares, residuals = shares[judged], np.abs(latency_ms / predicted - 1.0)[judged]
    squares = np.minimum(residuals, BOUND * np.quantile(residuals, COVERED)) ** 2
    kinds = len(design.counts)
    together = float(squares.mean() / max(shares.sum(axis=1).mean(), 1e-12))
    gram = shares.T @ shares
    pull = np.diag(PRIOR * (np.diag(gram) + np.diag(gram).mean()))
    factor = np.linalg.cholesky(gram + pull)
    target = np.linalg.solve(factor, shares.T @ squares + pull @ np.full(kinds, together))
    variances, _ = nnls(factor.T, target)
    expected = np.sqrt(shares @ variances)
    scale = float(np.quantile(residuals / np.maximum(expected, 1e-12), COVERED + MARGIN))
    return {
        kind: float(f"{scale * np.sqrt(variance):.3g}") for kind, variance in zip(design.counts, variances, strict=True)
    }


def network_error(errors: Array, kernel_part: Array) -> float:
    """What the half-width of whole networks lacks, in quadrature, to hold 95 % of them.

    Args:
        errors: float64 [networks]: relative errors of their predictions.
        kernel_part: float64 [networks]: half-widths that their kernels give them.
    """
    missing = np.asarray(errors) ** 2 - np.asarray(kernel_part) ** 2
    return float(f"{np.sqrt(max(0.0, float(np.quantile(missing, COVERED, method='higher')))):.3g}")


def _squared_shares(design: Design, coefficients: Array) -> Array:
    """float64 [models, kinds]: the summed squares of the milliseconds of a model's kernels of each kind."""
    columns = []
    names = np.array([kind for kind, _ in design.columns])
    for kind, counts in design.counts.items():
        own = np.flatnonzero(names == kind)
        terms = Terms(parse_feature(design.columns[i][1]) for i in own)
        columns.append(counts @ (terms(design.kernels[kind]) @ coefficients[own]) ** 2)
    return np.stack(columns, axis=1)
