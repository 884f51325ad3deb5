"""The Q-T score by hand, against the enumeration of all subnets, and against sampling as it is defined."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import declared
from search.luts import draw, made_lut, many_lut, quantiles

from spaceevo.config import QTSettings
from spaceevo.search import spectra
from spaceevo.search.score import (
    EnumeratingScorer,
    SpectralScorer,
    best_of,
    combinations,
    make_scorer,
    most_combinations,
    qt_score,
)
from spaceevo.search.spectra import SparseSpectrum
from spaceevo.space import Space, enumerate_spaces, parse_hyperspace, sample_space

INFINITY = float("inf")


def settings_of(**changes):
    return QTSettings(**({"samples": 100, "top": 2, "target_share": 0.08, "exponent": 0.01} | changes))


@pytest.mark.parametrize(
    ("shares", "losses", "changes", "score", "kept"),
    [
        ((0.6,), (2.0,), {}, 1 / 2, (2.0,)),
        ((0.4, 0.8), (2.5, 1.5), {}, 1 / 2.5 + 1 / 1.5, (2.5, 1.5)),
        ((0.6,), (2.0,), {"target_share": 0.6}, 1 / 2, (2.0,)),  # met exactly: not punished
        ((0.2,), (4.0,), {"target_share": 0.8, "exponent": 0.5}, 1 / (2 * 4), (4.0,)),  # √(0.8 / 0.2) = 2
        ((0.0, 0.6), (INFINITY, 2.0), {}, 1 / 2, (INFINITY, 2.0)),  # out of reach: adds nothing
        ((0.009,), (2.0,), {}, 0.0, (INFINITY,)),  # of 100 samples, none to speak of
        ((0.4, 0.8), (2.5, 1.5), {"quality": "odds"}, np.exp(-0.9 * 2.5) + np.exp(-0.9 * 1.5), (2.5, 1.5)),
        ((0.4,), (-0.5,), {"quality": "odds"}, np.exp(0.9 * 0.5), (-0.5,)),
        ((0.2,), (4.0,), {"quality": "odds", "target_share": 0.8, "exponent": 0.5}, np.exp(-0.9 * 4) / 2, (4.0,)),
        ((0.0, 0.6), (INFINITY, 2.0), {"quality": "odds"}, np.exp(-0.9 * 2), (INFINITY, 2.0)),
    ],
)
def test_scores_by_hand(shares, losses, changes, score, kept):
    found = qt_score(shares, losses, settings_of(**changes))
    assert found.score == pytest.approx(score)
    assert found.shares == shares and found.losses == kept


@pytest.mark.parametrize(
    ("mass", "mean"),
    [(0.1, 0.5), (0.3, 0.5), (0.4, (0.3 * 0.5 + 0.1 * 1.0) / 0.4), (0.6, 0.75), (5.0, (0.15 + 0.3 + 0.4) / 0.8)],
)
def test_the_best_by_hand(mass, mean):
    assert best_of(np.array([1.0, 2.0, 0.5]), np.array([0.3, 0.2, 0.3]), mass) == pytest.approx(mean)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), mass=st.floats(0.01, 1.0))
def test_the_best_do_not_depend_on_the_order(seed, mass):
    rng = np.random.default_rng(seed)
    loss, probability = rng.uniform(0.1, 1, 60), rng.dirichlet(np.ones(60))
    order = rng.permutation(60)
    assert best_of(loss[order], probability[order], mass) == pytest.approx(best_of(loss, probability, mass))
    assert best_of(2 * loss, probability, mass) == pytest.approx(2 * best_of(loss, probability, mass))


def subnets_of(lut, space):
    """Every combination of the LUT's candidates whose widths agree: its loss, latency and probability."""
    for resolution in lut.resolutions:
        partial = [(0.0, 0.0, 1 / len(lut.resolutions), 3)]
        for key in lut.keys(space):
            following = []
            for loss, latency_ms, probability, width in partial:
                options = lut.table(key)[resolution, width]
                for candidate in zip(options.loss, options.latency_ms, options.out_width, strict=True):
                    share = probability / len(options.loss)
                    following.append((loss + candidate[0], latency_ms + candidate[1], share, int(candidate[2])))
            partial = following
        for loss, latency_ms, probability, width in partial:
            yield loss, latency_ms + lut.head_ms[resolution, width], probability


@pytest.mark.parametrize("code", [((0, 1), (0, 0)), ((2, 0), (1, 0)), ((1, 1), (1, 0))])
def test_combinations_are_the_width_consistent_subnets_in_equal_parts(lut, code):
    space = Space(lut.hyperspace, *code)
    expected, found = Counter(), Counter()
    for loss, latency_ms, probability in subnets_of(lut, space):
        expected[round(loss, 9), round(latency_ms, 9)] += probability
    for loss, latency_ms, probability in zip(*combinations(lut, space), strict=True):
        found[round(loss, 9), round(latency_ms, 9)] += probability
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key]) for key in expected)
    assert sum(found.values()) == pytest.approx(1)


def test_a_latency_that_equals_the_budget_is_within_it(lut):
    space = Space(lut.hyperspace, (0, 2), (1, 0))
    loss, latency_ms, probability = combinations(lut, space)
    fastest = int(latency_ms.argmin())
    scorer = EnumeratingScorer(lut, (float(latency_ms[fastest]),), settings_of())
    assert scorer(space).shares[0] == pytest.approx(probability[fastest])
    assert scorer(space).losses[0] == pytest.approx(loss[fastest])


def test_the_score_is_what_sampling_tends_to(lut):
    space = Space(lut.hyperspace, (0, 2), (1, 0))
    (budget,) = quantiles(lut, 0.5)
    options = settings_of(samples=1000, top=100)
    found = EnumeratingScorer(lut, (budget,), options)(space)
    samples = 100_000
    loss, latency_ms = draw(lut, space, samples, np.random.default_rng(0))
    within = np.sort(loss[latency_ms <= budget])
    assert found.shares[0] == pytest.approx(len(within) / samples, abs=0.01)
    assert found.losses[0] == pytest.approx(within[: samples // 10].mean(), rel=0.01)


@pytest.fixture(scope="module")
def many():
    return many_lut()


def test_large_tables_are_summed_in_fourier_space(lut, many):
    assert isinstance(make_scorer(lut, [1.0], settings_of(), 0), EnumeratingScorer)
    assert most_combinations(many) == 2 * 2 * 25**3
    assert isinstance(make_scorer(many, [1.0], settings_of(), 0), SpectralScorer)


@pytest.mark.parametrize("shares", [(0.05,), (0.5,), (0.01, 0.2, 0.9)])
def test_spectral_scores_are_those_of_enumeration(many, shares):
    options = settings_of(samples=10_000, top=50)
    budgets = quantiles(many, *shares)
    spectral = SpectralScorer(many, budgets, options, 0)
    enumerated = EnumeratingScorer(many, budgets, options)
    rng = np.random.default_rng(1)
    for space in [sample_space(many.hyperspace, rng) for _ in range(12)]:
        found, expected = spectral(space), enumerated(space)
        assert found.shares == pytest.approx(expected.shares, abs=5e-3)
        for share, loss, exact in zip(expected.shares, found.losses, expected.losses, strict=True):
            if share > 2e-3:
                assert loss == pytest.approx(exact, rel=1e-2)


def test_spectral_scores_depend_on_the_space_alone(many):
    options, budgets = settings_of(samples=10_000, top=50), quantiles(many, 0.3)
    spaces = list(enumerate_spaces(many.hyperspace))[:20]
    first, again = (SpectralScorer(many, budgets, options, 3) for _ in range(2))
    assert [first(space) for space in spaces] == [again(space) for space in reversed(spaces)][::-1]


def test_spectral_scores_do_not_depend_on_what_is_remembered(many, monkeypatch):
    options, budgets = settings_of(samples=10_000, top=50), quantiles(many, 0.3)
    rng = np.random.default_rng(4)
    spaces = [sample_space(many.hyperspace, rng) for _ in range(20)]
    expected = [SpectralScorer(many, budgets, options, 3)(space) for space in spaces]
    monkeypatch.setattr(spectra, "REMEMBERED", 3)
    scorer = SpectralScorer(many, budgets, options, 3)
    assert [scorer(space) for space in spaces] == expected


def test_the_transform_of_the_pairs_that_matter_is_the_sum_over_subnets(many):
    """At each of them, of e^(−i · loss angle · loss − (i · latency angle + damping) · latency)."""
    spectrum = SparseSpectrum(many, quantiles(many, 1.0), 0.01, np.random.default_rng(0))
    space = sample_space(many.hyperspace, np.random.default_rng(1))
    loss, latency_ms, probability = combinations(many, space)
    loss = loss - sum(spectrum._least_loss)
    latency_ms = latency_ms - sum(spectrum._least_ms)
    found = spectrum._total(many.keys(space))
    for index in range(0, len(found), 97):
        loss_index, latency_index = divmod(int(spectrum._pairs[index]), len(spectrum._latency_angles))
        rate = spectrum._latency_angles[latency_index] + spectrum._damping
        waves = np.exp(-2j * np.pi / spectrum._period_loss * loss_index * loss - rate * latency_ms)
        assert found[index] == pytest.approx(probability @ waves, abs=1e-12)


def test_a_space_of_one_stage_is_no_special_case():
    document = declared()
    del document["stages"][2]
    full = made_lut(parse_hyperspace("one", document), samples=4000)
    searched = {
        key: {(resolution, width): part for (resolution, width), part in table.items() if width == 8}
        for key, table in full.searched.items()
    }
    lut = replace(full, searched=searched, fixed={})
    options, budgets = settings_of(samples=10_000, top=500), quantiles(lut, 0.5)
    space = sample_space(lut.hyperspace, np.random.default_rng(0))
    found, expected = SpectralScorer(lut, budgets, options, 0)(space), EnumeratingScorer(lut, budgets, options)(space)
    assert found.shares == pytest.approx(expected.shares, abs=5e-3)
    assert found.losses == pytest.approx(expected.losses, rel=1e-2)


def test_a_budget_that_nothing_can_meet_has_no_share(many):
    for scorer in (EnumeratingScorer, SpectralScorer):
        args = () if scorer is EnumeratingScorer else (0,)
        found = scorer(many, (0.01,), settings_of(samples=10_000), *args)(next(enumerate_spaces(many.hyperspace)))
        assert found.score == 0 and found.losses == (INFINITY,) and found.shares[0] == pytest.approx(0, abs=1e-12)


def test_budgets_far_apart_and_far_out_are_as_one_by_one(many):
    options = settings_of(samples=10_000, top=50)
    tight = quantiles(many, 0.2)[0]
    space = sample_space(many.hyperspace, np.random.default_rng(0))
    both = SpectralScorer(many, (tight, 1000 * tight), options, 0)(space)
    alone = [SpectralScorer(many, (budget,), options, 0)(space) for budget in (tight, 1000 * tight)]
    assert both.shares == pytest.approx([found.shares[0] for found in alone], abs=1e-3)
    assert both.losses == pytest.approx([found.losses[0] for found in alone], rel=2e-3)
    assert 0.99 < both.shares[1] <= 1.0


def test_the_stated_error_is_that_of_the_scores(many):
    options = settings_of(samples=10_000, top=50)
    budgets = quantiles(many, 0.3)
    spectral, enumerated = SpectralScorer(many, budgets, options, 0), EnumeratingScorer(many, budgets, options)
    rng = np.random.default_rng(2)
    spaces = [sample_space(many.hyperspace, rng) for _ in range(20)]
    errors = [(spectral(space).score - enumerated(space).score) / spectral(space).standard_error for space in spaces]
    assert np.sqrt(np.mean(np.square(errors))) < 4


def test_a_width_that_the_table_misses_is_no_matter():
    """A stage whose candidates never send the middle one of its widths."""
    document = declared()
    document["stages"][1] |= {"widths": [8, 16, 24, 32], "window": 3}
    full = made_lut(parse_hyperspace("gap", document), samples=12)
    table = full.searched[0, 0, 0]
    narrowed = {
        key: replace(part, out_width=np.where(part.out_width == 16, 24, part.out_width)) for key, part in table.items()
    }
    lut = replace(full, searched={**full.searched, (0, 0, 0): narrowed})
    options, budgets = settings_of(samples=10_000, top=100), quantiles(lut, 0.5)
    space = Space(lut.hyperspace, (0, 1), (0, 0))
    found, expected = SpectralScorer(lut, budgets, options, 0)(space), EnumeratingScorer(lut, budgets, options)(space)
    assert found.shares == pytest.approx(expected.shares, abs=0.02)
    assert found.losses == pytest.approx(expected.losses, rel=0.02)
