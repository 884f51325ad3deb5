"""Shortlists: the best within each budget, judged once each, in a new order before the others."""

from zlib import crc32

import numpy as np
import pytest

from spaceevo.config import ShortlistSettings, SubnetSearchSettings
from spaceevo.parallel import SideBySide
from spaceevo.search.shortlist import Shortlist, judge_shortlists, shortlist_of
from spaceevo.search.subnets import search_subnets
from spaceevo.space import load_hyperspace, sample_space

SPACE = sample_space(load_hyperspace("tiny"), np.random.default_rng(0))
SETTINGS = SubnetSearchSettings(evaluations=60, initial=30, parents=6, mutation_probability=0.3)
SIZE = 6


def latency_ms(subnet):
    return sum(block.width * block.kernel_size for stage in subnet.stages for block in stage) / 1000


def accuracy(subnet):
    return 1 - 1 / (1 + latency_ms(subnet))


def judged(subnet):
    """Another accuracy, by which those that were found come in another order."""
    return accuracy(subnet) - 0.1 * np.random.default_rng(crc32(subnet.code.encode())).random()


@pytest.fixture(scope="module")
def searched():
    fastest = latency_ms(SPACE.smallest)
    budgets = [1.5 * fastest, 2 * fastest, 2.5 * fastest]
    return *search_subnets(SPACE, latency_ms, accuracy, budgets, SETTINGS, 0), budgets


def codes(found):
    return [one.subnet.code for one in found]


def test_the_best_within_each_budget_come_in_a_new_order_before_the_others(searched):
    before, table, budgets = searched
    ranked, judged_table = judge_shortlists(before, table, budgets, Shortlist(SIZE, judged))
    assert [within[0].subnet for within in ranked] != [within[0].subnet for within in before]
    for within, as_found in zip(ranked, before, strict=True):
        assert set(codes(within[:SIZE])) == set(codes(as_found[:SIZE])) and within[SIZE:] == as_found[SIZE:]
        expected = sorted((judged(found.subnet) for found in as_found[:SIZE]), reverse=True)
        assert [found.accuracy for found in within[:SIZE]] == expected
    assert judged_table.drop(columns="shortlist_accuracy").equals(table)
    known = judged_table.dropna(subset="shortlist_accuracy")
    assert set(known["code"]) == {code for within in before for code in codes(within[:SIZE])}
    assert all(row.shortlist_accuracy == judged(SPACE.subnet(row.code)) for row in known.itertuples())


def test_a_subnet_on_two_shortlists_is_judged_once(searched):
    ranked, table, budgets = searched
    asked = []

    def counting(subnet):
        asked.append(subnet.code)
        return judged(subnet)

    judge_shortlists([*ranked, ranked[-1]], table, [*budgets, budgets[-1]], Shortlist(SIZE, counting))
    assert len(asked) == len(set(asked)) < SIZE * (len(budgets) + 1)


def test_a_shortlist_may_be_longer_than_what_was_found(searched):
    ranked, table, budgets = searched
    again, judged_table = judge_shortlists(ranked, table, budgets, Shortlist(1000, judged))
    for within, as_found in zip(again, ranked, strict=True):
        assert within[0].accuracy == max(judged(found.subnet) for found in as_found)
    assert judged_table["shortlist_accuracy"].notna().all()


def test_without_a_shortlist_all_is_as_it_was_found(searched):
    ranked, table, budgets = searched

    def never(subnet):
        raise AssertionError

    again, judged_table = judge_shortlists(ranked, table, budgets, Shortlist(0, never))
    assert again == ranked and judged_table["shortlist_accuracy"].dtype == np.float64
    assert judged_table["shortlist_accuracy"].isna().all()


def test_it_is_the_same_however_many_are_judged_at_a_time(searched):
    ranked, table, budgets = searched
    arguments = ranked, table, budgets, Shortlist(SIZE, judged)
    with SideBySide(2) as mapper:
        (together, together_table), (alone, alone_table) = (
            judge_shortlists(*arguments, mapper),
            judge_shortlists(*arguments),
        )
    assert together == alone and together_table.equals(alone_table)


def test_the_parameters_say_how_long_it_is_and_on_how_many_images():
    made = shortlist_of(ShortlistSettings(subnets=3, val_images=700), lambda count: lambda subnet: count / 1000)
    assert (made.size, made.accuracy(SPACE.smallest)) == (3, 0.7)
