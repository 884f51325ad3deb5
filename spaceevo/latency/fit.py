"""Fitting a predictor to a latency profile, and its error on networks that it has not seen."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spaceevo.errors import ArtifactError
from spaceevo.latency.predictor import Predictor
from spaceevo.latency.regression import build_design, fit_nonnegative, kernel_models
from spaceevo.space import Hyperspace

RIDGE = 1e-4  # against the noise of few hundred measurements
BLOCK_WEIGHT = 0.3  # of a block's relative error against a network's: what counts is whole networks


def fit_predictor(table: pd.DataFrame, hyperspace: Hyperspace, device: str) -> Predictor:
    """Fit overhead and kernel coefficients to the rows of a profile, and test them on its networks kept apart.

    Args:
        table: a latency profile (`spaceevo.latency.profile`) of this hyperspace.
        device: name of the device it was measured on.

    Returns:
        The predictor; `errors["unseen_networks"]` holds its figures on the rows with split `test`.

    Raises:
        ArtifactError: the profile has no rows to fit on.
    """
    fitted = table[table["split"] == "fit"]
    if fitted.empty:
        raise ArtifactError("The latency profile has no row to fit on: profile with a longer time budget.")
    design = build_design([_model_kernels(row, hyperspace) for row in fitted.to_dict("records")])
    latency_ms = fitted["latency_ms"].to_numpy(dtype=np.float64)
    with_overhead = np.concatenate([design.matrix, np.ones((len(fitted), 1))], axis=1)
    importance = np.where(fitted["role"] == "net", 1.0, BLOCK_WEIGHT)
    coefficients = fit_nonnegative(with_overhead, latency_ms, importance=importance, ridge=RIDGE)
    predictor = Predictor(
        device=device,
        overhead_ms=float(f"{coefficients[-1]:.6g}"),
        kinds=kernel_models(design, coefficients[:-1]),
        notes=f"Fitted to {len(fitted)} blocks and networks of {hyperspace.name} measured on {device}.",
    )
