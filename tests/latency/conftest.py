"""A device whose latency is known exactly."""

import pandas as pd
import pytest

from spaceevo.latency.kernels import Kernel, boundary_kernels, kernels
from spaceevo.latency.predictor import KernelModel, Predictor
from spaceevo.latency.samples import ProfileCounts, sample_models
from spaceevo.space import Hyperspace, load_hyperspace

NUM_CLASSES = 10
EVERYTHING = (1, 1 << 20)
TRUE_COEFFICIENTS = {
    "conv": {"one": 1e-3, "macs_8x8": 3e-9, "out_bytes_16": 2e-7},
    "stem": {"one": 2e-3, "macs_8x8": 9e-9},
    "dense": {"one": 1e-3, "weights_16": 2e-8},
    "se": {"one": 1e-3, "weights_16": 4e-8},
    "input": {"out_bytes_16": 1e-7},
    "output": {"out_bytes_16": 1e-7},
}
TRUE_MAP_COEFFICIENTS = {"one": 5e-4, "out_bytes_16": 1e-6}


@pytest.fixture(scope="session")
def tiny() -> Hyperspace:
    return load_hyperspace("tiny")


@pytest.fixture(scope="session")
def truth(tiny: Hyperspace) -> Predictor:
    """A predictor that covers every kernel of the hyperspace `tiny`."""
    found: dict[str, Kernel] = {}
    for model in sample_models(tiny, NUM_CLASSES, ProfileCounts(10, 20, 0), seed=5):
        plan = model.plan()
        found |= {k.kind: k for k in (*kernels(plan, model.height), *boundary_kernels(plan, model.height))}
    kinds = {
        kind: KernelModel(
            family=kernel.family,
            coefficients=TRUE_COEFFICIENTS.get(kernel.family, TRUE_MAP_COEFFICIENTS),
            in_channels=EVERYTHING,
            out_channels=EVERYTHING,
            height=EVERYTHING,
            fitted_kernels=1,
        )
        for kind, kernel in found.items()
    }
    return Predictor("truth", 0.01, kinds)


@pytest.fixture(scope="session")
def true_profile(tiny: Hyperspace, truth: Predictor) -> pd.DataFrame:
    """A profile of the known device, without noise."""
    models = sample_models(tiny, NUM_CLASSES, ProfileCounts(3, 80, 30), seed=1)
    rows = [m.row() | {"latency_ms": truth.predict(m.plan(), m.height).latency_ms} for m in models]
    return pd.DataFrame(rows)
