"""Seeded choices that keep the classes in proportion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spaceevo.errors import DataError

Indices = npt.NDArray[np.int64]


def stratified_parts(
    labels: npt.ArrayLike, fractions: Sequence[float], seed: int, class_names: Sequence[str] | None = None
) -> list[Indices]:
    """Split the indices of `labels` into a rest and one part per fraction, each class in the same proportion.

    Every part, and the rest, holds at least one index of every class.

    Args:
        labels: the class of each item, integers [N].
        fractions: the share of each part, in (0, 1), with a sum below 1.
        seed: the choice is a pure function of the labels, the fractions and this seed.
        class_names: used in errors; the label itself where absent.

    Returns:
        `[rest, part of fractions[0], part of fractions[1], ...]`, each sorted int64.

    Raises:
        DataError: the fractions are out of range, or a class has too few items to be in every part.
    """
    if any(not 0 < fraction < 1 for fraction in fractions) or sum(fractions) >= 1:
        raise DataError(f"The fractions to split off, {list(fractions)}, must be above 0 and add up to less than 1.")
    labels = np.asarray(labels)
    parts: list[list[Indices]] = [[] for _ in range(len(fractions) + 1)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        sizes = [max(1, round(fraction * len(members))) for fraction in fractions]
        if sum(sizes) >= len(members):
            name = class_names[int(label)] if class_names is not None else str(label)
            raise DataError(
                f"Class {name} has {len(members)} images, too few to split in {len(parts)}: "
                f"add images (at least {len(parts)}), lower the fractions, or remove the class."
            )
        shuffled = members[shuffled_order(len(members), seed, int(label))]
        bounds = np.cumsum([0, *sizes])
        for part, start, stop in zip(parts[1:], bounds[:-1], bounds[1:], strict=True):
            part.append(shuffled[start:stop])
        parts[0].append(shuffled[bounds[-1] :])
    return [np.sort(np.concatenate(part)) for part in parts]


def balanced_subset(labels: npt.ArrayLike, size: int, seed: int) -> Indices:
    """Sorted indices of `size` items with as equal a number of each class as there are items for.

    All indices where `size` is at least the number of labels.
    """
    labels = np.asarray(labels)
    rank_in_class = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank_in_class[members[shuffled_order(len(members), seed, int(label))]] = np.arange(len(members))
    tie_break = shuffled_order(len(labels), seed)
    return np.sort(np.lexsort((tie_break, rank_in_class))[:size]).astype(np.int64)


def shuffled_order(size: int, seed: int, *stream: int) -> Indices:
    """A permutation of `range(size)`, a pure function of its arguments.

    It sorts raw PCG64 words, the one thing NumPy promises never to change (NEP 19), so that a split made by one
    version of NumPy is made by every other.
    """
    words = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=stream)).random_raw(size)
    return np.argsort(words, kind="stable").astype(np.int64)
