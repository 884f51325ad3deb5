"""Stated errors cover what they claim to, tell kinds apart, add up in quadrature and widen beyond the fitted range."""

from dataclasses import replace

import numpy as np
import pytest

from spaceevo.latency.confidence import kernel_errors, network_error
from spaceevo.latency.fit import fit_predictor
from spaceevo.latency.kernels import Kernel
from spaceevo.latency.predictor import LARGEST_ERROR, UNKNOWN, Prediction
from spaceevo.latency.regression import build_design
from spaceevo.space import parse_space


@pytest.fixture(scope="module")
def noisy():
    """A design of two kinds, one of which is predicted ten times better, with what was measured."""
    rng = np.random.default_rng(0)
    models, latency = [], []
    for _ in range(3000):
        many = [Kernel("add", 8, 8, 16)] * int(rng.integers(0, 4)) + [Kernel("pool", 8, 8, 8)] * int(rng.integers(1, 4))
        models.append(many)
        latency.append(sum(1.0 + rng.normal() * (0.1 if kernel.family == "add" else 0.01) for kernel in many))
    design = build_design(models)
    coefficients = np.array([1.0 if feature == "one" else 0.0 for _, feature in design.columns])
    return design, coefficients, np.array(latency)


def test_errors_of_kinds_are_told_apart(noisy):
    errors = kernel_errors(*noisy)
    assert errors["add"] > 3 * errors["pool"] > 0


def test_the_models_it_was_fitted_to_are_covered(noisy):
    design, coefficients, latency = noisy
    errors = kernel_errors(*noisy)
    predicted = design.matrix @ coefficients
    variance = sum(np.asarray(design.counts[kind].sum(axis=1)).ravel() * errors[kind] ** 2 for kind in errors)
    covered = np.abs(latency / predicted - 1) <= np.sqrt(variance) / predicted
    assert 0.94 <= covered.mean() <= 0.98


def test_networks_get_what_their_kernels_do_not_explain():
    assert network_error(np.full(20, 0.05), np.full(20, 0.03)) == pytest.approx(0.04)
    assert network_error(np.full(20, 0.02), np.full(20, 0.03)) == 0


def test_independent_errors_add_in_quadrature():
    both = Prediction(3.0, False, 0.1).plus(Prediction(4.0, True, 0.1))
    assert both == pytest.approx((7.0, True, 0.5 / 7.0))


def test_a_part_of_unknown_cost_makes_the_sum_unknown():
    assert Prediction(3.0, False, 0.1).plus(Prediction(0.0, True, UNKNOWN)).error == UNKNOWN


def test_beyond_the_fitted_sizes_the_error_widens(truth):
    model = replace(truth.kinds["add"], in_channels=(8, 64), out_channels=(8, 64), height=(4, 32), error=0.05)
    inside, wider, widest = (model.error_of(Kernel("add", c, c, 16)) for c in (64, 128, 1024))
    assert inside == 0.05 and inside < wider < widest
    assert model.error_of(Kernel("add", 8, 8, 2)) > inside
    assert model.error_of(Kernel("add", 1 << 14, 1 << 14, 1 << 12)) == LARGEST_ERROR


def test_a_measured_predictor_states_an_error_that_its_unseen_networks_keep(true_profile, tiny):
    rng = np.random.default_rng(0)
    noisy = true_profile.assign(
        latency_ms=true_profile["latency_ms"] * np.exp(0.05 * rng.normal(size=len(true_profile)))
    )
    predictor = fit_predictor(noisy, tiny, "noisy")
    space = parse_space("tiny-0123-0000")
    stated = predictor.predict_subnet(space, space.largest, 10).error
    assert 0.05 < stated < 0.3
    exact = fit_predictor(true_profile, tiny, "exact").predict_subnet(space, space.largest, 10).error
    assert exact < stated
