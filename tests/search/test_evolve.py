"""Evolution of spaces: bounded, without duplicates, seeded, and it finds the best of what can be gone through."""

import re
from itertools import product

import pytest
from made import declared
from search.luts import made_lut, quantiles

from spaceevo.config import EvolutionSettings, QTSettings
from spaceevo.errors import BudgetError
from spaceevo.search.evolve import evolve_space
from spaceevo.search.lut import smallest_latency
from spaceevo.search.score import EnumeratingScorer, SpaceScore
from spaceevo.space import count_spaces, enumerate_spaces, parse_hyperspace

SCORING = QTSettings(samples=100, top=10)


def sizes(population=6, parent_sample=3, evaluations=100, leave_out=()):
    return EvolutionSettings(
        population=population, parent_sample=parent_sample, evaluations=evaluations, leave_out=leave_out
    )


def scorer_of(lut, budgets):
    return EnumeratingScorer(lut, tuple(budgets), SCORING)


def wide_lut(seed):
    """A LUT of a hyperspace with some hundred spaces."""
    document = declared()
    document["stages"][2]["widths"] = [16, 24, 32, 40]
    document["stages"].insert(3, {**document["stages"][2], "name": "stage3", "widths": [24, 32, 40, 48, 56]})
    return made_lut(parse_hyperspace("wide", document), seed=seed)


@pytest.fixture(scope="module")
def wide():
    return wide_lut(0)


def differences(code, parent):
    return sum(a != b for a, b in zip(code, parent, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_best_of_a_hyperspace_it_can_go_through(lut, seed):
    budgets = quantiles(lut, 0.3, 0.6)
    best, table = evolve_space(scorer_of(lut, budgets), sizes(), seed)
    scorer = scorer_of(lut, budgets)
    scores = {space.code: scorer(space) for space in enumerate_spaces(lut.hyperspace)}
    assert best.code == max(scores, key=lambda code: scores[code].score)
    assert set(table["code"]) == set(scores) and len(table) == count_spaces(lut.hyperspace) == 18
    for row in table.itertuples():
        assert row.score == scores[row.code].score
        assert (row.share_0, row.share_1) == scores[row.code].shares
        assert (row.loss_0, row.loss_1) == scores[row.code].losses


@pytest.mark.parametrize("block_types", [(0, 2), (1,)])
def test_it_leaves_out_what_it_should_and_nothing_else(lut, block_types):
    scorer = scorer_of(lut, quantiles(lut, 0.3, 0.6))
    left_out = [kind.block for index, kind in enumerate(lut.hyperspace.block_types) if index not in block_types]
    best, table = evolve_space(scorer, sizes(leave_out=left_out), 0)
    allowed = [space for space in enumerate_spaces(lut.hyperspace) if {*space.block_types} <= {*block_types}]
    assert set(table["code"]) == {space.code for space in allowed}
    assert best == max(allowed, key=lambda space: scorer(space).score)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_bounded_and_without_duplicates(wide, seed):
    best, table = evolve_space(scorer_of(wide, quantiles(wide, 0.3, 0.6)), sizes(evaluations=60), seed)
    assert len(table) == 60 < count_spaces(wide.hyperspace) and table["code"].is_unique
    assert best.code == table.loc[table["score"].idxmax(), "code"]
    assert table["best_score"].tolist() == table["score"].cummax().tolist()
    assert table["evaluation"].tolist() == list(range(60))


def test_children_are_mutations_of_spaces_that_are_alive(wide):
    _, table = evolve_space(scorer_of(wide, quantiles(wide, 0.3, 0.6)), sizes(population=8, evaluations=60), 0)
    assert (table["parent"][:8] == "").all()
    codes = table["code"].tolist()
    for row in table[8:].itertuples():
        assert row.parent in codes[row.evaluation - 8 : row.evaluation]  # the oldest dies
    away = [differences(row.code, row.parent) for row in table[8:].itertuples()]
    assert sum(distance == 1 for distance in away) > 0.8 * len(away)


def test_parents_are_the_best_of_those_drawn(wide):
    """With everyone drawn, every parent is the best alive."""
    _, table = evolve_space(
        scorer_of(wide, quantiles(wide, 0.3, 0.6)), sizes(population=8, parent_sample=8, evaluations=60), 0
    )
    for row in table[8:].itertuples():
        alive = table[row.evaluation - 8 : row.evaluation]
        assert row.parent == alive.loc[alive["score"].idxmax(), "code"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_evolution_is_better_than_chance(number):
    """On average over seeds, at the same number of evaluations; a population that is never full is random search."""
    lut = wide_lut(number)
    budgets = quantiles(lut, 0.3, 0.6)

    def mean_best(population):
        options = sizes(population=population, parent_sample=10, evaluations=80)
        return sum(evolve_space(scorer_of(lut, budgets), options, s)[1]["best_score"].iloc[-1] for s in range(6)) / 6

    assert mean_best(20) > mean_best(80)


def test_it_depends_on_the_seed_alone(wide):
    budgets, options = quantiles(wide, 0.3, 0.6), sizes(evaluations=30)
    first, again, other = (evolve_space(scorer_of(wide, budgets), options, seed) for seed in (1, 1, 2))
    assert first[0] == again[0] and first[1].equals(again[1])
    assert not first[1].equals(other[1])


def smallest_by_hand(lut):
    """Over all spaces and all their width-consistent combinations, one at a time."""
    found = []
    for space, resolution in product(enumerate_spaces(lut.hyperspace), lut.resolutions):
        reached = [(0.0, 3)]
        index = iter(range(len(space.windows)))
        for stage in space.hyperspace.body:
            i = next(index) if stage.searched else None
            table = lut.fixed[stage.name] if i is None else lut.searched[i, space.block_types[i], space.windows[i]]
            reached = [
                (so_far + latency_ms, int(width))
                for so_far, arriving in reached
                for latency_ms, width in zip(
                    table[resolution, arriving].latency_ms, table[resolution, arriving].out_width, strict=True
                )
            ]
        found += [so_far + lut.head_ms[resolution, width] for so_far, width in reached]
    return min(found)


def test_the_smallest_latency_is_that_of_all_combinations(lut):
    assert smallest_latency(lut) == pytest.approx(smallest_by_hand(lut))
    assert smallest_latency(made_lut(lut.hyperspace, samples=3, seed=1)) == pytest.approx(
        smallest_by_hand(made_lut(lut.hyperspace, samples=3, seed=1))
    )


def test_a_budget_out_of_reach_states_the_smallest_latency(lut):
    smallest = smallest_latency(lut)
    with pytest.raises(BudgetError) as caught:
        evolve_space(scorer_of(lut, [smallest * 0.9, 2.0]), sizes(), 0)
    sentence = str(caught.value)
    stated = re.search(r"about ([\d.]+) ms", sentence)
    assert float(stated[1]) == pytest.approx(smallest, rel=1e-3)
    assert f"{smallest * 0.9:g} ms" in sentence and "\n" not in sentence


def test_a_budget_that_some_space_meets_is_no_error(lut):
    """Even where the space of the best score is not one of them."""
    few = "small-00-00"

    class Made(EnumeratingScorer):
        def __call__(self, space):
            if space.code == few:
                return SpaceScore(0.1, (0.2, 0.2), (9.0, 9.0))
            return SpaceScore(1.0, (0.0, 0.5), (float("inf"), 1.0))

    best, table = evolve_space(Made(lut, (0.9, 1.3), SCORING), sizes(), 0)
    assert best.code == few and table["share_0"].max() > 0
