import sys

import numpy as np
import pytest

from spaceevo.errors import DeviceError, ExportError
from spaceevo.export.runners import load

SUFFIXES = (".onnx", ".tflite")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_batch_equals_its_pictures(exported, suffix):
    case = exported["tiny_0"]
    runner = load(case.file(suffix), threads=1)
    whole = runner.run(case.inputs[:4])
    assert whole.shape == (4, 10)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, np.concatenate([runner.run(x[None]) for x in case.inputs[:4]]))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tensors_have_channels_second(exported, suffix):
    case = exported["swish"]
    tensors = load(case.file(f".debug{suffix}"), threads=2).tensors(case.inputs)
    for node in case.graph.nodes:
        assert tensors[node.output].shape == (2, *case.graph.shapes[node.output])
        assert tensors[node.output].dtype == np.float32


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_invoke_leaves_results_alone(exported, suffix):
    case = exported["tiny_0"]
    runner = load(case.file(suffix), threads=1)
    runner.invoke()
    first = runner.run(case.inputs[:1])
    runner.invoke()
    np.testing.assert_array_equal(runner.run(case.inputs[:1]), first)


@pytest.mark.parametrize(
    ("suffix", "package", "named"),
    [(".onnx", "onnxruntime", "onnxruntime"), (".tflite", "ai_edge_litert.interpreter", "ai-edge-litert")],
)
def test_missing_runtime_is_named(exported, monkeypatch, suffix, package, named):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DeviceError, match=f"{named} is not installed"):
        load(exported["tiny_0"].file(suffix), threads=1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_and_missing_files_are_named(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    with pytest.raises(ExportError, match=f"model{suffix} cannot be read"):
        load(path, threads=1)
    path.write_bytes(b"nonsense" * 100)
    with pytest.raises(ExportError, match=f"model{suffix} cannot be loaded"):
        load(path, threads=1)


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ExportError, match=r"neither a \.onnx nor a \.tflite"):
        load(tmp_path / "model.pt", threads=1)
