"""Sampling, mutation and crossover stay inside their space, depend on the generator alone, and reach everything."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import declared, small_hyperspace

from spaceevo.space import (
    Space,
    cross_subnets,
    enumerate_spaces,
    load_hyperspace,
    mutate_space,
    mutate_subnet,
    parse_hyperspace,
    sample_space,
    sample_stage,
    sample_subnet,
)
from spaceevo.space.hyperspace import SHIPPED

HYPERSPACES = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", HYPERSPACES)
@settings(max_examples=40, deadline=None)
@given(seed=seeds, probability=st.floats(0, 1))
def test_moves_of_subnets_stay_inside_the_space(name, seed, probability):
    rng = np.random.default_rng(seed)
    space = sample_space(load_hyperspace(name), rng)
    first, second = sample_subnet(space, rng), sample_subnet(space, rng)
    child = cross_subnets(first, second, rng)
    for subnet in (first, second, child, mutate_subnet(space, first, probability, rng)):
        space.check(subnet)
    assert child.resolution in (first.resolution, second.resolution)
    for stage, *parents in zip(child.stages, first.stages, second.stages, strict=True):
        assert stage in parents


def differences(space: Space, other: Space) -> int:
    """In how many digits of their codes two spaces differ."""
    digits = zip(space.block_types + space.windows, other.block_types + other.windows, strict=True)
    return sum(a != b for a, b in digits)


@pytest.mark.parametrize("name", HYPERSPACES)
@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_mutating_a_space_changes_one_stage_in_one_respect(name, seed):
    rng = np.random.default_rng(seed)
    space = sample_space(load_hyperspace(name), rng)
    for _ in range(5):
        mutated = mutate_space(space, rng)
        assert differences(space, mutated) == 1
        assert mutated.block_types != space.block_types or mutated.windows != space.windows
        assert all(
            0 <= window < stage.windows
            for window, stage in zip(mutated.windows, mutated.hyperspace.searched_stages, strict=True)
        )
        assert max(mutated.block_types) < len(mutated.hyperspace.block_types)


def test_mutation_reaches_every_neighbour():
    rng = np.random.default_rng(0)
    space = Space(small_hyperspace(), (0, 2), (1, 0))
    neighbours = {other.code for other in enumerate_spaces(space.hyperspace) if differences(space, other) == 1}
    assert {mutate_space(space, rng).code for _ in range(500)} == neighbours


def test_spaces_of_some_block_types_are_drawn_and_stay_so():
    rng = np.random.default_rng(0)
    allowed = (0, 2)
    drawn = [sample_space(small_hyperspace(), rng, allowed) for _ in range(50)]
    mutated = [mutate_space(space, rng, allowed) for space in drawn]
    for spaces in (drawn, mutated):
        assert {index for space in spaces for index in space.block_types} == set(allowed)
    assert all(differences(space, other) == 1 for space, other in zip(drawn, mutated, strict=True))


def test_where_no_window_can_change_the_block_type_does():
    space = Space(small_hyperspace(), (0, 2), (0, 0))
    fixed = [stage for stage in space.hyperspace.searched_stages if stage.windows == 1]
    assert [stage.name for stage in fixed] == ["stage2"]  # the only window of it can never be drawn
    rng = np.random.default_rng(0)
    assert all(mutate_space(space, rng).windows[1] == 0 for _ in range(200))


def test_where_all_windows_are_the_only_ones_every_mutation_is_of_a_block_type():
    document = declared()
    document["stages"][1]["widths"] = [8, 16]
    space = Space(parse_hyperspace("narrow", document), (0, 2), (0, 0))
    rng = np.random.default_rng(0)
    mutated = [mutate_space(space, rng) for _ in range(50)]
    assert all(other.windows == (0, 0) and differences(space, other) == 1 for other in mutated)


def test_a_mutation_of_probability_zero_and_one():
    rng = np.random.default_rng(0)
    space = sample_space(load_hyperspace("mobilew"), rng)
    subnet = sample_subnet(space, rng)
    assert mutate_subnet(space, subnet, 0.0, rng) == subnet
    assert len({mutate_subnet(space, subnet, 1.0, rng).code for _ in range(20)}) == 20


@pytest.mark.parametrize("name", HYPERSPACES)
def test_draws_depend_on_the_generator_alone(name):
    def draw(seed):
        rng = np.random.default_rng(seed)
        space = sample_space(load_hyperspace(name), rng)
        mutated = mutate_space(space, rng)
        subnets = sample_subnet(space, rng), sample_subnet(space, rng)
        moved = mutate_subnet(space, subnets[0], 0.5, rng), cross_subnets(*subnets, rng)
        return [space.code, mutated.code, *(subnet.code for subnet in (*subnets, *moved))]

    state = np.random.get_state()[1].copy()
    assert draw(3) == draw(3) != draw(4)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_every_choice_is_drawn_about_equally_often():
    rng = np.random.default_rng(0)
    space = Space(small_hyperspace(), (0, 1), (0, 0))
    subnets = [sample_subnet(space, rng) for _ in range(4000)]
    blocks = Counter(subnet.stages[1][0] for subnet in subnets)
    assert set(blocks) == set(space.options[1].blocks)
    for counts in (blocks, Counter(s.resolution for s in subnets), Counter(len(s.stages[1]) for s in subnets)):
        expected = len(subnets) / len(counts)
        assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_a_given_depth_is_kept():
    options = Space(small_hyperspace(), (0, 1), (0, 0)).options[1]
    rng = np.random.default_rng(0)
    assert {len(sample_stage(options, rng, depth=2)) for _ in range(20)} == {2}


@pytest.mark.parametrize("module", ["spaceevo.space", "spaceevo.nn.network"])
def test_describing_networks_needs_nothing_heavy(module):
    code = f"import sys, {module}; print([n for n in ('torch', 'pandas', 'pyarrow', 'tensorflow') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
