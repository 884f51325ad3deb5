"""Fitting recovers a device that is known exactly, and is not led astray by outliers."""

import numpy as np
import pandas as pd
import pytest

from spaceevo.errors import ArtifactError
from spaceevo.latency.fit import fit_predictor, row_plan, unseen_errors
from spaceevo.latency.regression import error_figures, fit_nonnegative, importances, speed_factors
from spaceevo.latency.samples import ProfileCounts, sample_models


def test_a_known_device_is_recovered(true_profile, tiny, truth):
    predictor = fit_predictor(true_profile, tiny, "truth")
    figures = predictor.errors["unseen_networks"]
    assert figures["models"] == 30 and figures["within_5_percent"] == 1.0
    assert figures["mean_absolute_relative_error"] < 0.02
    assert predictor.overhead_ms == pytest.approx(truth.overhead_ms, rel=0.5)


def test_networks_kept_apart_do_not_change_the_fit(true_profile, tiny):
    slower = true_profile.copy()
    slower.loc[slower["split"] == "test", "latency_ms"] *= 2
    first, second = (fit_predictor(table, tiny, "truth") for table in (true_profile, slower))
    assert first.kinds == second.kinds
    assert second.errors["unseen_networks"]["mean_relative_error"] == pytest.approx(-0.5, abs=0.02)


def test_outliers_hardly_count(true_profile, tiny):
    disturbed = true_profile.copy()
    rows = np.flatnonzero(disturbed["split"] == "fit")[::10]
    disturbed.loc[rows, "latency_ms"] *= 3
    figures = fit_predictor(disturbed, tiny, "truth").errors["unseen_networks"]
    assert figures["within_10_percent"] >= 0.9


def test_few_networks_count_more_than_many_blocks_that_are_faster_by_themselves():
    roles = ["block"] * 200 + ["net"] * 20
    latency = np.array([0.6 if role == "block" else 1.0 for role in roles])
    (coefficient,) = fit_nonnegative(np.ones((len(roles), 1)), latency, importance=importances(roles))
    assert coefficient == pytest.approx(1.0, rel=0.05)


def test_batches_of_a_slower_machine_are_brought_to_its_usual_speed(true_profile, tiny):
    details = {"low_ms": 1.0, "high_ms": 1.0, "rounds": 7, "outliers": 0, "drift": 0.0, "reference_ms": 0.1}
    batches = np.arange(len(true_profile)) * 6 // len(true_profile)
    drifting = true_profile.assign(batch=batches, predicted_ms=np.nan, **details)
    drifting["latency_ms"] *= np.array([1.0, 1.1, 0.9, 1.0, 1.08, 0.94])[batches]
    told, untold = (fit_predictor(table, tiny, "truth") for table in (drifting, drifting.assign(batch=0)))
    errors = [one.errors["unseen_networks"]["mean_absolute_relative_error"] for one in (told, untold)]
    assert errors[0] < 0.7 * errors[1]


def test_a_speed_is_that_of_the_models_that_count_most_and_one_model_says_little():
    measured = np.array([1.1] * 30 + [3.0] * 30 + [1.0] * 30 + [1.2])
    importance = np.array([1.0] * 30 + [0.1] * 30 + [1.0] * 31)
    batches = np.array([0] * 60 + [1] * 30 + [2])
    factors = speed_factors(np.ones(91), measured, importance, batches)
    assert factors[1] / factors[0] == pytest.approx(1.1, rel=0.02)
    assert 1.0 < factors[1] / factors[2] < 1.06


def test_a_batch_of_lesser_models_alone_says_nothing_about_speed():
    measured = np.array([1.0] * 30 + [0.6])
    factors = speed_factors(
        np.ones(31), measured, np.array([1.0] * 30 + [0.03]), np.array([0] * 30 + [1], dtype=np.int64)
    )
    assert factors == {0: 1.0, 1: 1.0}


def cached_blocks(table):
    """The profile with blocks faster by themselves than in networks, each by another share."""
    cached = table.copy()
    blocks = cached["role"] == "block"
    cached.loc[blocks, "latency_ms"] *= np.random.default_rng(0).uniform(0.5, 0.9, int(blocks.sum()))
    return cached


def test_blocks_that_are_faster_by_themselves_do_not_hide_outliers(true_profile, tiny):
    cached = cached_blocks(true_profile)
    nets = np.flatnonzero((cached["role"] == "net") & (cached["split"] == "fit"))[::10]
    cached.loc[nets, "latency_ms"] *= 2
    assert fit_predictor(cached, tiny, "truth").errors["unseen_networks"]["within_10_percent"] >= 0.9


def test_blocks_that_are_faster_by_themselves_do_not_widen_what_is_stated(true_profile, tiny):
    predictor = fit_predictor(cached_blocks(true_profile), tiny, "truth")
    nets = true_profile[(true_profile["role"] == "net") & (true_profile["split"] == "test")].to_dict("records")
    assert all(predictor.predict(row_plan(row, tiny), int(row["height"])).error < 0.1 for row in nets)


def test_a_profile_of_blocks_alone_is_fitted_as_strongly_as_one_of_networks():
    matrix, latency = np.ones((200, 1)), np.full(200, 2.0)
    fits = [
        fit_nonnegative(matrix, latency, importance=importances([role] * 200), ridge=1e-4, lasso=1e-3)
        for role in ("block", "net")
    ]
    assert fits[0] == pytest.approx(fits[1])


def test_a_profile_read_back_describes_the_same_plans(tmp_path, tiny, true_profile):
    true_profile.to_parquet(tmp_path / "profile.parquet")
    rows = pd.read_parquet(tmp_path / "profile.parquet").to_dict("records")
    models = sample_models(tiny, 10, ProfileCounts(3, 80, 30), seed=1)
    assert all(row_plan(row, tiny) == model.plan() for row, model in zip(rows, models, strict=True))


def test_an_empty_profile_is_an_error(true_profile, tiny):
    with pytest.raises(ArtifactError, match="no row to fit on"):
        fit_predictor(true_profile[true_profile["split"] == "test"], tiny, "truth")


def test_without_networks_kept_apart_there_are_no_figures(true_profile, tiny, truth):
    assert unseen_errors(truth, true_profile[true_profile["split"] == "fit"], tiny) == {}


def test_coefficients_are_never_negative():
    rng = np.random.default_rng(0)
    matrix = rng.uniform(0, 1, (50, 4))
    latency = matrix @ np.array([1.0, 0.0, 2.0, 0.0]) + 5.0 - 3.0 * matrix[:, 1]
    coefficients = fit_nonnegative(matrix, latency)
    assert (coefficients >= 0).all() and coefficients[1] == 0


def test_rare_columns_are_left_out():
    matrix = np.ones((20, 2))
    matrix[2:, 1] = 0
    latency = matrix @ np.array([1.0, 1.0])
    assert fit_nonnegative(matrix, latency, min_models=3)[1] == 0
    assert fit_nonnegative(matrix, latency, min_models=2) == pytest.approx([1.0, 1.0], rel=1e-3)


def test_error_figures():
    figures = error_figures(np.array([1.0, 1.08, 0.88, 2.0]), np.ones(4))
    assert figures == {
        "models": 4,
        "within_5_percent": 0.25,
        "within_10_percent": 0.5,
        "within_15_percent": 0.75,
        "mean_absolute_relative_error": 0.3,
        "mean_relative_error": 0.24,
        "largest_relative_error": 1.0,
    }
