"""Several threads side by side, for work on torch tensors of which each piece is too small for two cores.

Two subnets on a thread each use two cores far better than two threads on the small operations of one: torch leaves the
interpreter's lock alone while it computes, and no operation waits for another thread's share of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, TypeVar

import torch

MOST_AT_ONCE = 2  # each keeps in memory what it works on

A = TypeVar("A")
T = TypeVar("T")


class Mapper(Protocol):
    """Applies a function to items and gives the results in their order, as `map` does; perhaps several at a time."""

    def __call__(self, function: Callable[[A], T], items: Iterable[A], /) -> Iterable[T]: ...


class SideBySide(AbstractContextManager["SideBySide"]):
    """A `Mapper` that begins items in their order, `at_once` at a time; one at a time is the caller's own thread."""

    def __init__(self, at_once: int) -> None:
        self._pool = ThreadPoolExecutor(at_once) if at_once > 1 else None

    def __call__(self, function: Callable[[A], T], items: Iterable[A], /) -> Iterator[T]:
        return map(function, items) if self._pool is None else self._pool.map(function, items)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def share_threads(threads: int, most: int = MOST_AT_ONCE) -> int:
    """How many pieces of work, at most `most`, to have at once on so many threads; torch gets as many for each."""
    at_once = min(threads, most)
    torch.set_num_threads(threads // at_once)
    return at_once
