"""Loops over arrays, compiled by Numba for the CPU they run on, and spread over torch's threads.

They take the place of several operations of torch, each of which would go through memory once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import ParamSpec, TypeVar, cast

import torch
from numba import njit

P = ParamSpec("P")
R = TypeVar("R")


def compiled(signature: str, *, reorder: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a loop, once per machine, for arguments of these types; it runs without the interpreter's lock.

    Args:
        signature: types of the result and the arguments, as Numba has them.
        reorder: sums may be computed in another order than written, and products be added unrounded.
    """

    fast = {"reassoc", "nsz", "contract"} if reorder else False

    def compile_(function: Callable[P, R]) -> Callable[P, R]:
        options = {"nogil": True, "error_model": "numpy", "fastmath": fast}
        try:
            return cast(Callable[P, R], njit(signature, cache=True, **options)(function))
        except RuntimeError:  # there is no folder that it could be kept in for other processes
            return cast(Callable[P, R], njit(signature, **options)(function))

    return compile_


def spread(loop: Callable[[int, int], R], length: int, least: int) -> list[R]:
    """Results of `loop(start, stop)` for parts of 0 … `length`, of at least `least`, one on each of torch's threads."""
    parts = max(min(torch.get_num_threads(), length // least), 1)
    if parts == 1:
        return [loop(0, length)]
    bounds = [length * i // parts for i in range(parts + 1)]
    return list(_pool(parts).map(loop, bounds[:-1], bounds[1:]))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="loops")
