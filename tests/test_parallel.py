"""Work side by side: results in order, errors passed on, threads shared out."""

import threading

import pytest
import torch

from spaceevo.parallel import SideBySide, share_threads


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_results_are_in_the_order_of_the_items(at_once):
    """Also where later ones are done first."""
    with SideBySide(at_once) as mapper:
        assert list(mapper(lambda number: -number, range(20))) == [-number for number in range(20)]
        assert list(mapper(str, [])) == []


def test_so_many_at_a_time():
    """Two meet at a barrier, which neither could pass alone."""
    barrier = threading.Barrier(2, timeout=30)
    with SideBySide(2) as mapper:
        assert sorted(mapper(lambda _: barrier.wait(), range(4))) == [0, 0, 1, 1]


def test_one_at_a_time_is_the_own_thread_and_begins_an_item_when_it_is_asked_for():
    begun = []
    with SideBySide(1) as mapper:
        results = mapper(lambda number: begun.append((number, threading.current_thread())), range(3))
        next(iter(results))
    assert begun == [(0, threading.main_thread())]


@pytest.mark.parametrize("at_once", [1, 2])
def test_an_error_reaches_the_caller_in_its_turn(at_once):
    seen = []
    with SideBySide(at_once) as mapper, pytest.raises(ZeroDivisionError):
        seen.extend(mapper(lambda number: 1 / (2 - number), range(4)))
    assert seen == [0.5, 1.0]


@pytest.mark.parametrize(
    ("threads", "most", "expected"), [(1, 2, (1, 1)), (2, 2, (2, 1)), (5, 2, (2, 2)), (4, 1, (1, 4))]
)
def test_threads_are_shared_out(threads, most, expected):
    before = torch.get_num_threads()
    try:
        assert (share_threads(threads, most), torch.get_num_threads()) == expected
    finally:
        torch.set_num_threads(before)
