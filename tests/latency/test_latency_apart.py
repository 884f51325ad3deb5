"""Subnets measured in another process: the timings come back, and so do its sentences."""

import pytest

from spaceevo.errors import DeviceError
from spaceevo.latency.apart import measure_subnets_apart
from spaceevo.space import parse_space

SPACE = parse_space("tiny-4664-1222")


def test_timings_come_back_in_order():
    pytest.importorskip("onnxruntime")
    found = measure_subnets_apart("cpu", SPACE, [SPACE.largest, SPACE.smallest], 10)
    slow, fast = found.timings
    assert slow.latency_ms > fast.latency_ms > 0 and slow.low_ms <= slow.latency_ms <= slow.high_ms
    assert found.reference is not None and slow.rounds == 21


def test_what_is_wrong_there_is_said_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "far.yaml").write_text("runtime: adb\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="The device far needs adb, which is not on the path"):
        measure_subnets_apart("far", SPACE, [SPACE.smallest], 10)
