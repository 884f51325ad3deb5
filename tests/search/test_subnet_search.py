"""Subnet search: within budgets, without duplicates, seeded, the front as it is, and better than chance."""

from dataclasses import replace

import numpy as np
import pytest
from made import small_hyperspace

from spaceevo.config import SubnetSearchSettings
from spaceevo.errors import BudgetError
from spaceevo.parallel import SideBySide
from spaceevo.search.subnets import search_subnets
from spaceevo.space import Space, load_hyperspace, sample_space, sample_subnet

SMALL = Space(small_hyperspace(), (0, 2), (1, 0))
LARGE = sample_space(load_hyperspace("mobilew"), np.random.default_rng(0))


def latency_ms(space):
    """A sum over blocks: every choice costs, as with the predictors of devices."""
    high = space.hyperspace.resolutions[-1]

    def of(subnet):
        blocks = [block for choice in subnet.stages for block in choice]
        return sum(block.kernel_size + block.width / 8 for block in blocks) * (subnet.resolution / high) ** 2 / 100

    return of


def accuracy(space):
    """Grows with the resolution and every choice, in some stages much more than in others: that is to be found."""
    gains = np.random.default_rng(0).permutation(np.geomspace(0.01, 1, len(space.options)))

    def of(subnet):
        total = 0.0
        for gain, options, choice in zip(gains, space.options, subnet.stages, strict=True):
            total += gain * sum(block.width / options.widths[-1] + 0.1 * block.kernel_size for block in choice)
        return float(1 - np.exp(-0.1 * total * subnet.resolution / space.hyperspace.resolutions[-1]))

    return of


def settings(evaluations=60, initial=20, parents=6, probability=0.2):
    return SubnetSearchSettings(
        evaluations=evaluations, initial=initial, parents=parents, mutation_probability=probability
    )


def search(space=LARGE, *, budgets, seed=0, **sizes):
    ranked, table = search_subnets(space, latency_ms(space), accuracy(space), budgets, settings(**sizes), seed)
    return winners(ranked), table


def winners(ranked):
    return [within[0] for within in ranked]


@pytest.fixture(scope="module")
def budgets():
    """Budgets that a tenth, a half and nine tenths of random subnets meet."""
    rng = np.random.default_rng(1)
    sampled = [latency_ms(LARGE)(sample_subnet(LARGE, rng)) for _ in range(500)]
    return tuple(float(np.quantile(sampled, q)) for q in (0.1, 0.5, 0.9))


@pytest.mark.parametrize("seed", range(3))
def test_winners_are_the_best_within_their_budgets(budgets, seed):
    best, table = search(budgets=budgets, seed=seed)
    assert len(best) == len(budgets) and len(table) == 60 and table["code"].is_unique
    for found, budget in zip(best, budgets, strict=True):
        assert found.latency_ms <= budget
        assert found.accuracy == table.loc[table["latency_ms"] <= budget, "accuracy"].max()
        assert LARGE.contains(found.subnet)
        assert (found.latency_ms, found.accuracy) == (latency_ms(LARGE)(found.subnet), accuracy(LARGE)(found.subnet))
    assert [found.accuracy for found in best] == sorted(found.accuracy for found in best)


def test_what_is_within_a_budget_is_ranked_by_accuracy(budgets):
    ranked, table = search_subnets(LARGE, latency_ms(LARGE), accuracy(LARGE), budgets, settings(), 0)
    for within, budget in zip(ranked, budgets, strict=True):
        expected = table[table["latency_ms"] <= budget].sort_values("accuracy", ascending=False)
        assert [found.accuracy for found in within] == list(expected["accuracy"])
        assert {found.subnet.code for found in within} == set(expected["code"])


def test_every_row_is_what_it_says(budgets):
    _, table = search(budgets=budgets)
    for row in table.itertuples():
        subnet = LARGE.subnet(row.code)
        assert row.latency_ms == latency_ms(LARGE)(subnet) <= max(budgets)
        assert row.accuracy == accuracy(LARGE)(subnet)
    assert set(table["origin"]) == {"fastest", "end", "random", "mutation", "crossover"}
    assert table["origin"][0] == "fastest"
    ends = {
        replace(end, resolution=resolution).code
        for end in (LARGE.smallest, LARGE.largest)
        for resolution in LARGE.hyperspace.resolutions
    }
    within = {code for code in ends if latency_ms(LARGE)(LARGE.subnet(code)) <= max(budgets)}
    assert set(table.loc[table["origin"] == "end", "code"]) == within - {table["code"][0]}
    assert len(within) > 2
    assert (table["origin"][len(within) : 20] == "random").all()


@pytest.mark.parametrize("seed", range(3))
def test_the_front_holds_those_that_none_beats_in_both(budgets, seed):
    coarse = accuracy(LARGE)
    _, table = search_subnets(
        LARGE, latency_ms(LARGE), lambda subnet: round(coarse(subnet), 2), budgets, settings(), seed
    )
    pairs = set(zip(table["latency_ms"], table["accuracy"], strict=True))
    assert table["accuracy"].duplicated().any()  # of two that are as good, the faster one
    front = {
        (ms, share)
        for ms, share in pairs
        if not any(other != (ms, share) and other[0] <= ms and other[1] >= share for other in pairs)
    }
    chosen = table[table["on_front"]]
    assert set(zip(chosen["latency_ms"], chosen["accuracy"], strict=True)) == front


def test_it_finds_the_same_however_many_are_evaluated_at_a_time(budgets):
    arguments = LARGE, latency_ms(LARGE), accuracy(LARGE), budgets, settings(), 0
    with SideBySide(2) as mapper:
        (ranked, table), (alone, alone_table) = search_subnets(*arguments, mapper), search_subnets(*arguments)
    assert ranked == alone and table.equals(alone_table)


def test_it_depends_on_the_seed_alone(budgets):
    first, again, other = (search(budgets=budgets, seed=seed) for seed in (1, 1, 2))
    assert first[0] == again[0] and first[1].equals(again[1])
    assert set(first[1]["code"]) != set(other[1]["code"])


def test_it_is_better_than_chance(budgets):
    """On average over seeds, within every budget, at the same number of evaluations."""

    def mean_accuracies(initial):
        runs = [search(budgets=budgets, seed=seed, evaluations=150, initial=initial)[0] for seed in range(6)]
        return np.mean([[found.accuracy for found in best] for best in runs], axis=0)

    assert (mean_accuracies(50) > mean_accuracies(150)).all()


def test_a_subnet_is_evaluated_once(budgets):
    asked = []

    def counting(subnet):
        asked.append(subnet.code)
        return accuracy(LARGE)(subnet)

    search_subnets(LARGE, latency_ms(LARGE), counting, budgets, settings(), 0)
    assert len(asked) == len(set(asked)) == 60


def test_a_space_with_fewer_subnets_is_gone_through_and_left():
    space = SMALL
    every = list(space.enumerate())
    budget = sorted(latency_ms(space)(subnet) for subnet in every)[8]
    best, table = search(space, budgets=(budget,), evaluations=40, initial=10)
    within = {subnet.code for subnet in every if latency_ms(space)(subnet) <= budget}
    assert set(table["code"]) <= within and space.smallest.code in set(table["code"])
    assert best[0].accuracy == max(accuracy(space)(subnet) for subnet in every if subnet.code in set(table["code"]))


def test_a_budget_below_the_smallest_subnet_states_its_latency(budgets):
    smallest = latency_ms(LARGE)(LARGE.smallest)
    with pytest.raises(BudgetError) as caught:
        search(budgets=(*budgets, smallest * 0.99))
    sentence = str(caught.value)
    assert f"{smallest:.4g} ms" in sentence and f"{smallest * 0.99:.4g} ms" in sentence and LARGE.code in sentence
    assert "\n" not in sentence


def test_a_budget_of_just_the_smallest_subnet_is_met():
    smallest = latency_ms(SMALL)(SMALL.smallest)
    best, _ = search(SMALL, budgets=(smallest, 1.0), evaluations=20, initial=5)
    assert best[0].subnet == SMALL.smallest and best[1].accuracy > best[0].accuracy


def test_the_fastest_subnet_need_not_be_the_smallest():
    """A wider stem that spares the next stage its projected shortcut, as block types with residuals do."""

    def latency(subnet):
        (stem,), (first, *_), _ = subnet.stages
        return latency_ms(SMALL)(subnet) + (0.5 if stem.width != first.width else 0.0)

    fastest = min(latency(subnet) for subnet in SMALL.enumerate())
    assert fastest < latency(SMALL.smallest)
    ranked, _ = search_subnets(SMALL, latency, accuracy(SMALL), (fastest, 1.0), settings(20, 5), 0)
    assert winners(ranked)[0].latency_ms == fastest
    with pytest.raises(BudgetError, match=f"{fastest:.4g} ms"):
        search_subnets(SMALL, latency, accuracy(SMALL), (fastest * 0.99,), settings(20, 5), 0)
