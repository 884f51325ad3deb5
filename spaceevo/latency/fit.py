"""Fitting a predictor to a latency profile, and its error on networks that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spaceevo.errors import ArtifactError
from spaceevo.latency.confidence import kernel_errors, network_error
from spaceevo.latency.features import Array
from spaceevo.latency.kernels import Kernel, boundary_kernels, kernels
from spaceevo.latency.predictor import Prediction, Predictor
from spaceevo.latency.profile import profile_figures
from spaceevo.latency.regression import (
    LASSO,
    MIN_MODELS,
    RIDGE,
    build_design,
    error_figures,
    fit_nonnegative,
    importances,
    kernel_models,
    speed_factors,
)
from spaceevo.nn.blocks import block_plan
from spaceevo.nn.network import subnet_plan
from spaceevo.nn.plan import Plan
from spaceevo.space import BlockChoice, Hyperspace, Space, parse_subnet

SPEED_ROUNDS = 3  # of a fit and, from what it predicts, how fast the machine was in each batch


def fit_predictor(
    table: pd.DataFrame, hyperspace: Hyperspace, device: str, machine: Mapping[str, Any] | None = None
) -> Predictor:
    """Fit overhead and kernel coefficients to a profile, and test them on its networks kept apart.

    Args:
        table: a latency profile (`spaceevo.latency.profile`) of this hyperspace.
        device: name of the device it was measured on.
        machine: fingerprint of what it was measured on.

    The profile's latencies are at the speed that the reference model tells; what is left of differences between batches
    is found with the coefficients, in turns (`speed_factors`).

    Returns:
        The predictor; `errors["unseen_networks"]` holds its figures on the rows with split `test`, `errors["profile"]`
        how the profile went.

    Raises:
        ArtifactError: the profile has no rows to fit on.
    """
    rows = _rows(table, "fit")
    if not rows:
        raise ArtifactError("The latency profile has no row to fit on: profile with a longer time budget.")
    design = build_design([model_kernels(row, hyperspace) for row in rows])
    with_overhead = np.concatenate([design.matrix, np.ones((len(rows), 1))], axis=1)
    latency_ms = np.array([row["latency_ms"] for row in rows])
    importance, batches = importances([row["role"] for row in rows]), _batches(rows)
    at_usual_speed = latency_ms
    for _ in range(SPEED_ROUNDS):
        coefficients = fit_nonnegative(
            with_overhead,
            at_usual_speed,
            importance=importance,
            ridge=RIDGE,
            lasso=LASSO,
            min_models=max(1, min(MIN_MODELS, len(rows) // 20)),
        )
        predicted_ms = np.maximum(with_overhead @ coefficients, latency_ms.min())
        factors = speed_factors(predicted_ms, latency_ms, importance, batches)
        at_usual_speed = latency_ms * np.array([factors[batch] for batch in batches])
    overhead_ms = float(f"{coefficients[-1]:.6g}")
    own_errors = kernel_errors(
        design, coefficients[:-1], at_usual_speed, overhead_ms=overhead_ms, judged=importance == importance.max()
    )
    predictor = Predictor(
        device=device,
        overhead_ms=overhead_ms,
        kinds=kernel_models(design, coefficients[:-1], own_errors),
        notes=f"Fitted to {len(rows)} blocks and networks of {hyperspace.name} measured on {device}.",
        machine=dict(machine or {}),
    )
    return replace(
        predictor,
        errors=unseen_errors(predictor, table, hyperspace) | {"profile": profile_figures(table)},
        network_error=_network_error(predictor, table, hyperspace),
    )


def _network_error(predictor: Predictor, table: pd.DataFrame, hyperspace: Hyperspace) -> float:
    """What networks need beside their kernels' errors: those kept apart, or those fitted on where there are none."""
    rows = _rows(table, "test") or _rows(table, "fit")
    rows = [row for row in rows if row["role"] == "net"] or rows
    predictions = _predictions(predictor, rows, hyperspace)
    predicted = np.array([prediction.latency_ms for prediction in predictions])
    errors = at_usual_speed(predictor, table, hyperspace, rows) / np.maximum(predicted, 1e-12) - 1.0
    return network_error(errors, np.array([prediction.error for prediction in predictions]))


def unseen_errors(predictor: Predictor, table: pd.DataFrame, hyperspace: Hyperspace) -> dict[str, Any]:
    """Figures of a predictor on the networks of a profile that were kept apart; empty where there are none.

    Measured latencies are those at the usual speed of the machine: how fast it was in each batch is taken from the
    batch's other networks, which the predictor was fitted to.
    """
    rows = _rows(table, "test")
    if not rows:
        return {}
    predicted = np.array([prediction.latency_ms for prediction in _predictions(predictor, rows, hyperspace)])
    return {"unseen_networks": error_figures(predicted, at_usual_speed(predictor, table, hyperspace, rows))}


def at_usual_speed(
    predictor: Predictor, table: pd.DataFrame, hyperspace: Hyperspace, rows: list[dict[str, Any]]
) -> Array:
    """float64 [rows]: measured latencies, as if all had been measured at the same speed of the machine.

    Args:
        table: the profile that the rows are of, whose networks with split `fit` tell how fast it was in each batch.
        rows: some rows of it.
    """
    latency_ms: Array = np.array([row["latency_ms"] for row in rows], dtype=np.float64)
    fitted = _rows(table, "fit")
    fitted = [row for row in fitted if row["role"] == "net"] or fitted
    if not fitted:
        return latency_ms
    predictions = _predictions(predictor, fitted, hyperspace)
    predicted_ms = np.maximum([prediction.latency_ms for prediction in predictions], 1e-12)
    measured_ms = np.array([row["latency_ms"] for row in fitted])
    factors = speed_factors(predicted_ms, measured_ms, np.ones(len(fitted)), _batches(fitted))
    scales: Array = np.array([factors.get(batch, 1.0) for batch in _batches(rows)])
    return latency_ms * scales


def _predictions(predictor: Predictor, rows: list[dict[str, Any]], hyperspace: Hyperspace) -> list[Prediction]:
    return [predictor.predict(row_plan(row, hyperspace), int(row["height"])) for row in rows]


def _batches(rows: list[dict[str, Any]]) -> npt.NDArray[np.int64]:
    return np.array([int(row.get("batch", 0)) for row in rows], dtype=np.int64)


def _rows(table: pd.DataFrame, split: str) -> list[dict[str, Any]]:
    records = table[table["split"] == split].to_dict("records")
    return [{str(key): value for key, value in record.items()} for record in records]


def model_kernels(row: dict[str, Any], hyperspace: Hyperspace) -> tuple[Kernel, ...]:
    """The kernels of what one row of a profile measured, with what it pays for its input and output."""
    plan, height = row_plan(row, hyperspace), int(row["height"])
    return *kernels(plan, height), *boundary_kernels(plan, height)


def row_plan(row: dict[str, Any], hyperspace: Hyperspace) -> Plan:
    """What one row of a profile measured."""
    if row["role"] == "net":
        _, types, windows = row["space"].split("-")
        space = Space(hyperspace, tuple(int(digit) for digit in types), tuple(int(digit) for digit in windows))
        return subnet_plan(space, parse_subnet(hyperspace, row["subnet"]), int(row["num_classes"]))
    choice = BlockChoice(int(row["kernel_size"]), int(row["width"]), float(row["expand_ratio"]))
    activation = row["activation"] if isinstance(row["activation"], str) else None
    return block_plan(row["block"], activation, int(row["in_channels"]), choice, int(row["stride"]))
