"""What is measured next makes networks surer than what is drawn at random."""

import numpy as np
import pytest

from spaceevo.latency.choosing import Chooser
from spaceevo.latency.samples import ProfileCounts, ProfiledNet, sample_models


@pytest.fixture(scope="module")
def pool(tiny, truth):
    models = sample_models(tiny, 10, ProfileCounts(4, 200, 0), seed=2)
    latency = np.array([truth.predict(model.plan(), model.height).latency_ms for model in models])
    return models, Chooser(models), latency


def test_a_fit_predicts_what_it_has_not_seen(pool):
    models, chooser, latency = pool
    measured = np.arange(0, len(models), 2)
    unseen = np.array([i for i in range(1, len(models), 2) if isinstance(models[i], ProfiledNet)])
    error = chooser.predict(measured, latency[measured])[unseen] / latency[unseen] - 1
    assert np.quantile(np.abs(error), 0.9) < 0.03


def test_what_was_measured_already_is_worth_less_than_what_is_new(pool):
    models, chooser, latency = pool
    with_swish = [i for i, model in enumerate(models) if "swish" in activations(model)]
    measured = np.array([i for i in range(len(models)) if i not in set(with_swish)])
    nets = np.array([i for i, model in enumerate(models) if isinstance(model, ProfiledNet)])
    chosen = chooser.choose(measured, latency, np.arange(len(models)), nets, 5)
    assert set(chosen) <= set(with_swish) and len(set(chosen)) == 5


def activations(model) -> set[str]:
    return {getattr(op, "activation", "") for op in model.plan().ops}


def test_chosen_models_leave_less_variance_than_random_ones(pool):
    models, chooser, latency = pool
    nets = np.array([i for i, model in enumerate(models) if isinstance(model, ProfiledNet)])
    rng = np.random.default_rng(0)
    start = rng.choice(len(models), 30, replace=False)
    left = np.setdiff1d(np.arange(len(models)), start)
    chosen = chooser.choose(start, latency, left, nets, 30)
    drawn = rng.choice(left, 30, replace=False)
    assert variance(chooser, latency, [*start, *chosen], nets) < 0.9 * variance(
        chooser, latency, [*start, *drawn], nets
    )


def variance(chooser, latency, measured, nets) -> float:
    rows = chooser._matrix / latency[:, None]
    rows = rows / np.maximum(np.sqrt((rows**2).mean(axis=0)), 1e-12)
    inverse = np.linalg.inv(rows[measured].T @ rows[measured] + 1e-3 * np.eye(rows.shape[1]))
    return float(np.einsum("ij,jk,ik->", rows[nets], inverse, rows[nets]))
