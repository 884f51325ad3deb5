import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaceevo.data.stratify import balanced_subset, shuffled_order, stratified_parts
from spaceevo.errors import DataError


@given(counts=st.lists(st.integers(5, 40), min_size=1, max_size=5), seed=st.integers(0, 2**32))
def test_parts_are_a_stratified_partition(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    parts = stratified_parts(labels, (0.2, 0.1), seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for label, count in enumerate(counts):
        sizes = [int((labels[part] == label).sum()) for part in parts]
        assert sizes[1] == max(1, round(0.2 * count))
        assert sizes[2] == max(1, round(0.1 * count))
        assert sizes[0] >= 1


def test_parts_depend_on_the_seed_alone() -> None:
    labels = np.arange(100) % 4
    first, again, other = (stratified_parts(labels, (0.3,), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def test_too_small_class_is_named() -> None:
    with pytest.raises(DataError, match="Class rare has 2 images"):
        stratified_parts([0] * 20 + [1] * 2, (0.1, 0.1), 0, ["common", "rare"])


@pytest.mark.parametrize("fractions", [(0.0, 0.1), (0.5, 0.5), (1.2,), (-0.1, 0.5)])
def test_impossible_fractions(fractions: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="fractions"):
        stratified_parts(np.arange(100) % 4, fractions, 0)


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=5), size=st.integers(1, 200), seed=st.integers(0, 2**32)
)
def test_subset_is_as_balanced_as_the_items_allow(counts: list[int], size: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    subset = balanced_subset(labels, size, seed)
    assert len(np.unique(subset)) == len(subset) == min(size, len(labels))
    taken = np.bincount(labels[subset], minlength=len(counts))
    unexhausted = taken[taken < np.array(counts)]
    if len(unexhausted):
        assert taken.max() - unexhausted.min() <= 1


def test_subset_depends_on_the_seed() -> None:
    labels = np.arange(100) % 4
    np.testing.assert_array_equal(balanced_subset(labels, 20, 1), balanced_subset(labels, 20, 1))
    assert not np.array_equal(balanced_subset(labels, 20, 1), balanced_subset(labels, 20, 2))


def test_order_is_a_permutation_fixed_for_good() -> None:
    assert sorted(shuffled_order(50, 3, 1)) == list(range(50))
    assert shuffled_order(8, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]
    assert not np.array_equal(shuffled_order(50, 3, 1), shuffled_order(50, 3, 2))
