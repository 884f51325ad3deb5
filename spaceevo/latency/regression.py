"""Fitting kernel coefficients: non-negative least squares on relative errors, robust to outliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from scipy.sparse import csr_matrix

from spaceevo.latency.features import Terms, fitted_features
from spaceevo.latency.kernels import Kernel
from spaceevo.latency.predictor import KernelModel

Array = npt.NDArray[np.float64]

CHUNK = 20_000  # models that are weighted at once
RIDGE, LASSO = 1e-4, 1e-3  # of fits to profiles: against the noise of some hundred measurements
MIN_MODELS = 8  # that a feature must be seen in, in profiles of enough models
# Of a block's relative error against a network's, which is what predictions are for. A block is timed by itself, with
# its weights in the cache, out of which the rest of a network drives them: where they are large it says too little.
BLOCK_IMPORTANCE = 0.03
SPEED_PRIOR = 3  # networks of the usual speed that every batch is taken to have besides its own
TYPICAL_ERROR_FLOOR = 0.02  # relative; residuals below it are never treated as outliers


@dataclass(frozen=True)
class Design:
    """The linear system of a fit: latency = matrix @ coefficients.

    Attributes:
        matrix: float64 [models, columns]; the features of a model's kernels, summed.
        columns: kind and feature name of each column.
        kernels: every different kernel by kind.
        counts: by kind, sparse [models, kernels of the kind]: how often a model has a kernel.
    """

    matrix: Array
    columns: tuple[tuple[str, str], ...]
    kernels: Mapping[str, tuple[Kernel, ...]]
    counts: Mapping[str, csr_matrix]


def build_design(models: Sequence[Sequence[Kernel]], *, fine: bool = False) -> Design:
    """The linear system of models given as their kernels, with the coarse or the fine features."""
    index: dict[str, dict[Kernel, int]] = {}
    places: dict[str, tuple[list[int], list[int]]] = {}
    for row, model in enumerate(models):
        for kernel in model:
            kind = kernel.kind
            known = index.setdefault(kind, {})
            rows, columns = places.setdefault(kind, ([], []))
            rows.append(row)
            columns.append(known.setdefault(kernel, len(known)))
    parts, names, counts = [], [], {}
    for kind in sorted(index):
        many = tuple(index[kind])
        rows, columns = places[kind]
        counts[kind] = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(models), len(many)))
        features = fitted_features(many, fine)
        parts.append(np.asarray(counts[kind] @ Terms(features.values())(many)))
        names += [(kind, feature) for feature in features]
    matrix = np.concatenate(parts, axis=1) if parts else np.zeros((len(models), 0))
    return Design(matrix, tuple(names), {kind: tuple(many) for kind, many in index.items()}, counts)


def summed(design: Design, rows: csr_matrix) -> Design:
    """The linear system of sums of models: `rows`, sparse [sums, models], says how often a sum has a model."""
    counts = {kind: rows @ own for kind, own in design.counts.items()}
    return Design(np.asarray(rows @ design.matrix), design.columns, design.kernels, counts)


def importances(roles: Sequence[str]) -> Array:
    """float64 [models]: how much the relative error of each model of a profile counts, by its role (block or net)."""
    return np.array([1.0 if role == "net" else BLOCK_IMPORTANCE for role in roles])


def speed_factors(
    predicted_ms: Array, latency_ms: Array, importance: Array, batches: npt.NDArray[np.int64]
) -> dict[int, float]:
    """By batch, what latencies measured in it are multiplied by to be those of the usual speed; 1 where none counts.

    Found from what was predicted of the models that count most: a single reference model says less, for how fast a
    small model runs differs by some percent from one time it is loaded to the next, with where its tensors lie.

    Args:
        predicted_ms, latency_ms, importance: float64 [models].
        batches: int64 [models]: when each was measured.
    """
    counting = importance == importance.max()
    logs = np.log(predicted_ms[counting] / latency_ms[counting])
    own_batches = batches[counting]
    shifts = {}
    for batch in np.unique(own_batches):
        own = logs[own_batches == batch]
        shifts[int(batch)] = float(np.median(own)) * len(own) / (len(own) + SPEED_PRIOR)
    usual = float(np.median([shifts[int(batch)] for batch in own_batches]))
    return {int(batch): float(np.exp(shifts.get(int(batch), usual) - usual)) for batch in np.unique(batches)}


def fit_nonnegative(
    matrix: Array,
    latency_ms: Array,
    *,
    importance: Array | float = 1.0,
    floor_ms: float = 0.0,
    ridge: float = 1e-9,
    lasso: float = 0.0,
    min_models: int = 1,
    robust_rounds: int = 3,
    robust_scale: float = 2.0,
) -> Array:
    """Coefficients ≥ 0 that minimise the squared relative error, outliers weighted down.

    The weights are those of Cauchy's loss, with the residuals' median absolute deviation as scale, found by
    iteratively reweighted least squares.

    Args:
        matrix: float64 [models, columns].
        latency_ms: float64 [models], positive.
        importance: float64 [models] or one for all; a model's relative error counts so many times.
        floor_ms: below this latency errors count absolutely, in this unit.
        ridge, lasso: strength of the pull towards small and towards fewer coefficients, for columns of size 1.
        min_models: columns that are not 0 for fewer models are left out: they would fit these models' noise.
        robust_rounds: times the system is solved; 1 is plain least squares.
        robust_scale: of Cauchy's loss, in typical residuals; residuals beyond it count less and less.

    Returns:
        float64 [columns].
    """
    relative = 1.0 / np.maximum(latency_ms, floor_ms)
    importance = np.broadcast_to(importance / np.max(importance), latency_ms.shape)
    judged = importance == 1.0  # outliers are told by the residuals of what is fitted to most
    weights = importance * relative
    used = np.count_nonzero(matrix, axis=0) >= min_models
    coefficients = np.zeros(matrix.shape[1])
    for _ in range(robust_rounds):
        coefficients = _weighted_nnls(matrix, used, latency_ms, weights, ridge, lasso)
        residuals = (matrix @ coefficients - latency_ms) * relative
        typical = max(TYPICAL_ERROR_FLOOR, 1.4826 * float(np.median(np.abs(residuals[judged]))))
        weights = importance * relative / np.sqrt(1.0 + (residuals / (robust_scale * typical)) ** 2)
    return coefficients


def _weighted_nnls(
    matrix: Array, used: npt.NDArray[np.bool_], latency_ms: Array, weights: Array, ridge: float, lasso: float
) -> Array:
    models, columns = matrix.shape
    gram, moment = np.zeros((columns, columns)), np.zeros(columns)
    for start in range(0, models, CHUNK):  # a table has gigabytes of them
        part = slice(start, start + CHUNK)
        weighted = matrix[part] * weights[part, None]
        gram += weighted.T @ weighted
        moment += weighted.T @ (weights[part] * latency_ms[part])
    norms = np.sqrt(np.diag(gram)[used] / models)
    gram = gram[np.ix_(used, used)] / np.outer(norms, norms) + ridge * models * np.eye(len(norms))
    # The Cholesky factor of the Gram matrix has as few rows as columns and the same solution as the whole system.
    factor = np.linalg.cholesky(gram)
    target = np.linalg.solve(factor, moment[used] / norms - lasso * models)
    solution, _ = nnls(factor.T, target, maxiter=100 * len(gram))
    coefficients = np.zeros(columns)
    coefficients[used] = solution / norms
    return coefficients


def kernel_models(
    design: Design, coefficients: Array, kernel_errors: Mapping[str, float] | None = None
) -> dict[str, KernelModel]:
    """The fitted coefficients by kind, with the ranges of the kernels they were fitted on and their errors."""
    models = {}
    for kind, many in design.kernels.items():
        own = {
            feature: float(f"{value:.6g}")
            for (column_kind, feature), value in zip(design.columns, coefficients, strict=True)
            if column_kind == kind and value > 0
        }
        models[kind] = KernelModel(
            family=many[0].family,
            coefficients=own,
            in_channels=_range([kernel.in_channels for kernel in many]),
            out_channels=_range([kernel.out_channels for kernel in many]),
            height=_range([kernel.height for kernel in many]),
            fitted_kernels=len(many),
            error=0.0 if kernel_errors is None else kernel_errors[kind],
        )
    return models


def _range(values: Sequence[int]) -> tuple[int, int]:
    return min(values), max(values)


def error_figures(predicted_ms: Array, measured_ms: Array) -> dict[str, Any]:
    """Number of models, fractions within 5, 10 and 15 %, mean absolute, mean and largest relative error."""
    error = np.asarray(predicted_ms) / np.asarray(measured_ms) - 1.0
    size = np.abs(error)
    return {
        "models": len(error),
        **{f"within_{percent}_percent": round(float((size <= percent / 100).mean()), 4) for percent in (5, 10, 15)},
        "mean_absolute_relative_error": round(float(size.mean()), 4),
        "mean_relative_error": round(float(error.mean()), 4),
        "largest_relative_error": round(float(size.max()), 4),
    }
