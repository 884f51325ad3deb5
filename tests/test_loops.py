"""Loops are compiled once per process and give what they are written to give, spread over threads or not."""

from itertools import chain

import numpy as np
import pytest

from spaceevo.loops import compiled, spread


def test_a_compiled_loop():
    @compiled("f8(f8[::1], i8)")
    def total(values, start):
        found = 0.0
        for i in range(start, len(values)):
            found += values[i]
        return found

    values = np.arange(5.0)
    assert [total(values, 0), total(values, 3)] == [10.0, 7.0]


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("length, least", [(0, 1), (1, 1), (10, 3), (1000, 7)])
def test_parts_cover_everything_once(monkeypatch, threads, length, least):
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    parts = spread(lambda start, stop: list(range(start, stop)), length, least)
    assert list(chain(*parts)) == list(range(length))
    assert len(parts) == 1 or min(map(len, parts)) >= least
    assert len(parts) == max(min(threads, length // least), 1)


def test_an_error_in_a_part_is_raised(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        spread(lambda start, stop: 1 // (10 - stop), 10, 1)
