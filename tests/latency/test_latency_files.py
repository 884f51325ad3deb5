"""Files for timing: made for where they run, by several processes where they are slow to make."""

import platform
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing

import numpy as np
import psutil
import pytest

from spaceevo.artifacts import Record, read_json, write_json
from spaceevo.errors import DeviceError, ExportError
from spaceevo.latency import files
from spaceevo.latency.devices import SHIPPED, load_device
from spaceevo.latency.files import FileWriter, Sketch, suited_graph, write_sketch
from spaceevo.nn.plan import INPUT, Conv, Plan
from spaceevo.quant.graph import random_graph

PLAN = Plan(16, (Conv("deep", INPUT, "deep", None, 16, 16, 7, 1, 16, True, None),))
TOO_LARGE = Plan(4096, (Conv("large", INPUT, "large", None, 4096, 8189, 1, 1, 1, True, None),))


@pytest.mark.parametrize(
    ("device", "machine", "groups"),
    [
        ("cpu-tflite", "x86_64", 1),
        ("cpu-tflite", "aarch64", 16),
        ("pixel4-adb", "x86_64", 16),
        ("pixel4", "x86_64", 16),
    ],
)
def test_large_depthwise_kernels_depend_on_the_device(monkeypatch, device, machine, groups):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    graph = random_graph(PLAN, 9, np.random.default_rng(0))
    assert suited_graph(graph, load_device(device)).nodes[0].groups == groups


@pytest.mark.parametrize(("system", "groups"), [("Linux x86_64", 1), ("Linux aarch64", 16), (None, 16)])
def test_a_table_is_the_machine_that_its_predictor_was_measured_on(tmp_path, system, groups):
    """As where a device is profiled on one machine, and its networks are trained on another."""
    content = read_json(SHIPPED.parent / "predictors" / "pixel4.json", "latency_predictor")
    machine = {} if system is None else {"machine": {"system": system, "runtime": "ai-edge-litert 2.3.0"}}
    write_json(tmp_path / "server.json", "latency_predictor", content | machine, Record({}))
    (tmp_path / "server.yaml").write_text("runtime: table\npredictor: server.json\n")
    graph = random_graph(PLAN, 9, np.random.default_rng(0))
    assert suited_graph(graph, load_device(tmp_path / "server.yaml")).nodes[0].groups == groups


def orders(folder, count):
    return [(Sketch(PLAN, 5, (7, number), fp32=number == 1), folder / str(number)) for number in range(count)]


def test_several_processes_write_what_one_writes(tmp_path):
    pytest.importorskip("tensorflow")
    device = load_device("cpu-tflite")
    apart, together = tmp_path / "apart", tmp_path / "together"
    for folder in (apart, together):
        folder.mkdir()
    with FileWriter(device, processes=2) as writer:
        written = list(writer.write(orders(together, 4)))
        assert written == [together / f"{number}.tflite" for number in range(4)]
        for sketch, stem in orders(apart, 4):
            path = write_sketch(sketch, device, stem)
            assert path.read_bytes() == (together / path.name).read_bytes()
        assert len({path.read_bytes() for path in written}) == 4

        with closing(writer.write(orders(tmp_path, 40))) as some:  # cut short: nothing is written behind one's back
            assert next(some).is_file()
        left = len(list(tmp_path.glob("*.tflite")))
        time.sleep(0.5)
        assert left == len(list(tmp_path.glob("*.tflite"))) < 20

        with pytest.raises(ExportError, match="cannot take the layer large"):
            list(writer.write([(Sketch(TOO_LARGE, 1, 0), tmp_path / "large")]))


def test_files_that_are_made_fast_are_written_here(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ProcessPoolExecutor", None)
    with FileWriter(load_device("cpu"), processes=2) as writer:
        assert [path.name for path in writer.write(orders(tmp_path, 2))] == ["0.onnx", "1.onnx"]


def test_a_process_that_is_killed_is_one_sentence(tmp_path):
    pytest.importorskip("tensorflow")
    with FileWriter(load_device("cpu-tflite"), processes=2) as writer:
        written = writer.write(orders(tmp_path, 40))
        next(written)
        for process in list(writer._pool._processes.values()):
            process.kill()
        with pytest.raises(DeviceError, match=r"networks for cpu-tflite was killed.* each of 2 needs about a GiB"):
            list(written)


def test_processes_end_with_the_one_that_started_them(tmp_path):
    """Even where that is killed, and can tell them nothing."""
    pytest.importorskip("tensorflow")
    code = """
        import os, signal, sys
        from pathlib import Path
        from spaceevo.latency.devices import SHIPPED, load_device
        from spaceevo.latency.files import FileWriter, reference_sketch

        if __name__ == "__main__":
            writer = FileWriter(load_device("cpu-tflite"), processes=2)
            list(writer.write([(reference_sketch(), Path(sys.argv[1]) / "reference")]))
            print(*writer._pool._processes, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(code))
    run = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    started = [int(pid) for pid in run.stdout.split()]
    assert run.returncode == -signal.SIGKILL and started
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.1)
