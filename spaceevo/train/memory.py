"""Letting the C library keep freed memory, which training asks for again at once."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # of mallopt(3)
_KEPT = 2**31 - 1  # bytes: more of free memory than this at the heap's end goes back to the system


def keep_freed_memory() -> bool:
    """Let glibc serve large tensors from memory that was freed before, instead of new pages of the system each time.

    Every new page costs a fault and is zeroed: on CPUs a good part of a training step of large pictures. Returns
    whether the C library understood; others go on as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library than glibc
        return False
    # One arena for all threads: what one frees serves the others, and other arenas hold no tensor above 64 MiB.
    understood = mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _KEPT), mallopt(_TOP_PAD, 1 << 26)
    return all(understood) and bool(mallopt(_ARENA_MAX, 1))
