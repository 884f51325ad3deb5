"""Branch and bound finds the best of all spaces, and its bounds hold."""

import numpy as np
import pytest
from search.luts import made_lut, many_lut, quantiles

from spaceevo.config import QTSettings
from spaceevo.search.exact import _Bound, best_space
from spaceevo.search.score import EnumeratingScorer, SpectralScorer
from spaceevo.space import count_spaces, enumerate_spaces, sample_space

SETTINGS = QTSettings(samples=1000, top=20, target_share=0.3, exponent=0.05)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shares", [(0.3,), (0.02, 0.5)])
@pytest.mark.parametrize("quality", ["inverse", "odds"])
def test_it_is_the_best_of_all(lut, seed, shares, quality):
    table = made_lut(lut.hyperspace, samples=3, seed=seed)
    settings = SETTINGS.model_copy(update={"quality": quality})
    scorer = EnumeratingScorer(table, quantiles(table, *shares), settings)
    scores = {space: scorer(space).score for space in enumerate_spaces(table.hyperspace)}
    best = max(scores, key=scores.get)
    for good in (best, min(scores, key=scores.get)):
        found = best_space(scorer, good)
        assert found.space == best and found.score == scorer(best)
        assert found.spaces == count_spaces(table.hyperspace) == len(scores) >= found.scored


@pytest.mark.parametrize("block_types", [(0, 2), (1,)])
def test_it_is_the_best_of_all_that_have_the_block_types_given(lut, block_types):
    scorer = EnumeratingScorer(lut, quantiles(lut, 0.3), SETTINGS)
    allowed = [space for space in enumerate_spaces(lut.hyperspace) if {*space.block_types} <= {*block_types}]
    scores = {space: scorer(space).score for space in allowed}
    found = best_space(scorer, min(scores, key=scores.get), block_types)
    assert found.space == max(scores, key=scores.get)
    assert found.spaces == count_spaces(lut.hyperspace, block_types) == len(allowed)


@pytest.fixture(scope="module")
def many():
    return many_lut(samples=12)


def test_bounds_exclude_most_spaces(many):
    budgets = quantiles(many, 0.3)
    settings = QTSettings(samples=100_000, top=50)
    spectral, enumerated = SpectralScorer(many, budgets, settings, 0), EnumeratingScorer(many, budgets, settings)
    scores = {space: enumerated(space).score for space in enumerate_spaces(many.hyperspace)}
    best = max(scores, key=scores.get)
    found = best_space(enumerated, best)
    assert found.space == best and found.scored < found.spaces / 2
    assert scores[best_space(spectral, best).space] > 0.99 * scores[best]


@pytest.mark.parametrize("share", [0.005, 0.1, 0.6])
@pytest.mark.parametrize("quality", ["inverse", "odds"])
@pytest.mark.parametrize("settings", [SETTINGS, QTSettings(samples=500, top=100, target_share=0.08, exponent=1.0)])
def test_no_score_is_above_its_bound(many, share, settings, quality):
    settings = settings.model_copy(update={"quality": quality})
    budgets = quantiles(many, share)
    scorer = EnumeratingScorer(many, budgets, settings)
    rng = np.random.default_rng(0)
    spaces = [sample_space(many.hyperspace, rng) for _ in range(20)]
    bound = _Bound(many, budgets[0], settings, spaces[0], range(len(many.hyperspace.block_types)))
    slack = []
    for space in spaces:
        keys = many.keys(space)
        expectations = [
            np.exp(np.array([tilt.log_of(keys, beta, gamma)]))
            for tilt, beta, gamma in ((bound.loss, bound.beta, bound.gamma), (bound.share, 0.0, bound.share_gamma))
        ]
        slack.append(float(bound.upper(*expectations)[0]) - scorer(space).score)
    assert min(slack) >= 0
