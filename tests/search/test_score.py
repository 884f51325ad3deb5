"""The Q-T score by hand, and samples whose widths agree, against the enumeration of all subnets of a LUT."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from luts import quantiles

from spaceevo.config import QTSettings
from spaceevo.search.score import qt_score, sample_losses, score_space
from spaceevo.space import Space, enumerate_spaces

LOSS = np.array([4.0, 1.0, 3.0, 2.0, 0.5])
LATENCY_MS = np.array([1.0, 2.0, 3.0, 4.0, 100.0])


def settings_of(**changes):
    return QTSettings(**({"samples": 5, "top": 2, "target_share": 0.08, "exponent": 0.01} | changes))


@pytest.mark.parametrize(
    ("budgets", "changes", "score", "shares", "losses"),
    [
        ((3.0,), {}, 1 / 2.0, (0.6,), (2.0,)),  # of 4, 1 and 3, the best two: 1 and 3
        ((3.0,), {"top": 50}, 3 / 8, (0.6,), (8 / 3,)),  # fewer than `top` are within the budget
        ((3.0,), {"top": 3}, 3 / 8, (0.6,), (8 / 3,)),
        ((1.0,), {}, 1 / 4, (0.2,), (4.0,)),  # a latency that equals the budget is within it
        ((2.0, 4.0), {}, 1 / 2.5 + 1 / 1.5, (0.4, 0.8), (2.5, 1.5)),
        ((3.0,), {"target_share": 0.6}, 1 / 2.0, (0.6,), (2.0,)),  # met exactly: not punished
        ((1.0,), {"target_share": 0.8, "exponent": 0.5}, 1 / (2 * 4), (0.2,), (4.0,)),  # √(0.8 / 0.2) = 2
        ((0.5, 3.0), {}, 1 / 2.0, (0.0, 0.6), (float("inf"), 2.0)),  # out of reach: adds nothing
        ((0.5,), {}, 0.0, (0.0,), (float("inf"),)),
    ],
)
def test_scores_by_hand(budgets, changes, score, shares, losses):
    found = qt_score(LOSS, LATENCY_MS, budgets, settings_of(**changes))
    assert found.score == pytest.approx(score)
    assert found.shares == pytest.approx(shares) and found.losses == pytest.approx(losses)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), budget=st.floats(0.01, 1.0))
def test_scores_grow_as_losses_fall_and_the_order_does_not_count(seed, budget):
    rng = np.random.default_rng(seed)
    loss, latency_ms = rng.uniform(0.1, 1, 60), rng.uniform(0, 1, 60)
    options = settings_of(top=10, target_share=0.5, exponent=0.3)
    base = qt_score(loss, latency_ms, [budget], options).score
    assert qt_score(loss * 0.8, latency_ms, [budget], options).score == pytest.approx(base / 0.8)
    order = rng.permutation(60)
    assert qt_score(loss[order], latency_ms[order], [budget], options).score == pytest.approx(base)


def subnets_of(lut, space):
    """Every combination of the LUT's candidates whose widths agree: its loss, latency and probability."""
    for resolution in lut.resolutions:
        partial = [(0.0, 0.0, 1 / len(lut.resolutions), 3)]
        index = iter(range(len(space.windows)))
        for stage in space.hyperspace.body:
            if stage.searched:
                i = next(index)
                table = lut.searched[i, space.block_types[i], space.windows[i]]
            else:
                table = lut.fixed[stage.name]
            following = []
            for loss, latency_ms, probability, width in partial:
                options = table[resolution, width]
                for candidate in zip(options.loss, options.latency_ms, options.out_width, strict=True):
                    share = probability / len(options.loss)
                    following.append((loss + candidate[0], latency_ms + candidate[1], share, int(candidate[2])))
            partial = following
        for loss, latency_ms, probability, width in partial:
            yield loss, latency_ms + lut.head_ms[resolution, width], probability


@pytest.mark.parametrize("code", [((0, 1), (0, 0)), ((2, 0), (1, 0)), ((1, 1), (1, 0))])
def test_samples_are_the_width_consistent_subnets_in_equal_parts(lut, code):
    space = Space(lut.hyperspace, *code)
    expected = Counter()
    for loss, latency_ms, probability in subnets_of(lut, space):
        expected[round(loss, 9), round(latency_ms, 9)] += probability
    assert sum(expected.values()) == pytest.approx(1)
    samples = 20_000
    loss, latency_ms = sample_losses(lut, space, samples, np.random.default_rng(0))
    found = Counter(zip(loss.round(9), latency_ms.round(9), strict=True))
    assert set(found) == set(expected)
    for key, probability in expected.items():
        assert abs(found[key] - samples * probability) < 5 * (samples * probability) ** 0.5


def test_a_sampled_score_is_close_to_that_of_all_subnets(lut):
    space = Space(lut.hyperspace, (0, 2), (1, 0))
    every = list(subnets_of(lut, space))
    budget = float(np.median([latency_ms for _, latency_ms, _ in every]))
    found = score_space(lut, space, [budget], settings_of(samples=20_000, top=20_000), 0)
    within = [(loss, probability) for loss, latency_ms, probability in every if latency_ms <= budget]
    share = sum(probability for _, probability in within)
    mean = sum(loss * probability for loss, probability in within) / share
    assert found.shares[0] == pytest.approx(share, abs=0.02)
    assert found.losses[0] == pytest.approx(mean, rel=0.02)
    assert found.score == pytest.approx(1 / mean, rel=0.02)


def test_resolutions_have_equal_parts(lut):
    space = Space(lut.hyperspace, (0, 2), (1, 0))
    for samples in (1, 7, 10):
        loss, latency_ms = sample_losses(lut, space, samples, np.random.default_rng(0))
        assert loss.shape == latency_ms.shape == (samples,)


def test_a_score_depends_on_the_seed_and_the_space_alone(lut):
    spaces = list(enumerate_spaces(lut.hyperspace))
    options = settings_of(samples=200)
    budgets = quantiles(lut, 0.5)
    forwards = [score_space(lut, space, budgets, options, 3) for space in spaces]
    backwards = [score_space(lut, space, budgets, options, 3) for space in reversed(spaces)]
    assert forwards == backwards[::-1]
    assert forwards != [score_space(lut, space, budgets, options, 4) for space in spaces]
