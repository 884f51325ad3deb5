"""Initial grids: better than the whole range where tails are heavy, and set for every quantizer."""

from functools import partial

import numpy as np
import pytest
import torch
from made import GRID, pictures, randomise, small_hyperspace

from spaceevo.nn.supernet import Supernet
from spaceevo.quant.calibrate import CLIP_RATIOS, SAMPLES_PER_CALL, Observer, best_range, calibrate
from spaceevo.quant.quantizers import ActivationQuantizer, WeightQuantizer, fp32
from spaceevo.space import Space


def error(samples: torch.Tensor, low: float, high: float) -> float:
    quantizer = ActivationQuantizer("affine")
    quantizer.set_range(low, high)
    with torch.no_grad():
        return float((quantizer(samples) - samples).square().mean())


def heavy_tails(seed: int) -> torch.Tensor:
    """Student's t with four degrees of freedom, the odd outlier far away."""
    return torch.from_numpy(np.random.default_rng(seed).standard_t(4, 20_000)).float()


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_clipping_heavy_tails_reduces_the_error(seed, positive):
    """Almost as much as the best pair of ends does."""
    samples = heavy_tails(seed).abs() if positive else heavy_tails(seed)
    low, high = min(float(samples.min()), 0.0), float(samples.max())
    found = best_range(samples, low, high)
    assert low <= found[0] <= 0 <= found[1] <= high
    lows = [0.0] if positive else [low * ratio for ratio in CLIP_RATIOS]
    best = min(error(samples, candidate, high * ratio) for candidate in lows for ratio in CLIP_RATIOS)
    assert error(samples, *found) < (0.995 if positive else 0.97) * error(samples, low, high)
    assert error(samples, *found) <= 1.01 * best


@pytest.mark.parametrize("seed", range(5))
def test_where_nothing_is_gained_the_whole_range_stays(seed):
    samples = 4 * torch.rand(20_000, generator=torch.Generator().manual_seed(seed)) - 1
    low, high = float(samples.min()), float(samples.max())
    found = best_range(samples, low, high)
    assert error(samples, *found) <= error(samples, low, high)
    assert found[0] == pytest.approx(low, rel=0.05) and found[1] == pytest.approx(high, rel=0.05)


def test_the_best_of_the_ratios_is_taken():
    """Against a search over one end in the place of two."""
    samples = heavy_tails(0).abs()
    high = float(samples.max())
    found = best_range(samples, 0.0, high)
    errors = {high * ratio: error(samples, 0.0, high * ratio) for ratio in CLIP_RATIOS}
    assert found == (0.0, pytest.approx(min(errors, key=errors.get)))


def test_a_tensor_that_is_always_zero():
    low, high = best_range(torch.zeros(100), 0.0, 0.0)
    assert (low, high) == (0, 0)


@pytest.fixture
def supernet():
    made = Supernet(Space(small_hyperspace(), (0, 2), (1, 0)), 4, GRID).eval()
    randomise(made, 0)
    return made


def runs_of(supernet, x):
    for subnet in (supernet.space.largest, supernet.space.smallest):
        yield lambda precision, subnet=subnet: supernet(x, subnet, precision)


def test_every_quantizer_is_set(supernet):
    x = pictures(8, 12)
    calibrate(supernet, runs_of(supernet, x), torch.Generator().manual_seed(0))
    defaults = ActivationQuantizer("affine").log_scale
    seen = Observer(torch.Generator().manual_seed(0))
    for run in runs_of(supernet, x):
        run(seen)
    assert seen.samples
    for quantizer, samples in seen.samples.items():
        assert quantizer.log_scale != defaults
        grid = quantizer.grid()
        low, high = seen.extremes[quantizer]
        assert grid.scale * (255 - grid.zero_point) <= high * 1.01 + grid.scale or quantizer.kind == "relu6"
        assert -grid.scale * grid.zero_point >= low * 1.01 - grid.scale
        assert torch.cat(samples).max() <= high
    for module in supernet.modules():
        quantizer = getattr(module, "quantizer", None)
        if isinstance(quantizer, WeightQuantizer):
            flat = module.weight.flatten(1)
            largest = (flat.mean(1).abs() + 3 * flat.std(1, unbiased=False)) / 127  # max(|μ − 3σ|, |μ + 3σ|)
            assert torch.allclose(quantizer.scale(len(flat)), largest, rtol=1e-5)


def test_a_plain_network_gets_the_scales_of_the_elastic_one(supernet):
    x, largest = pictures(8, 12), supernet.space.largest
    plain = supernet.extract(largest)
    before = scales_of_weights(plain)
    calibrate(plain, [partial(plain, x)], torch.Generator().manual_seed(0))
    calibrate(supernet, runs_of(supernet, x), torch.Generator().manual_seed(0))
    after, expected = scales_of_weights(plain), scales_of_weights(supernet.extract(largest))
    assert after and all(torch.equal(after[name], expected[name]) for name in expected)
    assert all(not torch.equal(after[name], before[name]) for name in before)


def scales_of_weights(network):
    quantizers = {name: module for name, module in network.named_modules() if isinstance(module, WeightQuantizer)}
    return {name: quantizer.log_scale.detach().clone() for name, quantizer in quantizers.items()}


def test_calibration_depends_on_the_generator_alone(supernet):
    def state(seed):
        calibrate(supernet, runs_of(supernet, pictures(8, 12)), torch.Generator().manual_seed(seed))
        return {name: tensor.clone() for name, tensor in supernet.state_dict().items()}

    first, again = state(0), state(0)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def test_observing_changes_nothing(supernet):
    x = pictures(8, 12)
    observer = Observer(torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    with torch.no_grad():
        observed = supernet(x, supernet.space.largest, observer)
        torch.testing.assert_close(observed, supernet(x, supernet.space.largest, fp32))  # up to rounding
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())
    assert all(len(part) <= SAMPLES_PER_CALL for parts in observer.samples.values() for part in parts)
