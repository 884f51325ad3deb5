"""Loops over arrays, compiled by Numba for the CPU they run on, and spread over torch's threads.

They take the place of several operations of torch, each of which would go through memory once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from itertools import pairwise
from typing import ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
R = TypeVar("R")


def compiled(signature: str, *, reorder: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a loop when it is first called, in each process; it runs without the interpreter's lock.

    What is compiled is not kept for other processes: it takes less than a second, and Numba's files on a disk that
    several machines share can be taken for those of another CPU.

    Args:
        signature: types of the result and the arguments, as Numba has them.
        reorder: sums may be computed in another order than written, and products be added unrounded.
    """
    fast = {"reassoc", "nsz", "contract"} if reorder else False

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @cache
        def machine_code() -> Callable[P, R]:
            from numba import njit  # slow to import, and many processes have no use for it

            return cast(Callable[P, R], njit(signature, nogil=True, error_model="numpy", fastmath=fast)(function))

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return machine_code()(*args, **kwargs)

        return call

    return decorate


def spread(loop: Callable[[int, int], R], length: int, least: int) -> list[R]:
    """Results of `loop(start, stop)` for parts of 0 … `length`, of at least `least`, as many as torch has threads."""
    parts = max(min(torch.get_num_threads(), length // least), 1)
    if parts == 1:
        return [loop(0, length)]
    bounds = [length * i // parts for i in range(parts + 1)]
    others = [_pool().submit(loop, start, stop) for start, stop in pairwise(bounds[1:])]
    return [loop(0, bounds[1]), *(other.result() for other in others)]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="loops")
